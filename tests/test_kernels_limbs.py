"""Blocks in limbs: every sum is the exact one, at the edges of what limbs hold, whichever loop a block goes through."""

import itertools

import numpy as np
import pytest
from numba import njit

from weighbridge.kernels import cpu, limbs, word_sums
from weighbridge.kernels.accumulate import COMPILED
from weighbridge.kernels.layout import BLOCK, FIXED_BITS, LIMB_BITS, LIMB_LOW_BITS, LIMB_OUT, WIDE_LOW_BITS

from support.kernel_cases import run

BITS = {"BF16": 8, "F16": 11, "F8_E4M3": 4, "F8_E5M2": 3}  # significant ones
LEAST = {"BF16": 129, "F16": 1, "F8_E4M3": 1, "F8_E5M2": 1}  # the smallest integers of unit 1: but of BF16, subnormal
UNIT = {"BF16": -40, "F16": -24, "F8_E4M3": -9, "F8_E5M2": -16}  # exponent of what is 1 here
PLACES = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15)}  # bits of the mantissa, bias of the exponent


def stored(code, values):
    """Whole multiples of the unit as bytes of a dtype that holds them exactly."""
    numbers = np.ldexp(np.asarray(values, np.float64), UNIT[code])
    if code == "F16":
        return numbers.astype(np.float16).view(np.uint8)
    if code == "BF16":
        return (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    mantissa, bias = PLACES[code]
    fraction, exponent = np.frexp(np.abs(numbers))
    below = (numbers == 0) | (exponent - 1 < 1 - bias)  # zero or subnormal
    normal = ((exponent - 1 + bias) << mantissa) + np.ldexp(fraction, mantissa + 1).astype(int) - (1 << mantissa)
    small = np.ldexp(np.abs(numbers), bias - 1 + mantissa).astype(int)
    return (np.where(below, small, normal) | np.where(np.signbit(numbers), 0x80, 0)).astype(np.uint8)


def expected(code, values, others):
    """Self sums of both and pair sums, each the exact integer rounded once."""
    x, y = (np.array([int(v) for v in each], object) for each in (values, others))
    one = 2.0 ** UNIT[code]

    def self_sums(v):
        return len(v), abs(v).sum() * one, v.sum() * one, (v * v).sum() * one * one, abs(v).max() * one, 0

    d = y - x  # the pair of `run` is (1, 0)
    pair = abs(d).sum() * one, (d * d).sum() * one * one, (x * y).sum() * one * one, abs(d).max() * one, (d != 0).sum()
    return np.array([self_sums(x), self_sums(y)], float), np.array(pair, float)


def edges(code, span):
    """Integers below 2**span at which limbs, their differences or their sums are largest, and the smallest."""
    bits = BITS[code]
    full = (1 << bits) - 1
    low = [at for at in (WIDE_LOW_BITS, LIMB_LOW_BITS, 11) if at <= span]
    found = [full << (span - bits), *(full << (at - bits) for at in low), LEAST[code], 0]
    return [*found, *(-v for v in found)]


@pytest.mark.parametrize(
    ("code", "span"),
    [("BF16", span) for span in (9, 22, 23, 24, 25, 26, 27)]
    + [("F16", span) for span in (12, 22, 23, 24, 25, 27)]
    + [("F8_E4M3", 11), ("F8_E4M3", 17), ("F8_E5M2", 12), ("F8_E5M2", 22), ("F8_E5M2", 23), ("F8_E5M2", 27)],
)
def test_blocks_of_extremes(code, span):
    cases = list(itertools.product(edges(code, span), repeat=2))
    tensors = []
    for a, b in cases:
        x, y = np.full(BLOCK, a), np.full(BLOCK, b)
        x[0] = y[1] = LEAST[code]  # the unit is 1, however large the others are
        tensors.append((x, y))
    selfs, pairs = run(cpu.tile_sums, [[stored(code, x), stored(code, y)] for x, y in tensors], [code, code])
    for (x, y), found_selfs, found_pair in zip(tensors, selfs, pairs, strict=True):
        wanted_selfs, wanted_pair = expected(code, x, y)
        np.testing.assert_array_equal(found_selfs, wanted_selfs)
        np.testing.assert_array_equal(found_pair[0], wanted_pair)


@pytest.mark.parametrize("code", BITS)
def test_blocks_that_differ_in_their_range_follow_one_another(code):
    """Each block goes the way that its own range asks for: a loop in limbs, in wide limbs, in int32."""
    rng = np.random.default_rng(3)
    bits = BITS[code]
    most = 18 if code == "F8_E4M3" else 27
    blocks = []
    for span in rng.integers(bits, most + 1, 40):
        v = rng.integers(1 << (bits - 1), 1 << bits, BLOCK) << rng.integers(0, span - bits + 1, BLOCK)
        if code == "F8_E4M3":
            v = np.minimum(v, 14 << 14)  # 448
        v[rng.random(BLOCK) < rng.choice([0.0, 0.3])] = 0
        blocks.append(v * rng.choice([-1, 1], BLOCK))
    x = np.concatenate(blocks)
    y = np.where(rng.random(x.size) < 0.5, x, -np.roll(x, 1))
    selfs, pairs = run(cpu.tile_sums, [[stored(code, x), stored(code, y)]], [code, code])
    wanted_selfs, wanted_pair = expected(code, x, y)
    np.testing.assert_allclose(selfs[0], wanted_selfs, rtol=1e-12)
    np.testing.assert_allclose(pairs[0, 0], wanted_pair, rtol=1e-12)


@pytest.mark.parametrize("code", BITS)
def test_the_next_operand_of_a_star_may_fit_otherwise(code):
    """The base's unit is found once; an operand of small numbers, one of large ones and the first again."""
    rng = np.random.default_rng(4)
    bits = BITS[code]
    small = rng.integers(-(1 << bits) + 1, 1 << bits, 3 * BLOCK)
    large = small << (18 - bits - 1 if code == "F8_E4M3" else 26 - bits)
    large[::7] = small[::7]
    operands = [small, np.roll(small, 1), large, np.roll(small, 2)]
    star = [(n, 0) for n in range(1, 4)]
    selfs, pairs = run(cpu.tile_sums, [[stored(code, v) for v in operands]], [code] * 4, pairs=star)
    for n, pair in enumerate(pairs[0], 1):
        wanted_selfs, wanted_pair = expected(code, small, operands[n])
        np.testing.assert_allclose(selfs[0, [0, n]], wanted_selfs, rtol=1e-12)
        np.testing.assert_allclose(pair, wanted_pair, rtol=1e-12)


@pytest.mark.parametrize(("span", "low_bits"), [(LIMB_BITS, LIMB_LOW_BITS), (FIXED_BITS, WIDE_LOW_BITS)])
@pytest.mark.parametrize("code", ["BF16", "F16"])
def test_processors_without_the_instruction(code, span, low_bits, monkeypatch):
    monkeypatch.setattr(limbs, "_has", lambda feature: False)
    plain = word_sums.both_words(code, span, low_bits, ranged=False)

    @njit(**COMPILED)
    def both(x, y, scale, count, out):
        plain(x, y, scale, count, out)

    rng = np.random.default_rng(5)
    bits = BITS[code]
    shifts = span - bits + 1
    x, y = (rng.integers(-(1 << bits) + 1, 1 << bits, BLOCK) << rng.integers(0, shifts, BLOCK) for _ in range(2))
    at_x, at_y, out = stored(code, x), stored(code, y), np.zeros(LIMB_OUT, np.int64)
    both(at_x.ctypes.data, at_y.ctypes.data, -UNIT[code], BLOCK, out.ctypes.data)
    d = x - y
    wanted = [total for v in (x, y) for total in (abs(v).sum(), v.sum(), (v.astype(object) ** 2).sum())]
    wanted += [abs(d).sum(), (d.astype(object) ** 2).sum()]
    assert [(int(high) << 32) + int(low) for high, low in zip(out[:8], out[8:16], strict=True)] == wanted
    assert out[16:18].tolist() == [abs(d).max(), np.count_nonzero(d)]
