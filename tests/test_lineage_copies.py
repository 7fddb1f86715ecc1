"""Copies, rounded copies and merges: named as such, and nothing else named so."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.engine.lineage.copies import equal_groups, is_rounded

from support.descent import SHAPES, family, fresh, parents, relations, rounded, step, tree_of


def float32(weights):
    return {name: values.astype(np.float32).astype(np.float64) for name, values in weights.items()}


def bfloat16(values):
    return torch.from_numpy(values).to(torch.bfloat16).double().numpy()


def blend(one, other, share):
    return {name: share * one[name] + (1.0 - share) * other[name] for name in one}


@pytest.fixture
def start():
    return float32(fresh(1))


def test_one_checkpoint():
    tree = tree_of({"alone": fresh(1)})
    assert relations(tree) == {"alone": "root"} and tree.roots == (0,) and tree.nodes[0].root == 1.0


def test_all_equal(start):
    tree = tree_of(dict.fromkeys("abcd", start))
    assert relations(tree) == {"a": "root", "b": "copy", "c": "copy", "d": "copy"}
    assert parents(tree) == {label: ["a"] for label in "bcd"}
    assert all(node.parents[0].direction is None for node in tree.nodes[1:]), "equal checkpoints have no order"


def test_the_base_leads_its_copies(start):
    tree = tree_of({"a": start, "b": start, "child": step(start, 2)}, base="b")
    assert relations(tree) == {"a": "copy", "b": "root", "child": "step"}
    assert parents(tree) == {"a": ["b"], "child": ["b"]}


def test_one_element_makes_no_copy(start):
    other = {name: values.copy() for name, values in start.items()}
    other["norm"][3] = np.nextafter(np.float32(other["norm"][3]), np.float32(2))
    assert relations(tree_of({"a": start, "b": other}, base="a")) == {"a": "root", "b": "step"}


def test_nan_is_no_copy_and_is_told(start):
    broken = {**start, "norm": np.where(np.arange(400) == 7, np.nan, start["norm"])}
    tree = tree_of({"a": start, "b": broken, "c": broken}, base="a")
    assert parents(tree)["b"] == ["a"] and "copy" not in relations(tree).values()
    assert sum("NaN" in note for note in tree.notes) == 2 and tree.notes[0].startswith("tensors of b hold NaN")


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "F16"), (None, "BF16")])
def test_half_precision_copies(start, dtype, name):
    child = float32(step(start, 2, 1e-4))
    half = {key: bfloat16(values) for key, values in child.items()} if dtype is None else rounded(child, dtype)
    tree = tree_of({"half": half, "start": start, "child": child}, base="start", dtypes={"half": name})
    assert parents(tree) == {"child": ["start"], "half": ["child"]}
    assert relations(tree)["half"] == "rounded" and tree.nodes[0].dtype == name


def test_two_rounded_copies_of_one(start):
    """bfloat16 lies as near to the float16 copy as to the weights themselves: both are copies of the weights."""
    halves = {"f16": rounded(start), "bf16": {name: bfloat16(values) for name, values in start.items()}}
    tree = tree_of({**halves, "start": start}, dtypes={"f16": "F16", "bf16": "BF16"})
    assert parents(tree) == {"f16": ["start"], "bf16": ["start"]}
    assert [node.dtype for node in tree.nodes] == ["F16", "BF16", None]


def test_trained_in_half_precision_is_no_rounded_copy(start):
    moved = rounded(step(start, 2, 1e-3))
    tree = tree_of({"start": start, "moved": moved}, base="start", dtypes={"moved": "F16"})
    assert relations(tree) == {"start": "root", "moved": "step"}


def test_one_tensor_beyond_rounding_is_enough(start):
    half = rounded(start)
    half["norm"] = half["norm"].copy()
    half["norm"][0] += 5e-4  # twice what rounding can do to the largest of them, and too little for the mean square
    assert is_rounded(family({"h": rounded(start), "s": start}, {"h": "F16"}), 0, 1) == "F16"
    assert is_rounded(family({"h": half, "s": start}, {"h": "F16"}), 0, 1) is None
    assert is_rounded(family({"h": rounded(start), "s": start}, {"h": "F16"}), 1, 0) is None


def test_the_same_values_in_more_bits_are_a_copy(start):
    """A float16 file widened to float32: equal values, led by the narrow one, which was rounded from the start."""
    half = rounded(start)
    tree = tree_of({"wide": half, "half": half, "start": start}, dtypes={"half": "F16"})
    assert parents(tree) == {"wide": ["half"], "half": ["start"]}
    assert relations(tree) == {"wide": "copy", "half": "rounded", "start": "root"}


def test_a_base_that_is_itself_a_rounded_copy_is_told(start):
    tree = tree_of({"half": rounded(start), "start": start}, base="half", dtypes={"half": "F16"})
    assert parents(tree) == {"start": ["half"]}
    assert tree.notes == ("half is start rounded; it is the root because it was given as the base",)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(0, 100))
def test_an_average_of_two_is_a_merge_with_its_weights(share, seed):
    start = float32(fresh(seed))
    one, two = float32(step(start, [seed, 1], 2e-3)), float32(step(start, [seed, 2], 1e-3))
    merged = float32(blend(one, two, share))
    tree = tree_of({"merged": merged, "one": one, "two": two, "start": start}, base="start")
    assert relations(tree) == {"merged": "merge", "one": "step", "two": "step", "start": "root"}
    weights = {tree.labels[parent.node]: parent.weight for parent in tree.nodes[0].parents}
    assert weights == pytest.approx({"one": share, "two": 1.0 - share}, abs=1e-3)
    assert tree.nodes[0].parents[0].weight >= 0.5
    assert parents(tree)["one"] == parents(tree)["two"] == ["start"], "the merge lies between them, and is no parent"


def test_what_goes_on_from_a_merge(start):
    one, two = float32(step(start, 2, 2e-3)), float32(step(start, 3, 1e-3))
    merged = float32(blend(one, two, 0.6))
    further = float32(step(merged, 4, 5e-4))
    last = float32(step(further, 5, 2e-3))
    made = {"start": start, "one": one, "two": two, "merged": merged, "further": further, "last": last}
    expected = {
        "one": ["start"],
        "two": ["start"],
        "merged": ["one", "two"],
        "further": ["merged"],
        "last": ["further"],
    }
    assert parents(tree_of(made, base="start")) == expected
    free = tree_of(dict(reversed(made.items())))
    assert {label: found for label, found in parents(free).items() if label not in ("start", "one")} == {
        label: found for label, found in expected.items() if label != "one"
    }


@pytest.mark.parametrize("seed", range(6))
def test_two_merges_of_the_same_parents(start, seed):
    """All four lie on one line: the ends are the parents."""
    one, two = float32(step(start, [seed, 2], 2e-3)), float32(step(start, [seed, 3], 2e-3))
    made = {"m3": blend(one, two, 0.3), "m6": blend(one, two, 0.6), "one": one, "two": two, "start": start}
    found = parents(tree_of({label: float32(weights) for label, weights in made.items()}, base="start"))
    assert found == {"m3": ["two", "one"], "m6": ["one", "two"], "one": ["start"], "two": ["start"]}


def test_a_base_is_no_merge(start):
    one, two = float32(step(start, 2, 2e-3)), float32(step(start, 3, 1e-3))
    tree = tree_of({"one": one, "two": two, "middle": float32(blend(one, two, 0.5))}, base="middle")
    assert relations(tree) == {"one": "step", "two": "step", "middle": "root"}


def test_a_merge_of_a_merge(start):
    one, two, three = (float32(step(start, seed, 1e-3)) for seed in (2, 3, 4))
    first = float32(blend(one, two, 0.5))
    second = float32(blend(first, three, 0.7))
    made = {"second": second, "first": first, "one": one, "two": two, "three": three, "start": start}
    found = parents(tree_of(made, base="start"))
    assert found["second"] == ["first", "three"] and sorted(found["first"]) == ["one", "two"]


def test_a_point_between_ancestor_and_descendant(start):
    """Interpolation, as in WiSE-FT: a merge of the start and of what came of it."""
    tuned = float32(step(float32(step(start, 2, 1e-3)), 3, 1e-3))
    middle = float32(step(start, 2, 1e-3))
    between = float32(blend(start, tuned, 0.75))
    tree = tree_of({"start": start, "middle": middle, "tuned": tuned, "between": between}, base="start")
    assert parents(tree) == {"middle": ["start"], "tuned": ["middle"], "between": ["start", "tuned"]}


def test_a_merge_stored_in_half_precision(start):
    one, two = float32(step(start, 2, 5e-3)), float32(step(start, 3, 5e-3))
    merged = rounded(blend(one, two, 0.5))
    tree = tree_of({"start": start, "one": one, "two": two, "m": merged}, base="start", dtypes={"m": "F16"})
    assert relations(tree)["m"] == "merge"
    assert [parent.weight for parent in tree.nodes[3].parents] == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_soup_of_several(start):
    """Three children of one parent averaged, and a run that goes on from there."""
    children = {f"c{number}": float32(step(start, number, number * 1e-3)) for number in (1, 2, 3)}
    shares = {"c1": 0.5, "c2": 0.3, "c3": 0.2}
    soup = float32({name: sum(w * children[c][name] for c, w in shares.items()) for name in start})
    further = float32(step(soup, 9, 2e-3))
    tree = tree_of({"further": further, "soup": soup, **children, "start": start}, base="start")
    found = {label: ["start"] for label in children}
    assert parents(tree) == {**found, "soup": ["c1", "c2", "c3"], "further": ["soup"]}
    assert relations(tree)["soup"] == "merge"
    assert [parent.weight for parent in tree.nodes[1].parents] == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)


def test_a_moving_average_of_a_run(start):
    """Its checkpoints hang on each other, and the average on the last of them."""
    run = [start]
    for number in range(4):
        run.append(float32(step(run[-1], number, 1e-3)))
    average = run[0]
    for weights in run[1:]:
        average = float32(blend(average, weights, 0.5))
    made = {f"s{number}": weights for number, weights in enumerate(run)}
    tree = tree_of({**made, "ema": average}, base="s0")
    assert parents(tree) == {
        **{f"s{number}": [f"s{number - 1}"] for number in range(1, 5)},
        "ema": ["s4", "s3", "s2", *sorted(("s0", "s1"), key=parents(tree)["ema"].index)],
    }
    shares = {tree.labels[parent.node]: parent.weight for parent in tree.nodes[-1].parents}
    assert shares == pytest.approx({"s4": 0.5, "s3": 0.25, "s2": 0.125, "s1": 0.0625, "s0": 0.0625}, abs=1e-3)


def test_near_a_line_is_no_merge(start):
    """An average moved by a hundredth of the way is a step, from the average or elsewhere."""
    one, two = float32(step(start, 2, 2e-3)), float32(step(start, 3, 2e-3))
    near = float32(step(blend(one, two, 0.5), 4, 2e-5))
    assert "merge" not in relations(tree_of({"start": start, "one": one, "two": two, "near": near})).values()


def test_missing_tensors(start):
    """A head that one has and a part that another lacks; what both have decides."""
    child = {**float32(step(start, 2, 1e-3)), "head": np.full(50, 0.1)}
    grandchild = {
        name: values for name, values in float32(step(child, 3, 1e-3)).items() if name not in ("more", "head")
    }
    part = {name: values for name, values in start.items() if name != "bias"}
    tree = tree_of({"start": start, "child": child, "grandchild": grandchild, "part": part}, base="start")
    assert parents(tree) == {"child": ["start"], "grandchild": ["child"], "part": ["start"]}
    assert relations(tree)["part"] == "part"
    assert tree.notes == (
        "4 of 4 different checkpoints lack tensors of others or have more; distances are over what two share, and "
        "merges are looked for among those with the same tensors",
    )


def test_no_tensor_in_common():
    tree = tree_of({"a": {"x": np.ones(3)}, "b": {"y": np.ones(3)}})
    assert set(relations(tree).values()) == {"root"}
    assert set(relations(tree_of({"a": {}, "b": {}})).values()) == {"root"}


def test_groups(start):
    half = rounded(start)
    seen = family({"a": half, "b": start, "c": half, "d": start}, {"c": "F16"})
    assert equal_groups(seen) == [[2, 0], [1, 3]] and equal_groups(seen, base=3) == [[2, 0], [3, 1]]
    assert equal_groups(family({name: {name: np.ones(2)} for name in SHAPES})) == [[n] for n in range(len(SHAPES))]
