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
    """[A, B, lanes] in two parts -> their sum [A, B] in two parts, and what that is off by at most.

    Each high is cut at 2**(LOG2_LANES - 50) of the largest one's power of two. The upper parts add without rounding.
    The lower part r of high is exact, and t = r + low, rounded, is off by u |t| at most, where u = 2**-53. Adding n
    numbers in any order is off by (n - 1) u Σ|t| at most (Jeannerod, Rump, Improved Error Bounds for Inner Products in
    Floating-Point Arithmetic, SIAM J. Matrix Anal. Appl. 34 (2013), 338-344). With the first that is n u Σ|t|, where
    n are the lanes; 1.01, as Σ|t| is rounded itself.

    As |r| is at most 2**(LOG2_LANES - 51) of the largest |high|, that is some 2**-92 Σ|high| of 128 lanes alike, and
    2**-88 of 512; in the worst case, where all but one lane are just long enough to have an r, 2**-83 and 2**-77 of
    the largest. It is 0 where no lane has bits below the cut, as of multiples of one number that is not too small.

    What is not finite makes the first part what IEEE says, and the others 0.
    """
    exponent = tl.max((bits_of(high) >> 52).to(tl.int32), axis=2, keep_dims=True)
    finite = exponent < 0x7FF
    top = (exponent.to(tl.int64) << 52).to(tl.float64, bitcast=True)
    pin = tl.where(finite, top * (1.5 * 2.0 ** (LOG2_LANES + 2)), 0.0)  # above any partial sum of the lanes
    upper = (high + pin) - pin
    rest = tl.where(finite, (high - upper) + low, 0.0)
    lost = (1.01 * 2.0 ** (LOG2_LANES - 53)) * tl.sum(tl.abs(rest), axis=2)
    return tl.sum(upper, axis=2), tl.sum(rest, axis=2), lost
