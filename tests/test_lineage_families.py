"""A real family: MiniLM trained along a tree, merged, copied, rounded, and one that is not related."""

import numpy as np
import pytest

import weighbridge

from measuring.families import Born, family, write_family
from measuring.judging import Found, judge
from support import minilm

MEMBERS = [
    Born("start", "start"),
    Born("a", "train", ("start",), steps=3, rate=5e-5, decay=0.01, seed=11),
    Born("b", "train", ("start",), steps=2, rate=1e-4, trained="encoder", seed=12),
    Born("aa", "train", ("a",), steps=2, rate=1e-4, decay=0.1, seed=13),
    Born("merge", "merge", ("aa", "b"), weights=(0.6, 0.4)),
    Born("after", "train", ("merge",), steps=2, rate=5e-5, seed=14),
    Born("copy", "copy", ("b",)),
    Born("half", "F16", ("a",)),
    Born("fresh", "fresh", seed=15),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_family(MEMBERS, minilm.folder(), tmp_path_factory.mktemp("family"))


def judged(paths, base):
    order = np.random.default_rng(0).permutation(len(paths)).tolist()
    if base:
        order = [0, *(number for number in order if number)]
    tree = weighbridge.lineage([paths[number] for number in order], base=paths[0] if base else None)
    return judge(tree, MEMBERS, [MEMBERS[number].name for number in order])


@pytest.mark.parametrize("base", [True, False])
def test_the_tree_of_a_real_family(paths, base):
    verdict = judged(paths, base)
    assert verdict.edges == verdict.directed == Found(7, 7, 7)
    assert verdict.merges == verdict.copies == verdict.rounded == Found(1, 1, 1)


def test_the_judge_would_notice(paths):
    """The same tree judged by another family: b from a, another weight, a copy of something else."""
    tree = weighbridge.lineage(paths, base=paths[0])
    names = [member.name for member in MEMBERS]
    other = {
        "b": Born("b", "train", ("a",)),
        "merge": Born("merge", "merge", ("aa", "b"), weights=(0.5, 0.5)),
        "copy": Born("copy", "copy", ("aa",)),
        "half": Born("half", "BF16", ("b",)),
    }
    verdict = judge(tree, [other.get(member.name, member) for member in MEMBERS], names)
    assert verdict.edges.right < 7 and verdict.directed.right < 7
    assert verdict.merges == verdict.copies == verdict.rounded == Found(1, 1, 0)
    turned = judge(tree, [Born("start", "train", ("a",)), Born("a", "start"), *MEMBERS[2:]], names)
    assert (turned.edges.right, turned.directed.right) == (7, 6)


def test_families_are_as_told():
    members = family(21)
    assert members == family(21) != family(22) and len(members) == 27
    hows = [member.how for member in members]
    assert {how: hows.count(how) for how in dict.fromkeys(hows)} == {
        "start": 1,
        "train": 19,
        "merge": 2,
        "copy": 2,
        "F16": 1,
        "BF16": 1,
        "fresh": 1,
    }
    known = set()
    for member in members:
        assert known >= set(member.parents) and member.name not in known
        known.add(member.name)
