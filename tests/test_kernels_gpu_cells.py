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


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("pairs", [[], STAR, ALL, [(1, 1), (1, 0), (0, 1)]], ids=["none", "star", "all", "repeated"])
@pytest.mark.parametrize("codes", DTYPES)
def test_every_sum_is_somebodys_and_only_once(codes, pairs, float64):
    columns = []
    for launch in launches(codes, np.array(pairs, np.int64).reshape(-1, 2), float64):
        operands = sum(launch.shape)
        columns += [c for c in launch.cells[:, operands:].ravel().tolist() if c >= 0]
    assert sorted(columns) == list(range(len(codes) + len(pairs)))


@pytest.mark.parametrize(
    ("base", "other", "side"),
    [("F32", "F32", 4), ("BF16", "F32", 4), ("F8_E4M3", "I8", 4), ("F32", "F8_E4M3", 2), ("I8", "F16", 2)],
)
def test_how_many_others_share_a_base(base, other, side):
    """Four of elements of one byte beside wider ones would spill registers (`test_kernels_gpu_compiled`)."""
    found = launches([base] + [other] * 8, np.array([(n, 0) for n in range(1, 9)]), True)
    assert {each.shape for each in found} == {(side, 1)}
    assert sum(len(each.cells) for each in found) == 8 // side


@pytest.mark.parametrize("seed", range(20))
def test_what_is_compiled_ahead_is_every_kind_of_cell(seed):
    """Whatever is asked for, of operands of one dtype; of two, no kinds that those do not have of one."""
    rng = np.random.default_rng(seed)
    known = {kind_of(launch)[2:] for launch in cells_of("F32")}
    for codes in (["F32"], ["F32", "BF16"]):
        for _ in range(50):
            operands = int(rng.integers(1, 11))
            pairs = rng.integers(0, operands, (int(rng.choice([1, 3, 8, 20, 60])), 2))
            found = launches([str(code) for code in rng.choice(codes, operands)], pairs, True)
            assert {kind_of(launch)[2:] for launch in found} <= known


def test_a_square_is_turned_rather_than_compiled_twice():
    found = launches(["F32"] * 4, np.array(ALL), True)
    assert [(each.shape, each.self_x, each.self_y, len(each.cells)) for each in found] == [
        ((2, 2), True, False, 2),
        ((2, 2), False, False, 1),
    ]
    assert found[0].cells[:, :8].tolist() == [[0, 1, 0, 1, 0, 1, -1, -1], [2, 3, 0, 1, 2, 3, -1, -1]]
