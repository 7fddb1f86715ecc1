"""How operands and pairs are dealt out to launches of the fused kernels."""

import itertools

import numpy as np
import pytest

from weighbridge.kernels.gpu.cells import launches

from support.compiled import cells_of, kind_of

STAR = [(1, 0), (2, 0), (3, 0)]
ALL = list(itertools.combinations(range(4), 2))
DTYPES = [["F32", "BF16", "F32", "BF16"], ["F64", "F32", "I32", "F8_E4M3"]]


@pytest.mark.parametrize("codes", [("F32", "BF16"), ("F8_E4M3", "F64"), ("F16", "U8")])
def test_a_pair_of_two_sizes_is_one_launch(codes):
    """Each byte is loaded once, for the self sums too."""
    (launch,) = launches(codes, np.array([[1, 0]]), True)
    assert launch.self_x and launch.self_y and launch.pairs
    assert len(launch.cells) == 1


def test_in_float32_self_sums_are_not_taken_beside_float64():
    """They would be other bits there than those of the operand alone."""
    found = launches(["F64", "F32"], np.array([[1, 0]]), False)
    assert [(each.x, each.y, each.self_x, each.self_y) for each in found] == [
        ("F32", "F64", False, False),
        ("F64", "F64", True, False),
        ("F32", "F32", True, False),
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


@pytest.mark.parametrize(
    ("base", "other", "side"),
    [("F32", "F32", 4), ("BF16", "F32", 4), ("F8_E4M3", "I8", 4), ("F32", "F8_E4M3", 2), ("I8", "F16", 2)],
)
def test_how_many_others_share_a_base(base, other, side):
    """Four of elements of one byte beside wider ones would spill registers (`test_kernels_gpu_compiled`)."""
    found = launches([base] + [other] * 8, np.array([(n, 0) for n in range(1, 9)]), True)
    assert {each.shape for each in found} == {(side, 1)}
    assert sum(len(each.cells) for each in found) == 8 // side


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("dtypes", [["F32"], ["F32", "BF16"], ["F64", "F16", "F8_E4M3"]])
def test_any_operands_and_pairs(dtypes, float64):
    rng = np.random.default_rng(90)
    for _ in range(60):
        codes = [str(code) for code in rng.choice(dtypes, int(rng.integers(1, 11)))]
        pairs = rng.integers(0, len(codes), (int(rng.choice([1, 3, 8, 20, 60])), 2))
        assert_every_sum_is_somebodys_and_only_once(codes, pairs.tolist(), launches(codes, pairs, float64))


def test_the_kinds_of_cells_that_are_known_to_the_tests_are_all():
    """Whatever is asked for, of operands of one dtype; of two, no kinds that those of one do not have."""
    rng = np.random.default_rng(91)
    known = {kind_of(launch)[2:] for launch in cells_of("F32")}
    for dtypes in (["F32"], ["F32", "BF16"]):
        kinds = set()
        for _ in range(200):
            operands = int(rng.integers(1, 11))
            pairs = rng.integers(0, operands, (int(rng.choice([1, 3, 8, 20, 60])), 2))
            found = launches([str(code) for code in rng.choice(dtypes, operands)], pairs, True)
            kinds |= {kind_of(launch)[2:] for launch in found}
        assert kinds <= known


def test_a_square_is_turned_rather_than_compiled_twice():
    found = launches(["F32"] * 4, np.array(ALL), True)
    assert [(each.shape, each.self_x, each.self_y, len(each.cells)) for each in found] == [
        ((2, 2), True, False, 2),
        ((2, 2), False, False, 1),
    ]
    assert found[0].cells[:, :8].tolist() == [[0, 1, 0, 1, 0, 1, -1, -1], [2, 3, 0, 1, 2, 3, -1, -1]]
