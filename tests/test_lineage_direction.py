"""Which way edges lead, without a base."""

import math

import numpy as np
import pytest

from weighbridge.engine.lineage.direction import CERTAIN, lean, right_angle, root_probabilities

from support.descent import SHAPES, family, fresh, parents, rounded, step, tree_of


@pytest.mark.parametrize("decay", [0.0, 1e-4, 1e-2])
def test_the_parent_is_where_the_right_angle_is(decay):
    """With decay the child is the shorter of the two, and still known for the child."""
    start = fresh(1)
    seen = family({"a": start, "b": step(start, 2, 5e-3, decay)})
    shorter = seen.selfs[:, 1, 3].sum() < seen.selfs[:, 0, 3].sum()
    assert shorter == (decay == 1e-2)
    assert right_angle(seen, 0, 1) > 1.5
    assert right_angle(seen, 1, 0) == pytest.approx(-right_angle(seen, 0, 1), rel=0.05)


def test_a_step_along_the_weights_tells_nothing():
    """The child is the parent, each tensor times a factor of its own: no angle is right."""
    start = fresh(1)
    factors = dict(zip(SHAPES, (1.01, 1.03, 0.98, 1.05, 0.97, 1.02), strict=True))
    scaled = {name: factors[name] * weights for name, weights in start.items()}
    assert abs(right_angle(family({"a": start, "b": scaled}), 0, 1)) < 0.2


def test_few_tensors_tell_nothing():
    start = {"a": fresh(1)["dense"], "b": fresh(2)["other"], "c": fresh(3)["more"]}
    assert right_angle(family({"x": start, "y": step(start, 4)}), 0, 1) == 0.0


def leaning(seed, share):
    common = {name: np.random.default_rng(99).standard_normal(size) for name, size in SHAPES.items()}
    alone = {name: np.random.default_rng([seed, size]).standard_normal(size) for name, size in SHAPES.items()}
    return {name: 2e-3 * (math.sqrt(share) * common[name] + math.sqrt(1 - share) * alone[name]) for name in SHAPES}


def moved(parent, by):
    return {name: parent[name] + by[name] for name in parent}


def test_siblings_lean_together_and_generations_apart():
    start = fresh(1)
    one, two = moved(start, leaning(1, 0.1)), moved(start, leaning(2, 0.1))
    further = moved(one, leaning(3, 0.1))
    seen = family({"start": start, "one": one, "two": two, "further": further})
    assert lean(seen, 0, 1, 2) > 1.0 and lean(seen, 1, 0, 3) < -1.0
    assert lean(seen, 0, 1, 2) == lean(seen, 0, 2, 1)
    straight = family({"start": start, "one": step(start, 5), "two": step(start, 6)})
    assert abs(lean(straight, 0, 1, 2)) < 0.5


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_the_root_of_a_family_is_found(decay):
    start = fresh(4)
    a, b = step(start, 1, 4e-3, decay), step(start, 2, 3e-3, decay)
    aa, ab, bb = step(a, 3, 4e-3, decay), step(a, 4, 2e-3, decay), step(b, 5, 3e-3, decay)
    tree = tree_of({"bb": bb, "ab": ab, "aa": aa, "b": b, "a": a, "start": start})
    assert parents(tree) == {"a": ["start"], "b": ["start"], "aa": ["a"], "ab": ["a"], "bb": ["b"]}
    assert tree.nodes[5].root > 0.6
    assert sum(node.root for node in tree.nodes) == pytest.approx(1.0)
    for node in tree.nodes:
        for parent in node.parents:
            # On whose side the root is, is what an edge's direction means.
            assert parent.direction >= tree.nodes[5].root - 1e-12 or parent.support < 1


def test_two_that_tell_nothing_are_even():
    start = {"only": fresh(1)["dense"]}
    tree = tree_of({"x": start, "y": step(start, 2)})
    assert [node.root for node in tree.nodes] == [0.5, 0.5]
    assert parents(tree) == {"y": ["x"]} and tree.nodes[1].parents[0].direction == 0.5


def test_a_rounded_copy_is_never_the_older():
    start = fresh(1)
    half = rounded(start)
    tree = tree_of({"half": half, "start": start}, dtypes={"half": "F16"})
    assert parents(tree) == {"half": ["start"]} and tree.nodes[0].parents[0].direction > 1 - 1e-6
    assert tree.nodes[0].relation == "rounded" and tree.nodes[0].dtype == "F16"


def test_what_holds_rounded_values_came_after_the_rounding():
    """A float32 run from the float16 copy that left the embeddings as they were."""
    start = fresh(1)
    half = rounded(start)
    run = step(half, 2, 1e-3, only=set(SHAPES) - {"embed"})
    tree = tree_of({"run": run, "half": half}, dtypes={"half": "F16"})
    assert parents(tree) == {"run": ["half"]} and tree.nodes[0].parents[0].direction > 1 - 1e-6
    assert tree.nodes[0].relation == "step"


def test_the_roots_share_is_of_evidence_on_each_edge():
    """A chain 0 - 1 - 2 with a ratio of e^2 for 0 -> 1, none for the other edge, and no pairs."""
    found = root_probabilities(
        [(0, 1), (1, 2)], lambda u, v: 0.0, lambda u, v: {(0, 1): 2.0, (1, 0): -2.0}.get((u, v), 0.0), lambda *_: 0.0
    )
    assert found[1] == found[2] and found[0] / found[1] == pytest.approx(math.exp(2.0))
    found = root_probabilities([(0, 1)], lambda u, v: CERTAIN * (v - u), lambda u, v: 0.0, lambda *_: 0.0)
    assert found[1] == pytest.approx(math.exp(-CERTAIN))
