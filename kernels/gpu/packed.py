"""The fast walk of 8-bit floats as fixed-point numbers, float16 two to a word: two thirds of `walk`'s instructions.

    selfs: Σ|x|, Σx², Σx, max|x|          pairs: Σmax(x, y), Σxy, max|x-y|, #(x ≠ y)

For GPUs with the instructions of `halves`, and operands of one dtype with no magnitude above 2**20 of its unit: any of
F8_E4M3, and F8_E5M2 up to 16 (`dtypes.fixed_up_to`), as weights are that have not been scaled. All sums of a lane are
exact then. So Σ|x-y| is 2 Σmax(x, y) - Σx - Σy, and Σ(x-y)² is Σx² + Σy² - 2 Σxy, and these are the bits of `walk`,
though other lanes have what the first of them are made of.

Tensor cores add up Σx, Σ|x|, Σmax and the count (`halves.added_up`). Σx² and Σxy are float64, of elements converted
from float16; so is x - y, below 2**21 units, which the upper half of a float64 holds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .decode import half
from .dtypes import derives_squares, fixed_up_to, log2_unit
from .halves import added_up, differ, larger, larger_magnitude, largest_half, magnitudes, offset_of, pattern, wide
from .loads import block_of, in_halves, words
from .walk import upper_half, whole_of

__all__ = ["fitted", "may_fit", "packed_walk"]

THREADS = tl.constexpr(constants.THREADS)
WIDTH = tl.constexpr(constants.VECTOR_BYTES)  # elements of a load


@triton.jit
def _no_self(R: tl.constexpr, C: tl.constexpr):
    """Self sums of nothing: Σ|x|, Σx², Σx, max|x|; int32 in units of the dtype, but for Σx², and a word of float16."""
    none = tl.zeros([R, C, THREADS], tl.int32)
    return none, tl.zeros([R, C, THREADS], tl.float64), none, none


@triton.jit
def _no_pairs(A: tl.constexpr, B: tl.constexpr):
    """Pair sums of nothing: Σmax(x, y), Σxy, max|x-y|, #(x ≠ y); the maximum as the upper half of a float64."""
    none = tl.zeros([A, B, THREADS], tl.int32)
    return none, tl.zeros([A, B, THREADS], tl.float64), tl.zeros([A, B, THREADS], tl.float32), none


@triton.jit
def _elements(arena, at, start, CODE: tl.constexpr):
    """16 elements a thread of each operand, as eight words of float16."""
    return in_halves(words(block_of(arena, at, start, 0, WIDTH, 1, False)), CODE, "f16")


@triton.jit
def _add_self(sums, x, LOG2_UNIT: tl.constexpr, WANTED: tl.constexpr):
    """16 elements of each operand added to its sums [A, 1, THREADS] or [1, B, THREADS]; Σ|x| only where WANTED."""
    sum_abs, squares, total, largest = sums
    ones = pattern(total.shape)
    total = added_up(total, x, ones, LOG2_UNIT)
    if WANTED:
        first = magnitudes(x[0]), magnitudes(x[1]), magnitudes(x[2]), magnitudes(x[3])
        second = magnitudes(x[4]), magnitudes(x[5]), magnitudes(x[6]), magnitudes(x[7])
        sum_abs = added_up(sum_abs, first + second, ones, LOG2_UNIT)
    for k in tl.static_range(0, 8, 2):
        largest = largest_half(largest, magnitudes(x[k]), magnitudes(x[k + 1]))
    for k in tl.static_range(16):
        element = wide(x[k // 2], k % 2 == 1)
        squares = tl.fma(element, element, squares)
    return sum_abs, squares, total, largest


@triton.jit
def _compared(x, y, total):
    """Eight words of float16 in the shape of a total: the larger of every x and y, and 1 where they differ."""
    both, apart = (), ()
    for k in tl.static_range(8):
        x_word = tl.broadcast_to(x[k], total.shape)
        y_word = tl.broadcast_to(y[k], total.shape)
        both += (larger(x_word, y_word),)
        apart += (differ(x_word, y_word),)
    return both, apart


@triton.jit
def _add_pairs(sums, x, y, LOG2_UNIT: tl.constexpr):
    """16 elements of every x [A, 1, THREADS] and y [1, B, THREADS] added to their pairs' sums [A, B, THREADS]."""
    total, dot, largest, differing = sums
    ones = pattern(total.shape)
    both, apart = _compared(x, y, total)
    total = added_up(total, both, ones, LOG2_UNIT)
    differing = added_up(differing, apart, ones, LOG2_UNIT)
    for k in tl.static_range(16):
        x_wide, y_wide = wide(x[k // 2], k % 2 == 1), wide(y[k // 2], k % 2 == 1)
        dot = tl.fma(x_wide, y_wide, dot)
        largest = larger_magnitude(largest, upper_half(x_wide - y_wide))
    return total, dot, largest, differing


@triton.jit
def _step(
    arena, x_at, y_at, start, xs, ys, pairs,
    CODE: tl.constexpr, SELF_X: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """A step: 16 elements a thread of each operand added to all sums."""
    x = _elements(arena, x_at, start, CODE)
    xs = _add_self(xs, x, log2_unit(CODE), SELF_X)
    if PAIRS:
        y = _elements(arena, y_at, start, CODE)
        ys = _add_self(ys, y, log2_unit(CODE), SELF_Y)
        pairs = _add_pairs(pairs, x, y, log2_unit(CODE))
    return xs, ys, pairs


@triton.jit
def _unpacked_self(sums, steps, CODE: tl.constexpr):
    """Self sums of so many steps as those of `walk`, in units of 1."""
    UNIT: tl.constexpr = 2.0 ** log2_unit(CODE)
    sum_abs, squares, total, largest = sums
    most = tl.maximum(largest & 0xFFFF, largest >> 16)  # magnitudes sort as integers do, NaN above all
    return (
        (sum_abs - steps * offset_of(log2_unit(CODE))).to(tl.float64) * UNIT,
        squares,
        (total - steps * offset_of(log2_unit(CODE))).to(tl.float64) * UNIT,
        tl.zeros(squares.shape, tl.float64),
        half(most, 0),
        tl.full(squares.shape, 0xFFFFFFFF, tl.uint32),
        tl.zeros(squares.shape, tl.int32),
    )


@triton.jit
def _unpacked_pairs(sums, xs, ys, steps, CODE: tl.constexpr):
    """Pair sums likewise, the maximum as a float32; xs and ys are the packed sums of the operands."""
    UNIT: tl.constexpr = 2.0 ** log2_unit(CODE)
    total, dot, largest, differing = sums
    none = tl.zeros(dot.shape, tl.float64)
    sum_abs = 2 * total - (xs[2] + ys[2])  # as many offsets are taken away as there are
    squares = none
    if not derives_squares(CODE, CODE):  # of a strip: lanes have it then
        squares = xs[1] + ys[1] - 2 * dot
    return (
        sum_abs.to(tl.float64) * UNIT,
        squares,
        dot,
        none,
        whole_of(largest),
        (differing - steps * offset_of(log2_unit(CODE))).to(tl.float32) * UNIT,
        none,
    )


@triton.jit
def packed_walk(
    arena, x_at, y_at, steps,
    A: tl.constexpr, B: tl.constexpr, CODE: tl.constexpr, SELF_X: tl.constexpr, SELF_Y: tl.constexpr,
    PAIRS: tl.constexpr, STAGES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The sums of so many steps, as they are after `walk`; the smallest magnitude, of no use here, is infinity."""
    xs, ys, pairs = _no_self(A, 1), _no_self(1, B), _no_pairs(A, B)
    for step in tl.range(0, steps, num_stages=STAGES, loop_unroll_factor=UNROLL):
        xs, ys, pairs = _step(
            arena, x_at, y_at, step * (THREADS * WIDTH), xs, ys, pairs, CODE, SELF_X, SELF_Y, PAIRS
        )  # fmt: skip
    pairs = _unpacked_pairs(pairs, xs, ys, steps, CODE)
    return _unpacked_self(xs, steps, CODE), _unpacked_self(ys, steps, CODE), pairs


@triton.jit
def fitted(sums, CODE: tl.constexpr):
    """Whether nothing in these self sums was too large, infinity or NaN."""
    return tl.min(tl.ravel((sums[4] <= fixed_up_to(CODE)).to(tl.int32)), axis=0) > 0


@triton.jit
def may_fit(arena, at, CODE: tl.constexpr):
    """Whether nothing in the first step of every operand is too large: where weights are scaled, something there is."""
    x = _elements(arena, at, 0, CODE)
    largest = tl.zeros(x[0].shape, tl.int32)
    for k in tl.static_range(0, 8, 2):
        largest = largest_half(largest, magnitudes(x[k]), magnitudes(x[k + 1]))
    most = tl.max(tl.ravel(tl.maximum(largest & 0xFFFF, largest >> 16)), axis=0)
    return half(most, 0) <= fixed_up_to(CODE)
