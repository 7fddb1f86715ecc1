"""How operands and pairs are dealt out to launches of the fused kernels."""

import itertools
from collections import Counter

import numpy as np
import pytest

from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.gpu.cells import launches, single
from weighbridge.kernels.wanted import Wanted

from support.compiled import every_kernel, kernel_of

STAR = [(1, 0), (2, 0), (3, 0)]
ALL = list(itertools.combinations(range(4), 2))
DTYPES = [["F32", "BF16", "F32", "BF16"], ["F64", "F32", "I32", "F8_E4M3"]]


@pytest.mark.parametrize("codes", [("F32", "BF16"), ("F8_E4M3", "F64"), ("F16", "U8")])
def test_a_pair_of_two_sizes_is_one_launch(codes):
    """Each byte is loaded once, for the self sums too."""
    (launch,) = launches(codes, np.array([[1, 0]]), True)
    assert launch.self_x and launch.self_y and launch.pairs
    assert len(launch.cells) == 1


def test_in_float32_self_sums_are_nobodys_beside_float64():
    """They are other bits there than those of the operand alone."""
    found = launches(["F64", "F32"], np.array([[1, 0]]), False)
    assert [(each.x, each.y, each.pairs, each.cells.tolist()) for each in found] == [
        ("F32", "F64", True, [[1, 1, 0, -1, -1, -1, 2, -1]]),
        ("F64", "F64", False, [[0, 0, 0, -1, -1]]),
        ("F32", "F32", False, [[1, 1, 1, -1, -1]]),
    ]


def assert_every_sum_is_somebodys_and_only_once(codes, pairs, found):
    columns = {}
    for launch in found:
        a, b = launch.shape
        for cell in launch.cells.tolist():
            xs, ys, places = cell[:a], cell[a : a + b], cell[a + b :]
            assert {codes[n] for n in xs} == {launch.x} and (not launch.pairs or {codes[n] for n in ys} == {launch.y})
            sums = zip([*xs, *ys, *itertools.product(xs, ys)], places, strict=True)
            for whose, column in sums:
                if column >= 0:
                    assert column not in columns
                    columns[column] = whose
            assert launch.self_x or max(places[:a]) < 0
            assert launch.self_y or max(places[a : a + b]) < 0
    expected = [*range(len(codes)), *map(sorted, pairs)]
    assert [columns[n] if n < len(codes) else sorted(columns[n]) for n in range(len(expected))] == expected
    assert len(columns) == len(expected)


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("pairs", [[], STAR, ALL, [(1, 1), (1, 0), (0, 1)]], ids=["none", "star", "all", "repeated"])
@pytest.mark.parametrize("codes", DTYPES)
def test_every_sum_is_somebodys_and_only_once(codes, pairs, float64):
    found = launches(codes, np.array(pairs, np.int64).reshape(-1, 2), float64)
    assert_every_sum_is_somebodys_and_only_once(codes, pairs, found)
    assert_every_sum_is_somebodys_and_only_once(codes, pairs, single(found))


@pytest.mark.parametrize(
    ("base", "other", "side"),
    [
        ("F32", "F32", 4),
        ("I8", "I8", 4),
        ("BF16", "F32", 2),
        ("F32", "F8_E4M3", 2),
        ("U8", "U8", 2),
        ("I16", "U16", 2),
        ("F64", "F32", 2),
        ("F32", "I32", 2),
    ],
)
def test_how_many_others_share_a_base(base, other, side):
    found = launches([base] + [other] * 8, np.array([(n, 0) for n in range(1, 9)]), True)
    (between,) = [each for each in found if each.pairs]
    assert between.shape == (side, 1) and len(between.cells) == 8 // side


@pytest.mark.parametrize(
    ("x", "y", "float64", "formats"),
    [
        ("F32", "F32", True, ("F32", "F32")),
        ("I8", "I8", True, ("I8", "I8")),
        ("U8", "U8", True, ("ANY8", "ANY8")),
        ("F32", "BF16", True, ("ANY16", "F32")),
        ("BF16", "F32", True, ("ANY16", "F32")),
        ("F8_E5M2", "F8_E4M3", True, ("ANY8", "ANY8")),
        ("BF16", "F64", True, ("ANY16", "ANY64")),
        ("U32", "I32", True, ("ANY32", "ANY32")),
        ("F32", "I32", True, ("F32", "ANY32")),
        ("I8", "F32", True, ("ANY8", "F32")),
        ("F32", "F32", False, ("F32", "F32")),
        ("F32", "BF16", False, ("ANY16", "F32")),
        ("F8_E5M2", "F8_E5M2", False, ("ANY8", "ANY8")),
        ("F64", "BF16", False, ("ANY16", "ANY64")),
    ],
)
def test_what_kernels_are_compiled_for(x, y, float64, formats):
    """What weights are stored in; for the rest, sizes; and a pair in one order."""
    launch = launches([x, y], np.array([[1, 0]]), float64)[0]
    assert launch.formats == formats and {launch.x, launch.y} == {x, y}


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("dtypes", [["F32"], ["F32", "BF16"], ["F64", "F16", "F8_E4M3"]])
def test_any_operands_and_pairs(dtypes, float64):
    rng = np.random.default_rng(90)
    for _ in range(60):
        codes = [str(code) for code in rng.choice(dtypes, int(rng.integers(1, 11)))]
        pairs = rng.integers(0, len(codes), (int(rng.choice([1, 3, 8, 20, 60])), 2))
        assert_every_sum_is_somebodys_and_only_once(codes, pairs.tolist(), launches(codes, pairs, float64))


def test_the_kernels_that_are_known_to_the_tests_are_all():
    """Whatever is asked for, of any dtypes."""
    rng = np.random.default_rng(91)
    known = {kernel_of(*each) for each in every_kernel()}
    assert Counter(compensated for compensated, *_ in known) == {False: 81, True: 42}
    for _ in range(2000):
        operands = int(rng.integers(1, 11))
        star = np.array([(n, 0) for n in range(1, operands)], np.int64).reshape(-1, 2)
        some = rng.integers(0, operands, (int(rng.choice([0, 1, 3, 8, 20, 60])), 2))
        dtypes = rng.choice(list(DECODERS), int(rng.integers(1, 4)))
        codes = [str(code) for code in rng.choice(dtypes, operands)]
        found = launches(codes, star if rng.random() < 0.5 else some, rng.random() < 0.5)
        assert {kernel_of(launch, Wanted(int(rng.integers(1, 128)))) for launch in found} <= known


def test_all_pairs_are_squares_and_operands_alone():
    found = launches(["F32"] * 4, np.array(ALL), True)
    assert [(each.shape, each.self_x, each.self_y, len(each.cells)) for each in found] == [
        ((2, 2), False, False, 3),
        ((1, 1), True, False, 4),
    ]
    assert found[0].cells[:, :4].tolist() == [[0, 1, 0, 1], [0, 1, 2, 3], [2, 3, 2, 3]]


@pytest.mark.parametrize(
    ("others", "kinds"),
    [
        (1, [((1, 1), True, True, 1)]),
        (2, [((2, 1), True, True, 1)]),
        (3, [((2, 1), True, True, 2)]),
        (6, [((2, 1), True, True, 3)]),
        (7, [((4, 1), True, False, 2), ((1, 1), True, False, 1)]),
        (16, [((4, 1), True, False, 4), ((1, 1), True, False, 1)]),
    ],
)
def test_the_base_of_many_is_read_alone_for_its_own_sums(others, kinds):
    found = launches(["F32"] * (others + 1), np.array([(n, 0) for n in range(1, others + 1)]), True)
    assert [(each.shape, each.self_x, each.self_y, len(each.cells)) for each in found] == kinds
