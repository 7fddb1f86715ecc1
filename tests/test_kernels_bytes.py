"""Blocks of 8-bit floats: the sums are the exact ones, whatever the window of a block and whatever is outside of it."""

import numpy as np
import pytest
import torch
from numba import njit

from weighbridge.kernels import cpu
from weighbridge.kernels.accumulate import COMPILED
from weighbridge.kernels.byte_sums import HAS_BYTE_LIMBS
from weighbridge.kernels.byte_walk import both_bytes, forget_window
from weighbridge.kernels.layout import BLOCK, FIXED_OUT, NO_UNIT, SELF_OUT, WORK_LIMBS
from weighbridge.kernels.sums import CHUNK

from support.kernel_cases import assert_same_bits_in_every_layout, check, exact, run

TYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
LEAST = {"F8_E4M3": 2.0**-9, "F8_E5M2": 2.0**-16}
NAN, INFINITY = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7E}, {"F8_E5M2": 0x7C}

pytestmark = pytest.mark.parametrize("code", TYPES)


def stored(code, numbers):
    """Numbers rounded by torch, as bytes."""
    return torch.tensor(numbers).to(TYPES[code]).view(torch.uint8).numpy()


def weights(code, size, rng, scale=20.0):
    """Normally distributed, a dtype's range well used: in a thousand some are outside of the window."""
    return rng.normal(0, scale, size)


def both(code, x, y):
    """The bytes of two tensors."""
    return [stored(code, x), stored(code, y)]


@pytest.mark.parametrize("many", [1, 60, 700, 2000])
def test_elements_outside_of_the_window(code, many):
    """Too small, too large, in one operand or in both; so many that a window is looked for anew, or given up."""
    rng = np.random.default_rng(many)
    tensors = []
    for outside in (LEAST[code], -3 * LEAST[code], 448.0, -448.0):
        x = rng.choice([-1, 1], 3 * BLOCK) * rng.uniform(2, 60, 3 * BLOCK)
        y = x + rng.normal(0, 1, x.size)
        for operand in (x, y):
            # The first and the last bit of a word of 64, and wherever else.
            operand[[BLOCK, BLOCK + 63, BLOCK + 64, 2 * BLOCK - 1]] = outside
            operand[BLOCK + rng.choice(BLOCK, many, replace=False)] = rng.choice([1, -1], many) * outside
        y[BLOCK] = -x[BLOCK]
        tensors.append(both(code, x, y))
    check(run(cpu.tile_sums, tensors, [code, code]), exact(tensors, [code, code]))


def test_the_largest_difference_is_outside(code):
    rng = np.random.default_rng(1)
    x = rng.uniform(0.01, 0.02, BLOCK)
    y = x.copy()
    x[77], y[77] = 0.05, -0.05  # within
    x[1000], y[1000] = 416.0 if code == "F8_E4M3" else 0.5, -0.25
    selfs, pairs = run(cpu.tile_sums, [both(code, x, y)], [code, code], [(0, 1)])
    assert pairs[0, 0, 3] == abs(x[1000] - y[1000])
    assert selfs[0, 0, 4] == x[1000]


@pytest.mark.parametrize("rest", [77, 384])  # the latter is whole groups, and goes the way of the blocks before it
@pytest.mark.parametrize("relation", ["near", "equal", "opposite", "unrelated"])
def test_weights(code, relation, rest):
    """Two chunks and a tail, in every layout the same bits."""
    rng = np.random.default_rng(2)
    size = 2 * CHUNK + 3 * BLOCK + rest
    x = weights(code, size, rng)
    y = {"near": x + weights(code, size, rng, 1.0), "equal": x, "opposite": -x}.get(relation, np.roll(x, 1))
    stack = [both(code, x, y)]
    check(run(cpu.tile_sums, stack, [code, code], threads=2), exact(stack, [code, code]))
    assert_same_bits_in_every_layout(cpu.tile_sums, stack, [code, code])


def test_other_dtypes_and_what_is_not_finite_beside_them(code):
    """The base's unit is not looked for until an operand of a star goes another way."""
    rng = np.random.default_rng(3)
    x = weights(code, 5 * BLOCK, rng)
    wild = np.ldexp(rng.choice([-1.0, 1.0], x.size), rng.integers(-9, 8, x.size))
    broken = stored(code, np.roll(x, 2)).copy()
    broken[BLOCK + 5] = NAN[code]
    if code in INFINITY:
        broken[3 * BLOCK + 5] = 0x80 | INFINITY[code]
    halves = x.astype(np.float16).view(np.uint8)
    operands = [stored(code, x), stored(code, np.roll(x, 1)), stored(code, wild), broken, halves, stored(code, -x)]
    codes = [code, code, code, code, "F16", code]
    star = [(n, 0) for n in range(1, 6)]
    check(run(cpu.tile_sums, [operands], codes, star), exact([operands], codes, star))
    assert_same_bits_in_every_layout(cpu.tile_sums, [operands], codes)


def test_windows_follow_the_blocks(code):
    """Scales that leap from block to block, zeros, and ranges for which no window serves."""
    rng = np.random.default_rng(4)
    scales = np.concatenate([2.0 ** rng.integers(-8, 6, 40), np.repeat([1e-2, 30.0], 40), np.zeros(3), [20.0] * 20])
    x = np.concatenate([weights(code, BLOCK, rng, scale) for scale in scales])
    wide = rng.random(len(scales)) < 0.2
    x[np.repeat(wide, BLOCK)] = np.ldexp(1.0, rng.integers(-9, 8, wide.sum() * BLOCK))
    y = np.where(rng.random(x.size) < 0.7, x, -1.125 * x)
    stack = [both(code, x, y)]
    check(run(cpu.tile_sums, stack, [code, code]), exact(stack, [code, code]))
    assert_same_bits_in_every_layout(cpu.tile_sums, stack, [code, code])


def taken(code, x, y):
    """Which blocks of two stored tensors go this way."""
    formats = {"F8_E4M3": (1, 3, 7, 0x7F), "F8_E5M2": (1, 2, 15, 0x7C)}  # as `cpu.py` gives them

    @njit(**COMPILED)
    def units(format_of, x, y, blocks, of_x, of_y, sums, work_at, exact, found):
        forget_window(work_at)
        for n in range(blocks):
            at = n * BLOCK
            found[n] = both_bytes(format_of, x + at, y + at, BLOCK, of_x, of_y, sums[0], sums[1], work_at, exact)

    found, work = np.zeros(x.size // BLOCK, np.int64), np.zeros(WORK_LIMBS)
    units(
        np.array(formats[code]),
        x.ctypes.data,
        y.ctypes.data,
        len(found),
        *np.zeros((2, 2), np.int64),
        np.zeros((2, SELF_OUT)),
        work.ctypes.data,
        np.zeros((3, FIXED_OUT), np.int64),
        found,
    )
    return (found != NO_UNIT).tolist()


@pytest.mark.skipif(not HAS_BYTE_LIMBS, reason="the processor has no such instructions")
def test_which_blocks_go_this_way(code):
    """Ordinary weights do, also where a few are outside of the window; what no window serves, and NaN, do not."""
    rng = np.random.default_rng(5)
    x = weights(code, 40 * BLOCK, rng)
    near, rolled = stored(code, x + weights(code, x.size, rng, 1.0)), stored(code, np.roll(x, 1))
    base = stored(code, x)
    assert sum(taken(code, base, near)) >= 39
    assert sum(taken(code, base, rolled)) >= 39
    broken = near.copy()
    broken[7 * BLOCK + 3] = NAN[code]
    assert [n for n, good in enumerate(taken(code, base, near)) if not good] + [7] == [
        n for n, good in enumerate(taken(code, base, broken)) if not good
    ]
    wild = rng.choice(np.delete(np.arange(256), [0x7F, 0xFF]) if code == "F8_E4M3" else np.r_[:0x7C, 0x80:0xFC], x.size)
    assert not any(taken(code, wild.astype(np.uint8), np.roll(wild, 1).astype(np.uint8)))


@pytest.mark.skipif(not HAS_BYTE_LIMBS, reason="the processor has no such instructions")
def test_blocks_that_do_not_fit_are_not_tried_one_after_the_other(code):
    """A single one is no reason to leave the way, two in a row are: for 16 blocks."""
    x = stored(code, weights(code, 40 * BLOCK, np.random.default_rng(6))).copy()
    unfit = [3, 9, 10, 30]
    x[np.array(unfit) * BLOCK + 5] = NAN[code]
    assert [n for n, good in enumerate(taken(code, x, x)) if not good] == [3, *range(9, 27), 30]
