"""Sums without loss: two-sum for one element a lane, and the sum of all lanes in two parts.

Sources: Knuth, The Art of Computer Programming 2, 4.2.2, theorem B (two-sum); Rump, Ogita, Oishi, Accurate
Floating-Point Summation I, SIAM J. Sci. Comput. 31 (2008), section 3 (the upper parts of a vector, cut off at one power
of two, add without rounding in any order).
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["added", "bits_of", "joined_lanes", "largest_of", "two_sum"]


@triton.jit
def two_sum(a, b):
    """a + b as the rounded sum and what it lacks."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


@triton.jit
def added(high, low, term):
    """(high, low) with the term added: the rounding error of high goes to low."""
    total, error = two_sum(high, term)
    return total, low + error


@triton.jit
def bits_of(x):
    """The bits of |x| as int64: they sort as magnitudes do, NaN above infinity."""
    return x.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF


@triton.jit
def largest_of(bits):
    """The largest magnitude of the last axis, out of `bits_of` it.

    The upper halves first, then the lower ones of those: a warp finds a maximum of 32 bits in one instruction.
    """
    upper = (bits >> 32).to(tl.int32)
    top = tl.max(upper, axis=2, keep_dims=True)
    lower = (bits & 0xFFFFFFFF) - 0x80000000  # as signed numbers sort
    rest = tl.max(tl.where(upper == top, lower.to(tl.int32), -2147483648), axis=2)
    return ((tl.max(upper, axis=2).to(tl.int64) << 32) | (rest.to(tl.int64) + 0x80000000)).to(tl.float64, bitcast=True)


@triton.jit
def joined_lanes(high, low, LOG2_LANES: tl.constexpr):
    """[A, B, lanes] in two parts -> their sum [A, B] in two parts, off by less than 2**-90 of Σ|high|.

    What is not finite makes the first part what IEEE says, and the second 0.
    """
    exponent = tl.max((bits_of(high) >> 52).to(tl.int32), axis=2, keep_dims=True)
    finite = exponent < 0x7FF
    top = (exponent.to(tl.int64) << 52).to(tl.float64, bitcast=True)
    pin = tl.where(finite, top * (1.5 * 2.0 ** (LOG2_LANES + 2)), 0.0)  # above any partial sum of the lanes
    upper = (high + pin) - pin
    rest = tl.sum((high - upper) + low, axis=2)
    return tl.sum(upper, axis=2), tl.where(tl.max(finite.to(tl.int32), axis=2) > 0, rest, 0.0)
