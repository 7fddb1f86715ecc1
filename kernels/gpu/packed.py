"""The fast walk of F8_E4M3 as float16, two to a word, for GPUs that decode it so: two thirds of `walk`'s instructions.

    selfs: Σ|x|, Σx², Σx, max|x|          pairs: Σmax(x, y), Σxy, max|x-y|, #(x ≠ y)

Σ|x-y| is 2 Σmax(x, y) - Σx - Σy, and Σ(x-y)² is Σx² + Σy² - 2 Σxy (`dtypes.derives_squares`). All sums are exact, so
these are the bits of `walk`, though other lanes have what they are made of.

Tensor cores add up Σx, Σ|x|, Σmax and the count (`halves.added_up`). Σx² and Σxy are float64, of elements converted
from float16; so is x - y, a multiple of 2**-9 below 2**10, which the upper half of a float64 holds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .halves import OFFSET, added_up, differ, larger, largest_half, magnitudes, pattern, wide
from .walk import block_of, in_halves, upper_half, words

__all__ = ["no_packed_pairs", "no_packed_self", "packed_vector", "unpacked_pairs", "unpacked_self"]

THREADS = tl.constexpr(constants.THREADS)
WIDTH = tl.constexpr(constants.VECTOR_BYTES)  # elements of a load
UNIT = tl.constexpr(2.0**-9)


@triton.jit
def no_packed_self(ROWS: tl.constexpr):
    """Self sums of nothing: Σ|x|, Σx², Σx, max|x|; int32 in units of 2**-9, but for Σx², and a word of float16."""
    none = tl.zeros([ROWS, THREADS], tl.int32)
    return none, tl.zeros([ROWS, THREADS], tl.float64), none, none


@triton.jit
def no_packed_pairs(A: tl.constexpr, B: tl.constexpr):
    """Pair sums of nothing: Σmax(x, y), Σxy, max|x-y|, #(x ≠ y); the maximum as the upper half of a float64."""
    none = tl.zeros([A, B, THREADS], tl.int32)
    return none, tl.zeros([A, B, THREADS], tl.float64), tl.zeros([A, B, THREADS], tl.float32), none


@triton.jit
def _elements(block):
    """16 bytes of each operand as eight words of float16."""
    return in_halves(words(block), "F8_E4M3", "f16")


@triton.jit
def _add_self(sums, x, WANTED: tl.constexpr):
    """16 elements of each operand added to its sums [A, THREADS]; Σ|x| only where WANTED."""
    sum_abs, squares, total, largest = sums
    ones = pattern(total.shape)
    total = added_up(total, x, ones)
    if WANTED:
        first = magnitudes(x[0]), magnitudes(x[1]), magnitudes(x[2]), magnitudes(x[3])
        second = magnitudes(x[4]), magnitudes(x[5]), magnitudes(x[6]), magnitudes(x[7])
        sum_abs = added_up(sum_abs, first + second, ones)
    for k in tl.static_range(0, 8, 2):
        largest = largest_half(largest, magnitudes(x[k]), magnitudes(x[k + 1]))
    for k in tl.static_range(16):
        element = wide(x[k // 2], k % 2 == 1)
        squares = tl.fma(element, element, squares)
    return sum_abs, squares, total, largest


@triton.jit
def _add_pairs(sums, x, y):
    """16 elements of every x [A, THREADS] and y [B, THREADS] added to the sums of their pairs [A, B, THREADS]."""
    total, dot, largest, differing = sums
    ones = pattern(total.shape)
    both, apart = (), ()
    for k in tl.static_range(8):
        x_word = tl.broadcast_to(x[k][:, None, :], total.shape)
        y_word = tl.broadcast_to(y[k][None, :, :], total.shape)
        both += (larger(x_word, y_word),)
        apart += (differ(x_word, y_word),)
    total = added_up(total, both, ones)
    differing = added_up(differing, apart, ones)
    for k in tl.static_range(16):
        x_wide, y_wide = wide(x[k // 2], k % 2 == 1)[:, None, :], wide(y[k // 2], k % 2 == 1)[None, :, :]
        dot = tl.fma(x_wide, y_wide, dot)
        largest = tl.maximum(largest, tl.abs(upper_half(x_wide - y_wide)))
    return total, dot, largest, differing


@triton.jit
def packed_vector(
    arena, x_at, y_at, start, length, xs, ys, pairs,
    SELF_X: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """A step of 16 elements a thread, as `walk.vector`."""
    first = start + tl.arange(0, THREADS) * WIDTH
    x = _elements(block_of(arena, x_at, first, length, 1, False))
    xs = _add_self(xs, x, SELF_X)
    if PAIRS:
        y = _elements(block_of(arena, y_at, first, length, 1, False))
        ys = _add_self(ys, y, SELF_Y)
        pairs = _add_pairs(pairs, x, y)
    return xs, ys, pairs


@triton.jit
def unpacked_self(sums, steps):
    """Self sums of so many steps as those of `walk`, in units of 1."""
    sum_abs, squares, total, largest = sums
    most = tl.maximum(largest & 0xFFFF, largest >> 16)  # magnitudes sort as integers do, NaN above all
    return (
        (sum_abs - steps * OFFSET).to(tl.float64) * UNIT,
        squares,
        (total - steps * OFFSET).to(tl.float64) * UNIT,
        tl.zeros(squares.shape, tl.float64),
        most.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32),
        tl.full(squares.shape, 0xFFFFFFFF, tl.uint32),
        tl.zeros(squares.shape, tl.int32),
    )


@triton.jit
def unpacked_pairs(sums, xs, ys, steps):
    """Pair sums likewise, the maximum as the bits of a float64; xs and ys are the packed sums of the operands."""
    total, dot, largest, differing = sums
    none = tl.zeros(dot.shape, tl.float64)
    sum_abs = 2 * total - (xs[2][:, None, :] + ys[2][None, :, :])  # as many offsets are taken away as there are
    return (
        sum_abs.to(tl.float64) * UNIT,
        none,
        dot,
        none,
        largest.to(tl.int32, bitcast=True).to(tl.int64) << 32,
        (differing - steps * OFFSET).to(tl.float32) * UNIT,
        none,
    )
