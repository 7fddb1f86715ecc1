"""The undirected tree: true edges, and how sure they are said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.engine.lineage.graph import outward, path, side

from support.descent import SHAPES, fresh, parents, relations, step, tree_of


@st.composite
def descents(draw):
    """Parents of nodes 1, 2 ...: a tree of up to 9, and the size of each step."""
    count = draw(st.integers(2, 9))
    older = [draw(st.integers(0, number - 1)) for number in range(1, count)]
    sizes = [10.0 ** draw(st.floats(-4.0, -1.5)) for _ in older]
    return older, sizes, draw(st.integers(0, 1000))


def grown(older, sizes, seed):
    family = {"n0": fresh(seed)}
    for number, (parent, size) in enumerate(zip(older, sizes, strict=True), start=1):
        family[f"n{number}"] = step(family[f"n{parent}"], [seed, number], size)
    return family


@settings(max_examples=40, deadline=None)
@given(descents())
def test_a_tree_of_steps_is_found_from_its_root(made):
    """Step sizes over two decades and a half: edges and directions that are said to be sure are right."""
    older, sizes, seed = made
    tree = tree_of(grown(older, sizes, seed), base="n0")
    assert set(relations(tree).values()) <= {"root", "step"} and tree.roots == (0,)
    true = {(parent, number) for number, parent in enumerate(older, start=1)}
    for number in range(1, len(tree.nodes)):
        (said,) = tree.nodes[number].parents
        if said.support >= 0.95:
            assert {(said.node, number), (number, said.node)} & true, (number, said)
            assert said.direction < 0.95 or (said.node, number) in true, (number, said)


def test_a_shuffled_family_has_the_same_tree():
    family = grown([0, 0, 1, 1, 2, 4], [1e-3, 2e-3, 1e-3, 3e-3, 1e-3, 2e-3], 5)
    expected = parents(tree_of(family, base="n0"))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(list(family))
        assert parents(tree_of({label: family[label] for label in order}, base="n0")) == expected
    assert expected == {"n1": ["n0"], "n2": ["n0"], "n3": ["n1"], "n4": ["n1"], "n5": ["n2"], "n6": ["n4"]}


def test_what_was_left_untouched_counts_for_more_than_distance():
    """n2 took a large step from n0 in one tensor only; n1 is n0 with all others moved a little, and lies nearer."""
    start = fresh(1)
    sibling = step(start, 2, 1e-5)
    child = step(start, 3, 1e-2, only={"dense"})
    # Half of what n1 moved in that tensor leans the way of the child's step.
    sibling["dense"] = start["dense"] + 0.01 * (child["dense"] - start["dense"])
    family = {"n0": start, "n1": sibling, "n2": child}
    apart = {label: sum(((child[name] - family[label][name]) ** 2).sum() for name in SHAPES) for label in ("n0", "n1")}
    assert apart["n1"] < apart["n0"]
    assert parents(tree_of(family, base="n0")) == {"n1": ["n0"], "n2": ["n0"]}


def test_an_edge_that_cannot_be_told_says_so():
    """n1 lies a thousandth of the step from n0 to n2 away from n0: from which of them n2 came, nobody can tell."""
    start = fresh(1)
    family = {"n0": start, "n1": step(start, 2, 1e-5), "n2": step(start, 3, 1e-2), "n3": step(start, 4, 1e-2)}
    tree = tree_of(family, base="n0")
    for label, other in (("n2", "n3"), ("n3", "n2")):
        (parent,) = tree.nodes[tree.labels.index(label)].parents
        assert 0.5 <= parent.support < 0.9
        told = {(tree.labels[a], tree.labels[b]) for a, b, _ in parent.alternatives}
        assert told >= {({"n0": "n1", "n1": "n0"}[tree.labels[parent.node]], label)}
        assert (other, label) not in told
    (parent,) = tree.nodes[1].parents
    assert parent.node == 0 and parent.support > 0.99 and parent.alternatives == ()


def test_a_direction_hangs_on_the_edges_before_it():
    """n2 is n1 moved by a hundredth of n1's step: which of them came from n0 first, nobody can tell."""
    start = fresh(1)
    middle = step(start, 2, 1e-2)
    tree = tree_of({"n0": start, "n1": middle, "n2": step(middle, 3, 1e-5)}, base="n0")
    first, second = sorted((node.parents[0] for node in tree.nodes[1:]), key=lambda parent: parent.node)
    assert first.node == 0 and second.node in (1, 2)
    (doubt,) = first.alternatives
    assert second.support > 0.99 and second.direction == pytest.approx(1.0 - doubt[2]) and second.direction < 0.9


def test_children_of_one_parent_lean_together():
    """Three children whose steps share a direction, one of them small: each hangs on the parent, none on the small."""
    start = fresh(3)
    common = {name: np.random.default_rng(9).standard_normal(size) for name, size in SHAPES.items()}

    def child(seed, size):
        alone = {name: np.random.default_rng([seed, size_]).standard_normal(size_) for name, size_ in SHAPES.items()}
        return {
            name: start[name] + size * (np.sqrt(0.017) * common[name] + np.sqrt(1 - 0.017) * alone[name])
            for name in start
        }

    small, one, two = child(1, 1e-4), child(2, 5e-3), child(3, 5e-3)
    tree = tree_of({"start": start, "small": small, "one": one, "two": two}, base="start")
    assert parents(tree) == {"small": ["start"], "one": ["start"], "two": ["start"]}


def test_unrelated_ones_are_roots_of_their_own():
    family = {f"u{number}": fresh(number) for number in range(4)}
    tree = tree_of(family)
    assert set(relations(tree).values()) == {"root"} and all(node.root == 1.0 for node in tree.nodes)
    family["child"] = step(family["u2"], 9)
    tree = tree_of(family, base="u2")
    assert parents(tree) == {"child": ["u2"]} and len(tree.roots) == 4


def test_equal_norm_weights_make_no_relatives():
    """Layer norms start as ones and biases as zeros in every model."""
    family = {f"u{number}": {**fresh(number), "ones": np.full(500, 0.1), "zeros": np.zeros(500)} for number in range(3)}
    assert set(relations(tree_of(family)).values()) == {"root"}


def test_a_far_descendant_is_still_a_relative():
    """A run that has moved the weights as far as their own length leaves a correlation of 0.7."""
    start = fresh(1)
    assert parents(tree_of({"start": start, "far": step(start, 2, 0.05)}, base="start")) == {"far": ["start"]}


@pytest.mark.parametrize("edges", [[], [(0, 1)], [(0, 1), (1, 2), (1, 3), (4, 5)]])
def test_graph(edges):
    assert path(edges, 0, 0) == [0]
    assert path(edges, 0, 5) == []
    if len(edges) == 4:
        assert path(edges, 3, 0) == [3, 1, 0] and path(edges, 2, 3) == [2, 1, 3]
        assert side(edges, (1, 0)) == {1, 2, 3} and side(edges, (0, 1)) == {0} and side(edges, (4, 5)) == {4}
        assert outward(edges, 2) == [(2, 1), (1, 0), (1, 3)]
