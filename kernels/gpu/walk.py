"""The walk over a strip: every element of every operand added to the sums, 16 bytes of an operand at a time (`loads`).

    selfs: Σ|x|, Σx², Σx, max|x|, #nonfinite          pairs: Σ|x-y|, Σ(x-y)², Σxy, max|x-y|, #(x ≠ y)

A thread owns one lane of every sum. Shapes: operands are [A, 1, THREADS] and [1, B, THREADS], pairs [A, B, THREADS].
Accumulators are float64, one a lane, and a lane's sum is over 256 elements in the order of memory: its rounding error
is below 256 units of 2**-53. The walk with care carries the rounding errors of Σx and Σxy along (two-sums), counts what
is not finite, takes every maximum in float64, and masks what is behind the end.

Where a GPU computes with two halves of a word, the fast walk decodes F8_E4M3 and F8_E5M2 to float16, two at a time.
Of bfloat16 and float16 it takes the ends (max|x| and the smallest magnitude) and, of two of a kind, #(x ≠ y) of two
elements at a time; until it is over these three sums are words of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .decode import half
from .dtypes import (
    bits_in,
    derives_squares,
    exact_products,
    halves_in,
    needs_least,
    size_of,
    upper_differences,
)
from .exact import added, bits_of
from .halves import count_differing, larger_magnitude, magnitude_ends
from .loads import begin_of, beside, block_of, blocks_of, unpacked, value

__all__ = [
    "no_pairs",
    "no_self",
    "single_pairs",
    "single_self",
    "upper_half",
    "vector",
    "whole_of",
]

THREADS = tl.constexpr(constants.THREADS)
INFINITY = tl.constexpr(0x7FF0000000000000)
NAN_WINS = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def upper_half(x):
    """The upper halves of float64 as the float32 of these bits, which sort as they do."""
    return (x.to(tl.int64, bitcast=True) >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def whole_of(upper):
    """The float64 with such upper halves, and zeros behind them, as float32."""
    return (upper.to(tl.int32, bitcast=True).to(tl.int64) << 32).to(tl.float64, bitcast=True).to(tl.float32)


@triton.jit
def _add_self(
    sums, x,
    BITS: tl.constexpr, WANTED: tl.constexpr, SQUARES: tl.constexpr, LEAST: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """An element of each operand added to its sums [A, 1, THREADS] or [1, B, THREADS]."""
    sum_abs, squares, total, low, largest, smallest, nonfinite = sums
    wide = x.to(tl.float64)
    if largest.dtype == tl.float32:
        largest = tl.maximum(largest, tl.abs(x), propagate_nan=NAN_WINS)
        if LEAST:  # twice the bits have no sign; less 2, zero becomes the largest of all
            smallest = tl.minimum(smallest, (x.to(tl.uint32, bitcast=True) << 1) - 2)
    elif largest.dtype == tl.int64:
        largest = tl.maximum(largest, bits_of(x))
    if SQUARES:
        squares = tl.fma(wide, wide, squares)
    if WANTED:
        sum_abs += tl.abs(wide)
        if BITS > 24 or CAREFUL:
            total, low = added(total, low, wide)
        else:
            total += wide
        if CAREFUL:
            nonfinite += (bits_of(wide) >= INFINITY).to(tl.int32)
    return sum_abs, squares, total, low, largest, smallest, nonfinite


@triton.jit
def _add_pairs(
    sums, run, x, y,
    BITS: tl.constexpr, EXACT: tl.constexpr, DERIVED: tl.constexpr, UPPER: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """An element of every x [A, 1, THREADS] and y [1, B, THREADS] added to the sums of their pairs [A, B, THREADS].

    DERIVED: Σd² follows from other sums, and Σ|d| is added to a run in float32, which is exact. UPPER: the maximum is
    of the upper halves of float64.
    """
    sum_abs, squares, dot, low, largest, differing, plain = sums
    if (largest.dtype == tl.float32 and not UPPER) or (DERIVED and not CAREFUL):
        short = tl.abs(x - y)
        if largest.dtype == tl.float32:
            largest = tl.maximum(largest, short, propagate_nan=NAN_WINS)
    # Counted in float32: a comparison makes 1.0 in one instruction, and a number that can be added in three otherwise.
    if differing.dtype == tl.int32:
        pass  # counted by `_add_differing`
    elif CAREFUL or x.dtype != y.dtype:  # infinity equals itself
        differing += tl.where(x.to(tl.float64) != y.to(tl.float64), 1.0, 0.0)
    else:
        differing += tl.where(x - y != 0.0, 1.0, 0.0)
    x, y = x.to(tl.float64), y.to(tl.float64)
    d = x - y
    if UPPER:
        largest = larger_magnitude(largest, upper_half(d))
    if DERIVED and not CAREFUL:
        run += short
    else:
        sum_abs += tl.abs(d)
    if not DERIVED:
        squares = tl.fma(d, d, squares)
    if largest.dtype == tl.int64:
        largest = tl.maximum(largest, bits_of(d))
    if EXACT or (BITS <= 16 and not CAREFUL):
        dot = tl.fma(x, y, dot)
    else:
        if BITS <= 16:
            plain = tl.fma(x, y, plain)
        product = x * y
        if BITS > 53:
            low += tl.fma(x, y, -product)
        dot, low = added(dot, low, product)
    return (sum_abs, squares, dot, low, largest, differing, plain), run


@triton.jit
def _add_ends(sums, words):
    """16 bytes of each operand added to the ends, where these are words."""
    sum_abs, squares, total, low, largest, smallest, nonfinite = sums
    if largest.dtype == tl.int32:
        for k in tl.static_range(len(words)):
            largest, smallest = magnitude_ends(largest, smallest, words[k])
    return sum_abs, squares, total, low, largest, smallest, nonfinite


@triton.jit
def _add_differing(sums, x, y, HALVES: tl.constexpr):
    """16 bytes of every x and y added to the counts of their pairs, where these are words."""
    sum_abs, squares, dot, low, largest, differing, plain = sums
    if differing.dtype == tl.int32:
        for k in tl.static_range(len(x)):
            x_word = tl.broadcast_to(x[k], differing.shape)
            y_word = tl.broadcast_to(y[k], differing.shape)
            differing = count_differing(differing, x_word, y_word, HALVES)
    return sum_abs, squares, dot, low, largest, differing, plain


@triton.jit
def vector(
    arena, x_at, y_at, start, part, length, x_dtype, y_dtype, xs, ys, pairs,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    WIDTH: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr, PACKED: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """One of PARTS of a step of WIDTH elements a thread: 16 bytes of an operand at a time.

    SCALED: in units of `scale_of` both. PACKED: the GPU has the instructions of `halves`; for the fast walk.

    Of two dtypes of two sizes, lanes of pairs are those of the wider one, for which a narrower one is decoded anew.
    """
    OWN_X: tl.constexpr = 16 // size_of(CODE_X)
    OWN_Y: tl.constexpr = 16 // size_of(CODE_Y)
    HALVES_X: tl.constexpr = halves_in(CODE_X) if PACKED else ""
    HALVES_Y: tl.constexpr = halves_in(CODE_Y) if PACKED else ""
    UPPER: tl.constexpr = upper_differences(CODE_X, CODE_Y, PACKED)
    LEAST: tl.constexpr = needs_least(CODE_X, CODE_Y, PAIRS)
    DERIVED: tl.constexpr = PAIRS and derives_squares(CODE_X, CODE_Y)
    if not CAREFUL:
        x_blocks = blocks_of(arena, x_at, start, length, WIDTH // OWN_X, size_of(CODE_X), False)
        if PAIRS:
            y_blocks = blocks_of(arena, y_at, start, length, WIDTH // OWN_Y, size_of(CODE_Y), False)
    run = tl.zeros(pairs[0].shape, tl.float32)
    for k in tl.static_range(WIDTH // PARTS):
        if k % OWN_X == 0:
            x_begin = begin_of(start, part, k, OWN_X, WIDTH, PARTS)
            if CAREFUL:
                x_block = block_of(arena, x_at, x_begin, length, OWN_X, size_of(CODE_X), True)
            else:
                x_block = x_blocks[k // OWN_X]
            x_words = unpacked(x_block, x_dtype, CODE_X, HALVES_X)
            xs = _add_ends(xs, x_words)
        x = value(x_words, x_begin, length, OWN_X, k % OWN_X, CODE_X, SCALED, CAREFUL, CAREFUL, HALVES_X)
        xs = _add_self(xs, x, bits_in(CODE_X), SELF_X, SELF_X or DERIVED, LEAST, CAREFUL)
        if PAIRS:
            if k % OWN_Y == 0:
                y_begin = begin_of(start, part, k, OWN_Y, WIDTH, PARTS)
                if CAREFUL:
                    y_block = block_of(arena, y_at, y_begin, length, OWN_Y, size_of(CODE_Y), True)
                else:
                    y_block = y_blocks[k // OWN_Y]
                y_words = unpacked(y_block, y_dtype, CODE_Y, HALVES_Y)
                ys = _add_ends(ys, y_words)
                pairs = _add_differing(pairs, x_words, y_words, HALVES_X)
            y = value(y_words, y_begin, length, OWN_Y, k % OWN_Y, CODE_Y, SCALED, CAREFUL, CAREFUL, HALVES_Y)
            ys = _add_self(ys, y, bits_in(CODE_Y), SELF_Y, SELF_Y or DERIVED, LEAST, CAREFUL)
            if OWN_X > OWN_Y:
                if k % (OWN_Y if CAREFUL else WIDTH) == 0:
                    x_block_of_y = beside(
                        arena, x_at, x_block, y_begin, length, OWN_Y, CODE_X, OWN_X // OWN_Y, CAREFUL
                    )  # fmt: skip
                    x_words_of_y = unpacked(x_block_of_y, x_dtype, CODE_X, HALVES_X)
                x = value(
                    x_words_of_y, y_begin, length, OWN_Y, k % (OWN_Y if CAREFUL else WIDTH), CODE_X,
                    SCALED, CAREFUL, CAREFUL, HALVES_X,
                )  # fmt: skip
            if OWN_Y > OWN_X:
                if k % (OWN_X if CAREFUL else WIDTH) == 0:
                    y_block_of_x = beside(
                        arena, y_at, y_block, x_begin, length, OWN_X, CODE_Y, OWN_Y // OWN_X, CAREFUL
                    )  # fmt: skip
                    y_words_of_x = unpacked(y_block_of_x, y_dtype, CODE_Y, HALVES_Y)
                y = value(
                    y_words_of_x, x_begin, length, OWN_X, k % (OWN_X if CAREFUL else WIDTH), CODE_Y,
                    SCALED, CAREFUL, CAREFUL, HALVES_Y,
                )  # fmt: skip
            pairs, run = _add_pairs(
                pairs, run, x, y,
                bits_in(CODE_X) + bits_in(CODE_Y), exact_products(CODE_X, CODE_Y), DERIVED, UPPER, CAREFUL,
            )  # fmt: skip
    if DERIVED and not CAREFUL:
        pairs = pairs[0] + run.to(tl.float64), pairs[1], pairs[2], pairs[3], pairs[4], pairs[5], pairs[6]
    return xs, ys, pairs


@triton.jit
def no_self(R: tl.constexpr, C: tl.constexpr, CODE: tl.constexpr, WORDS: tl.constexpr):
    """Self sums [R, C, THREADS] of nothing. WORDS: the ends are words of two."""
    zero = tl.zeros([R, C, THREADS], tl.float64)
    nonfinite = tl.zeros([R, C, THREADS], tl.int32)
    if WORDS:
        return zero, zero, zero, zero, nonfinite, nonfinite - 1, nonfinite
    else:
        largest = tl.zeros([R, C, THREADS], tl.float32 if bits_in(CODE) <= 24 else tl.int64)
        return zero, zero, zero, zero, largest, tl.full([R, C, THREADS], 0xFFFFFFFF, tl.uint32), nonfinite


@triton.jit
def no_pairs(A: tl.constexpr, B: tl.constexpr, SHORT: tl.constexpr, WORDS: tl.constexpr):
    """Pair sums of nothing; the maximum is a float32, or the bits of a float64. The last is a Σxy without two-sums.

    WORDS: the count is a word of two.
    """
    zero = tl.zeros([A, B, THREADS], tl.float64)
    largest = tl.zeros([A, B, THREADS], tl.float32 if SHORT else tl.int64)
    return zero, zero, zero, zero, largest, tl.zeros([A, B, THREADS], tl.int32 if WORDS else tl.float32), zero


@triton.jit
def _number(bits, HALVES: tl.constexpr):
    """The number of 16 bits in the lower half of a word, as float32."""
    if HALVES == "bf16":
        return (bits << 16).to(tl.float32, bitcast=True)
    else:
        return half(bits, 0)


@triton.jit
def single_self(sums, HALVES: tl.constexpr):
    """Self sums whose ends are of single elements, as they are without words."""
    sum_abs, squares, total, low, largest, smallest, nonfinite = sums
    if largest.dtype == tl.int32:
        largest = _number(tl.maximum(largest & 0xFFFF, (largest >> 16) & 0xFFFF), HALVES)
        least = _number(tl.minimum(smallest & 0xFFFF, (smallest >> 16) & 0xFFFF) + 1, HALVES)
        smallest = (least.to(tl.uint32, bitcast=True) << 1) - 2
    return sum_abs, squares, total, low, largest, smallest, nonfinite


@triton.jit
def single_pairs(sums, HALVES: tl.constexpr, UPPER: tl.constexpr):
    """Pair sums with one count, likewise, and with a float32 as maximum where it is the upper half of a float64."""
    sum_abs, squares, dot, low, largest, differing, plain = sums
    if differing.dtype == tl.int32:
        differing = _number(differing & 0xFFFF, HALVES) + _number((differing >> 16) & 0xFFFF, HALVES)
    if UPPER:
        largest = whole_of(largest)
    return sum_abs, squares, dot, low, largest, differing, plain
