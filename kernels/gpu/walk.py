"""What a program walks: where its strip lies, 16 bytes of every operand at a time, and every element added to the sums.

    selfs: Σ|x|, Σx², Σx, max|x|, #nonfinite          pairs: Σ|x-y|, Σ(x-y)², Σxy, max|x-y|, #(x ≠ y)

A thread loads 16 bytes of every operand at a time and owns one lane of every sum. Shapes: operands are [A, THREADS] and
[B, THREADS], pairs [A, B, THREADS]. Accumulators are float64, one a lane, and a lane's sum is over 256 elements in the
order of memory: its rounding error is below 256 units of 2**-53. The walk with care carries the rounding errors of Σx
and Σxy along (two-sums), counts what is not finite, takes every maximum in float64, and masks what is behind the end.

Where a GPU computes with two halves of a word, the fast walk decodes F8_E4M3 and F8_E5M2 to float16, two at a time.
Of bfloat16 and float16 it takes the ends (max|x| and the smallest magnitude) and, of two of a kind, #(x ≠ y) of two
elements at a time; until it is over these three sums are words of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .decode import element, half
from .dtypes import (
    bits_in,
    derives_squares,
    exact_products,
    exact_strip,
    halves_in,
    needs_least,
    scale_of,
    size_of,
    strip_of,
    upper_differences,
)
from .exact import added, bits_of
from .halves import count_differing, halves_of, larger_magnitude, magnitude_ends

__all__ = [
    "begin_of",
    "beside",
    "block_of",
    "columns_of",
    "in_halves",
    "no_pairs",
    "no_self",
    "place",
    "single_pairs",
    "single_self",
    "upper_half",
    "value",
    "vector",
    "whole_of",
    "words",
]

THREADS = tl.constexpr(constants.THREADS)
STRIPS = tl.constexpr(constants.STRIPS)
SLOTS = tl.constexpr(constants.SLOTS)
INFINITY = tl.constexpr(0x7FF0000000000000)
NAN_WINS = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def place(
    items, cells, slots, operands, cell_count, log2_strips, columns,
    A: tl.constexpr, B: tl.constexpr, CODE_X: tl.constexpr, CODE_Y: tl.constexpr,
):  # fmt: skip
    """Where this program's strip lies.

    Returns:
        elements of the strip; the words at which it begins in each operand, [A] and [B] int64; its slots; its cell.
    """
    program = tl.program_id(0)
    cell = cells + (program % cell_count) * (2 * (A + B) + A * B)
    program //= cell_count
    strip = program & ((1 << log2_strips) - 1)
    item = items + (program >> log2_strips).to(tl.int64) * (2 + operands)
    STRIP: tl.constexpr = strip_of(CODE_X, CODE_Y)
    length = tl.maximum(tl.minimum(tl.load(item + 1) - strip * STRIP, STRIP), 0).to(tl.int32)
    a, b = tl.arange(0, A), tl.arange(0, B)
    x_at = tl.load(item + 2 + tl.load(cell + a)) * 4 + strip * (STRIP * size_of(CODE_X) // 4)
    y_at = tl.load(item + 2 + tl.load(cell + A + b)) * 4 + strip * (STRIP * size_of(CODE_Y) // 4)
    slots += (tl.load(item) * STRIPS + strip) * columns * SLOTS
    return length, x_at, y_at, slots, cell


@triton.jit
def columns_of(cell, A: tl.constexpr, B: tl.constexpr):
    """The columns of slots for the sums of the operands, [A, 1] and [B, 1], and of the pairs, [A, B]."""
    a, b = tl.arange(0, A), tl.arange(0, B)
    return (
        tl.load(cell + A + B + a)[:, None],
        tl.load(cell + 2 * A + B + b)[:, None],
        tl.load(cell + 2 * (A + B) + a[:, None] * B + b[None, :]),
    )


@triton.jit
def begin_of(start, part, k, OWN: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """The element of the strip with which the first thread begins a load of OWN elements; the next one OWN behind it.

    A step is THREADS * WIDTH elements: of a dtype of which a load brings WIDTH one load, of a wider one several, one
    behind the other. So a lane holds the same elements whatever its operand is paired with.

    Args:
        start: the element with which the step begins.
        part: which of PARTS of the elements of each thread this is.
        k: the element of the part.
    """
    if OWN == WIDTH:
        return start + part * (WIDTH // PARTS)
    else:
        return start + (part * (WIDTH // PARTS // OWN) + k // OWN) * (THREADS * OWN)


@triton.jit
def upper_half(x):
    """The upper halves of float64 as the float32 of these bits, which sort as they do."""
    return (x.to(tl.int64, bitcast=True) >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def whole_of(upper):
    """The float64 with such upper halves, and zeros behind them, as float32."""
    return (upper.to(tl.int32, bitcast=True).to(tl.int64) << 32).to(tl.float64, bitcast=True).to(tl.float32)


@triton.jit
def block_of(arena, at, begin, length, OWN: tl.constexpr, ITEMSIZE: tl.constexpr, MASKED: tl.constexpr):
    """int32 [A, THREADS * 4]: 16 bytes a thread of each operand, from element `begin` of the strip on, OWN apart.

    Words are one axis, along which the threads of a warp come to lie. Had they a third one of their own, Triton 3.6
    would give each of four operands eight threads of a warp: operands would go through shared memory to their pairs,
    and `halves.added_up` would add up what is not of one sum.

    MASKED: those behind the end are 0, and a load need not begin a word if what is wanted ends with it.
    """
    number = tl.arange(0, THREADS * 4)
    first = begin + number // 4 * OWN
    word = first * ITEMSIZE // 4 + number % 4
    places = arena + (at[:, None] + word[None, :])
    if MASKED:  # an operand's last word may hold bytes behind its end, which belong to the arena
        block = tl.load(places, mask=word[None, :] < (length * ITEMSIZE + 3) // 4, other=0)
        if ITEMSIZE < 4:
            block >>= (first * ITEMSIZE % 4 * 8)[None, :]
        return block
    else:
        return tl.load(places)


@triton.jit
def words(block):
    """A block as four int32 [A, THREADS]."""
    even, odd = tl.split(tl.reshape(block, block.shape[0], THREADS, 2, 2))
    w0, w2 = tl.split(even)
    w1, w3 = tl.split(odd)
    return w0, w1, w2, w3


@triton.jit
def turned(block, RATIO: tl.constexpr):
    """A block of a step as the threads want it that have loaded an operand RATIO times as wide.

    Those loads bring one run of elements after the other, so each thread wants 1 / RATIO of 16 bytes of each of RATIO
    runs. It goes through shared memory.
    """
    A: tl.constexpr = block.shape[0]
    if RATIO <= 4:
        runs = tl.permute(tl.reshape(block, A, RATIO, THREADS, 4 // RATIO), 0, 2, 1, 3)
        return words(tl.reshape(runs, A, THREADS, 4))
    else:  # two bytes of eight runs
        runs = tl.reshape(tl.join(block & 0xFFFF, block >> 16), A, RATIO, THREADS)
        low, high = tl.split(tl.reshape(tl.permute(runs, 0, 2, 1), A, THREADS, 4, 2))
        return words((low & 0xFFFF) | (high << 16))


@triton.jit
def beside(
    arena, at, block, begin, length,
    OWN: tl.constexpr, CODE: tl.constexpr, RATIO: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The words of a narrow operand beside those of a wide one, which has OWN elements in a load.

    They are those of the block that is loaded; MASKED, they are loaded anew.
    """
    if MASKED:
        return words(block_of(arena, at, begin, length, OWN, size_of(CODE), True))
    else:
        return turned(block, RATIO)


@triton.jit
def value(
    words, begin, length,
    OWN: tl.constexpr, K: tl.constexpr, CODE: tl.constexpr,
    SCALED: tl.constexpr, MASKED: tl.constexpr, CAREFUL: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """Element K of 16 bytes as working type [A, THREADS], in units of `scale_of` the dtype where SCALED.

    begin, OWN: as for `block_of`. MASKED: elements behind the end are 0. CAREFUL: NaN of F8_E4M3 is read as NaN.
    HALVES: words are `in_halves`.
    """
    if HALVES == "f16":
        return half(words[K // 2], 2 * (K % 2))
    x = element(words[0], words[1], words[2], words[3], K, CODE, size_of(CODE), CAREFUL)
    if not CAREFUL and not SCALED and scale_of(CODE) != 1.0:
        x *= scale_of(CODE)
    if MASKED:
        first = begin + tl.arange(0, THREADS) * OWN
        x = tl.where((first + K < length)[None, :], x, 0.0)
    if CAREFUL and SCALED:
        x *= 1.0 / scale_of(CODE)
    return x


@triton.jit
def _add_self(
    sums, x,
    BITS: tl.constexpr, WANTED: tl.constexpr, SQUARES: tl.constexpr, LEAST: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """An element of each operand added to its sums [A, THREADS]."""
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
    """An element of every x [A, THREADS] and y [B, THREADS] added to the sums of their pairs [A, B, THREADS].

    DERIVED: Σd² follows from other sums, and Σ|d| is added to a run in float32, which is exact. UPPER: the maximum is
    of the upper halves of float64.
    """
    sum_abs, squares, dot, low, largest, differing, plain = sums
    if (largest.dtype == tl.float32 and not UPPER) or (DERIVED and not CAREFUL):
        short = tl.abs(x[:, None, :] - y[None, :, :])
        if largest.dtype == tl.float32:
            largest = tl.maximum(largest, short, propagate_nan=NAN_WINS)
    # Counted in float32: a comparison makes 1.0 in one instruction, and a number that can be added in three otherwise.
    if differing.dtype == tl.int32:
        pass  # counted by `_add_differing`
    elif CAREFUL or x.dtype != y.dtype:  # infinity equals itself
        differing += tl.where(x.to(tl.float64)[:, None, :] != y.to(tl.float64)[None, :, :], 1.0, 0.0)
    else:
        differing += tl.where(x[:, None, :] - y[None, :, :] != 0.0, 1.0, 0.0)
    x = x.to(tl.float64)[:, None, :]
    y = y.to(tl.float64)[None, :, :]
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
def in_halves(words, CODE: tl.constexpr, HALVES: tl.constexpr):
    """Four words as words of two numbers of 16 bits where HALVES says so: of 8-bit floats eight."""
    if HALVES == "f16" and size_of(CODE) == 1:
        return (
            halves_of(words[0], CODE)
            + halves_of(words[1], CODE)
            + halves_of(words[2], CODE)
            + halves_of(words[3], CODE)
        )
    else:
        return words


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
            x_word = tl.broadcast_to(x[k][:, None, :], differing.shape)
            y_word = tl.broadcast_to(y[k][None, :, :], differing.shape)
            differing = count_differing(differing, x_word, y_word, HALVES)
    return sum_abs, squares, dot, low, largest, differing, plain


@triton.jit
def vector(
    arena, x_at, y_at, start, part, length, xs, ys, pairs,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    WIDTH: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr, PACKED: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """One of PARTS of a step of WIDTH elements a thread: 16 bytes of an operand at a time.

    SCALED: in units of `scale_of` both. PACKED: the GPU has the instructions of `halves`; for the fast walk.

    Of two dtypes of two sizes, lanes of pairs are those of the wider one. So are, in the fast walk, those of a narrower
    one's self sums if they are exact, whatever the lanes: an element is decoded once then.
    """
    OWN_X: tl.constexpr = 16 // size_of(CODE_X)
    OWN_Y: tl.constexpr = 16 // size_of(CODE_Y)
    HALVES_X: tl.constexpr = halves_in(CODE_X) if PACKED else ""
    HALVES_Y: tl.constexpr = halves_in(CODE_Y) if PACKED else ""
    UPPER: tl.constexpr = upper_differences(CODE_X, CODE_Y, PACKED)
    TURNED_X: tl.constexpr = PAIRS and OWN_X > OWN_Y and exact_strip(CODE_X, CODE_X) and not CAREFUL
    TURNED_Y: tl.constexpr = PAIRS and OWN_Y > OWN_X and exact_strip(CODE_Y, CODE_Y) and not CAREFUL
    LEAST: tl.constexpr = needs_least(CODE_X, CODE_Y, PAIRS)
    DERIVED: tl.constexpr = PAIRS and derives_squares(CODE_X, CODE_Y)
    run = tl.zeros(pairs[0].shape, tl.float32)
    for k in tl.static_range(WIDTH // PARTS):
        if k % OWN_X == 0:
            x_begin = begin_of(start, part, k, OWN_X, WIDTH, PARTS)
            x_block = block_of(arena, x_at, x_begin, length, OWN_X, size_of(CODE_X), CAREFUL)
            x_words = in_halves(words(x_block), CODE_X, HALVES_X)
            xs = _add_ends(xs, x_words)
        if not TURNED_X:
            x = value(x_words, x_begin, length, OWN_X, k % OWN_X, CODE_X, SCALED, CAREFUL, CAREFUL, HALVES_X)
            xs = _add_self(xs, x, bits_in(CODE_X), SELF_X, SELF_X or DERIVED, LEAST, CAREFUL)
        if PAIRS:
            if k % OWN_Y == 0:
                y_begin = begin_of(start, part, k, OWN_Y, WIDTH, PARTS)
                y_block = block_of(arena, y_at, y_begin, length, OWN_Y, size_of(CODE_Y), CAREFUL)
                y_words = in_halves(words(y_block), CODE_Y, HALVES_Y)
                ys = _add_ends(ys, y_words)
                pairs = _add_differing(pairs, x_words, y_words, HALVES_X)
            if not TURNED_Y:
                y = value(y_words, y_begin, length, OWN_Y, k % OWN_Y, CODE_Y, SCALED, CAREFUL, CAREFUL, HALVES_Y)
                ys = _add_self(ys, y, bits_in(CODE_Y), SELF_Y, SELF_Y or DERIVED, LEAST, CAREFUL)
            if OWN_X > OWN_Y:
                if k % (OWN_Y if CAREFUL else WIDTH) == 0:
                    x_words_of_y = beside(
                        arena, x_at, x_block, y_begin, length, OWN_Y, CODE_X, OWN_X // OWN_Y, CAREFUL
                    )  # fmt: skip
                    x_words_of_y = in_halves(x_words_of_y, CODE_X, HALVES_X)
                x = value(
                    x_words_of_y, y_begin, length, OWN_Y, k % (OWN_Y if CAREFUL else WIDTH), CODE_X,
                    SCALED, CAREFUL, CAREFUL, HALVES_X,
                )  # fmt: skip
                if TURNED_X:
                    xs = _add_self(xs, x, bits_in(CODE_X), SELF_X, SELF_X, LEAST, CAREFUL)
            if OWN_Y > OWN_X:
                if k % (OWN_X if CAREFUL else WIDTH) == 0:
                    y_words_of_x = beside(
                        arena, y_at, y_block, x_begin, length, OWN_X, CODE_Y, OWN_Y // OWN_X, CAREFUL
                    )  # fmt: skip
                    y_words_of_x = in_halves(y_words_of_x, CODE_Y, HALVES_Y)
                y = value(
                    y_words_of_x, x_begin, length, OWN_X, k % (OWN_X if CAREFUL else WIDTH), CODE_Y,
                    SCALED, CAREFUL, CAREFUL, HALVES_Y,
                )  # fmt: skip
                if TURNED_Y:
                    ys = _add_self(ys, y, bits_in(CODE_Y), SELF_Y, SELF_Y, LEAST, CAREFUL)
            pairs, run = _add_pairs(
                pairs, run, x, y,
                bits_in(CODE_X) + bits_in(CODE_Y), exact_products(CODE_X, CODE_Y), DERIVED, UPPER, CAREFUL,
            )  # fmt: skip
    if DERIVED and not CAREFUL:
        pairs = pairs[0] + run.to(tl.float64), pairs[1], pairs[2], pairs[3], pairs[4], pairs[5], pairs[6]
    return xs, ys, pairs


@triton.jit
def no_self(ROWS: tl.constexpr, CODE: tl.constexpr, WORDS: tl.constexpr):
    """Self sums of nothing. WORDS: the ends are words of two."""
    zero = tl.zeros([ROWS, THREADS], tl.float64)
    nonfinite = tl.zeros([ROWS, THREADS], tl.int32)
    if WORDS:
        return zero, zero, zero, zero, nonfinite, nonfinite - 1, nonfinite
    else:
        largest = tl.zeros([ROWS, THREADS], tl.float32 if bits_in(CODE) <= 24 else tl.int64)
        return zero, zero, zero, zero, largest, tl.full([ROWS, THREADS], 0xFFFFFFFF, tl.uint32), nonfinite


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
