"""The tile kernel: self sums of A + B operands and pair sums of A x B pairs over a strip, each byte loaded once.

    selfs: Σ|x|, Σx², Σx, max|x|, #nonfinite          pairs: Σ|x-y|, Σ(x-y)², Σxy, max|x-y|, #(x ≠ y)

A program walks one strip (16,384 elements of a chunk) of the operands of one cell: A operands x and B operands y of one
dtype each, a pair, a base and four others, or a square of 4 x 4. A thread loads 16 bytes of every operand at a time and
owns one lane of every sum; the lanes are added at the end and the strip's sums go to its own slots. Shapes: operands are
[A, THREADS] and [B, THREADS], pairs [A, B, THREADS]. Accumulators are float64 and stand for one element a thread, so a
lane's sum is over 128 elements, in the order of memory: its rounding error is below 128 units of 2**-53, and a pair's or
an operand's sums are the same bits whatever else the cell holds. Multiplications are fused where `fma` stands and nowhere
else: the launcher switches contraction off.

How Σx and Σxy, which may cancel, are certain to 1e-12:

- A lane of values up to float32 is exact when Σ|x| has no bits below those of its smallest element; its smallest
  magnitude is known from an integer minimum. Of weights, one strip in a hundred has a lane that fails.
- So are the products of two bfloat16 or 8-bit values, which have at most 16 bits.
- Where a lane fails, the strip is walked once more with two-sums; it is still in the second-level cache.
- Σxy of wider values and Σx of float64 carry two-sums along all the time: 7 instructions more a pair.

Non-finite elements are counted on a second walk too, of strips whose largest magnitude is not finite.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .decode import element
from .exact import added, bits_of, joined_lanes, largest_of

__all__ = ["tile_kernel"]

THREADS = tl.constexpr(constants.THREADS)
LOG2_THREADS = tl.constexpr(constants.THREADS.bit_length() - 1)
STRIP = tl.constexpr(constants.STRIP)
STRIPS = tl.constexpr(constants.STRIPS)
LANE = tl.constexpr(constants.LANE)
SLOTS = tl.constexpr(constants.SLOTS)
COMPENSATED = tl.constexpr(2e-27)  # error of a compensated sum of a strip, in units of the sum of its terms' magnitudes
TINIEST = tl.constexpr(5e-324)  # least bound of a sum of products that are not all zero: its own product may underflow
NAN_WINS = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def _words(arena, at, first, length, ITEMSIZE: tl.constexpr, MASKED: tl.constexpr):
    """Four int32 [A, THREADS]: the 16 bytes of each operand that begin with element `first` [THREADS] of the strip."""
    word = first * ITEMSIZE // 4
    places = arena + ((at[:, None] + word[None, :])[:, :, None] + tl.arange(0, 4)[None, None, :])
    if MASKED:  # an operand's last word may hold bytes behind its end, which belong to the arena
        inside = (word[:, None] + tl.arange(0, 4)[None, :])[None, :, :] < (length * ITEMSIZE + 3) // 4
        block = tl.load(places, mask=inside, other=0)
    else:
        block = tl.load(places)
    even, odd = tl.split(tl.reshape(block, at.shape[0], THREADS, 2, 2))
    w0, w2 = tl.split(even)
    w1, w3 = tl.split(odd)
    return w0, w1, w2, w3


@triton.jit
def _value(words, first, length, K: tl.constexpr, CODE: tl.constexpr, ITEMSIZE: tl.constexpr, MASKED: tl.constexpr):
    """Element K of 16 bytes as working type [A, THREADS], 0 behind the end."""
    x = element(words[0], words[1], words[2], words[3], K, CODE, ITEMSIZE)
    if MASKED:
        x = tl.where((first + K < length)[None, :], x, 0.0)
    return x


@triton.jit
def _add_self(sums, x, BITS: tl.constexpr, WANTED: tl.constexpr):
    """An element of each operand added to its sums; the largest and smallest magnitudes always."""
    sum_abs, squares, total, low, largest, smallest = sums
    wide = x.to(tl.float64)
    if x.dtype == tl.float32:
        largest = tl.maximum(largest, tl.abs(x), propagate_nan=NAN_WINS)
        # Twice the bits have no sign; less 2, zero becomes the largest of all.
        smallest = tl.minimum(smallest, (x.to(tl.uint32, bitcast=True) << 1) - 2)
    else:
        largest = tl.maximum(largest, bits_of(x))
    if WANTED:
        sum_abs += tl.abs(wide)
        squares = tl.fma(wide, wide, squares)
        if BITS <= 24:
            total += wide
        else:
            total, low = added(total, low, wide)
    return sum_abs, squares, total, low, largest, smallest


@triton.jit
def _add_dot(dot, low, x, y, BITS: tl.constexpr):
    """x * y added with its rounding errors; products of more than 53 bits bring their own."""
    product = x * y
    if BITS > 53:
        low += tl.fma(x, y, -product)
    return added(dot, low, product)


@triton.jit
def _add_pairs(sums, x, y, BITS: tl.constexpr):
    """An element of every x [A, THREADS] and y [B, THREADS] added to the sums of their pairs [A, B, THREADS]."""
    sum_abs, squares, dot, low, largest, differing = sums
    if x.dtype == y.dtype:
        differing += (x[:, None, :] != y[None, :, :]).to(tl.int32)
    else:
        differing += (x.to(tl.float64)[:, None, :] != y.to(tl.float64)[None, :, :]).to(tl.int32)
    x = x.to(tl.float64)[:, None, :]
    y = y.to(tl.float64)[None, :, :]
    d = x - y
    size = tl.abs(d)
    sum_abs += size
    squares = tl.fma(d, d, squares)
    largest = tl.maximum(largest, bits_of(d))
    if BITS <= 16:
        dot = tl.fma(x, y, dot)
    else:
        dot, low = _add_dot(dot, low, x, y, BITS)
    return sum_abs, squares, dot, low, largest, differing


@triton.jit
def _vector(
    arena, x_at, y_at, first, length, xs, ys, pairs,
    CODE_X: tl.constexpr, SIZE_X: tl.constexpr, BITS_X: tl.constexpr, SELF_X: tl.constexpr,
    CODE_Y: tl.constexpr, SIZE_Y: tl.constexpr, BITS_Y: tl.constexpr, SELF_Y: tl.constexpr,
    PAIRS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The elements that a thread takes in one step: 16 bytes of the narrower dtype, as many elements of the other."""
    WIDTH_X: tl.constexpr = 16 // SIZE_X
    WIDTH_Y: tl.constexpr = 16 // SIZE_Y
    WIDTH: tl.constexpr = max(WIDTH_X, WIDTH_Y)
    for k in tl.static_range(WIDTH):
        if k % WIDTH_X == 0:
            x_first = first + k
            x_words = _words(arena, x_at, x_first, length, SIZE_X, MASKED)
        if PAIRS and k % WIDTH_Y == 0:
            y_first = first + k
            y_words = _words(arena, y_at, y_first, length, SIZE_Y, MASKED)
        x = _value(x_words, x_first, length, k % WIDTH_X, CODE_X, SIZE_X, MASKED)
        xs = _add_self(xs, x, BITS_X, SELF_X)
        if PAIRS:
            y = _value(y_words, y_first, length, k % WIDTH_Y, CODE_Y, SIZE_Y, MASKED)
            ys = _add_self(ys, y, BITS_Y, SELF_Y)
            pairs = _add_pairs(pairs, x, y, BITS_X + BITS_Y)
    return xs, ys, pairs


@triton.jit
def _empty_self(ROWS: tl.constexpr, NARROW: tl.constexpr):
    zero = tl.zeros([ROWS, THREADS], tl.float64)
    smallest = tl.full([ROWS, THREADS], 0xFFFFFFFF, tl.uint32)
    if NARROW:
        return zero, zero, zero, zero, tl.zeros([ROWS, THREADS], tl.float32), smallest
    else:
        return zero, zero, zero, zero, tl.zeros([ROWS, THREADS], tl.int64), smallest


@triton.jit
def _ends(sums):
    """The largest magnitude of each lane, and the smallest above zero, as float64; infinity where there is none."""
    largest, smallest = sums[4], sums[5]
    if largest.dtype == tl.float32:
        bits = (smallest + 2) >> 1
        least = bits.to(tl.float32, bitcast=True).to(tl.float64)
        return largest.to(tl.float64), tl.where(bits == 0, float("inf"), least)
    else:
        return largest.to(tl.float64, bitcast=True), tl.zeros(largest.shape, tl.float64)


@triton.jit
def _self_again(arena, at, length, CODE: tl.constexpr, ITEMSIZE: tl.constexpr):
    """A strip's Σx with two-sums, and its non-finite elements, lane by lane."""
    WIDTH: tl.constexpr = 16 // ITEMSIZE
    total = tl.zeros([at.shape[0], THREADS], tl.float64)
    low = total
    nonfinite = tl.zeros([at.shape[0], THREADS], tl.int32)
    for step in range(0, tl.cdiv(length, THREADS * WIDTH)):
        first = (step * THREADS + tl.arange(0, THREADS)) * WIDTH
        words = _words(arena, at, first, length, ITEMSIZE, True)
        for k in tl.static_range(WIDTH):
            x = _value(words, first, length, k, CODE, ITEMSIZE, True).to(tl.float64)
            total, low = added(total, low, x)
            nonfinite += (bits_of(x) >= 0x7FF0000000000000).to(tl.int32)
    return total, low, nonfinite


@triton.jit
def _dots_again(
    arena, x_at, y_at, length,
    CODE_X: tl.constexpr, SIZE_X: tl.constexpr, CODE_Y: tl.constexpr, SIZE_Y: tl.constexpr,
):  # fmt: skip
    """A strip's Σxy with two-sums; products have at most 53 bits."""
    WIDTH_X: tl.constexpr = 16 // SIZE_X
    WIDTH_Y: tl.constexpr = 16 // SIZE_Y
    WIDTH: tl.constexpr = max(WIDTH_X, WIDTH_Y)
    dot = tl.zeros([x_at.shape[0], y_at.shape[0], THREADS], tl.float64)
    low = dot
    for step in range(0, tl.cdiv(length, THREADS * WIDTH)):
        first = (step * THREADS + tl.arange(0, THREADS)) * WIDTH
        for k in tl.static_range(WIDTH):
            if k % WIDTH_X == 0:
                x_first = first + k
                x_words = _words(arena, x_at, x_first, length, SIZE_X, True)
            if k % WIDTH_Y == 0:
                y_first = first + k
                y_words = _words(arena, y_at, y_first, length, SIZE_Y, True)
            x = _value(x_words, x_first, length, k % WIDTH_X, CODE_X, SIZE_X, True).to(tl.float64)
            y = _value(y_words, y_first, length, k % WIDTH_Y, CODE_Y, SIZE_Y, True).to(tl.float64)
            dot, low = _add_dot(dot, low, x[:, None, :], y[None, :, :], 0)
    return dot, low


@triton.jit
def _store(slots, column, sum_abs, squares, high, low, bound, largest, count):
    """The slots of one strip; a column below zero is nobody's."""
    wanted = column >= 0
    at = slots + column * SLOTS
    tl.store(at, sum_abs, wanted)
    tl.store(at + 1, squares, wanted)
    tl.store(at + 2, high, wanted)
    tl.store(at + 3, low, wanted)
    tl.store(at + 4, bound, wanted)
    tl.store(at + 5, largest, wanted)
    tl.store(at + 6, count.to(tl.float64), wanted)


@triton.jit
def _close_self(
    arena, at, length, slots, column, sums, CODE: tl.constexpr, ITEMSIZE: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """The lanes of self sums [A, THREADS] added and stored."""
    sum_abs, squares, total, low, _, _ = sums
    largest, smallest = _ends(sums)
    nonfinite = tl.zeros([at.shape[0], THREADS], tl.int32)
    infinite = bits_of(largest) >= 0x7FF0000000000000
    if BITS <= 24:  # all elements of a lane are multiples of smallest * 2**-BITS
        doubtful = (sum_abs > smallest * 2.0 ** (53 - BITS)) | infinite
    else:
        doubtful = infinite
    again = tl.max(doubtful.to(tl.int32), axis=1, keep_dims=True)
    if tl.max(again) > 0:
        total_again, low_again, nonfinite = _self_again(arena, at, length, CODE, ITEMSIZE)
        total = tl.where(again > 0, total_again, total)
        low = tl.where(again > 0, low_again, low)
    high, rest = joined_lanes(total[:, None, :], low[:, None, :], LOG2_THREADS)
    sizes = tl.sum(sum_abs, axis=1)[:, None]
    if BITS <= 24:
        bound = tl.where(again > 0, COMPENSATED * sizes, 0.0)
    else:
        bound = COMPENSATED * sizes
    _store(
        slots, column[:, None], sizes, tl.sum(squares, axis=1)[:, None], high, rest, bound,
        largest_of(bits_of(largest)[:, None, :]), tl.sum(nonfinite, axis=1)[:, None],
    )  # fmt: skip


@triton.jit
def _close_pairs(
    arena, x_at, y_at, length, slots, column, xs, ys, sums,
    CODE_X: tl.constexpr, SIZE_X: tl.constexpr, BITS_X: tl.constexpr,
    CODE_Y: tl.constexpr, SIZE_Y: tl.constexpr, BITS_Y: tl.constexpr,
):  # fmt: skip
    """The lanes of pair sums [A, B, THREADS] added and stored."""
    sum_abs, squares, dot, low, largest, differing = sums
    x_largest, x_smallest = _ends(xs)
    y_largest, y_smallest = _ends(ys)
    if BITS_X + BITS_Y <= 16:
        # All products of a lane are multiples of this but for a power of two, and their sum is at most LANE times ...
        unit = x_smallest[:, None, :] * y_smallest[None, :, :] * 2.0 ** (53 - BITS_X - BITS_Y)
        doubtful = LANE * x_largest[:, None, :] * y_largest[None, :, :] > unit
        again = tl.max(doubtful.to(tl.int32), axis=2, keep_dims=True)
        if tl.max(again) > 0:
            dot_again, low_again = _dots_again(arena, x_at, y_at, length, CODE_X, SIZE_X, CODE_Y, SIZE_Y)
            dot = tl.where(again > 0, dot_again, dot)
            low = tl.where(again > 0, low_again, low)
        inexact = tl.max(again, axis=2) > 0
    else:
        inexact = tl.full([x_at.shape[0], y_at.shape[0]], 1, tl.int1)
    high, rest = joined_lanes(dot, low, LOG2_THREADS)
    x_most = largest_of(bits_of(x_largest)[:, None, :])
    y_most = tl.trans(largest_of(bits_of(y_largest)[:, None, :]))
    bound = tl.maximum(COMPENSATED * STRIP * x_most * y_most, TINIEST)
    _store(
        slots, column, tl.sum(sum_abs, axis=2), tl.sum(squares, axis=2), high, rest,
        tl.where(inexact & (x_most > 0) & (y_most > 0), bound, 0.0), largest_of(largest), tl.sum(differing, axis=2),
    )  # fmt: skip


@triton.jit
def tile_kernel(
    arena,  # int32: the bytes of all operands
    items,  # (items, 2 + N) int64: slot, elements, then where each operand begins, in 16 bytes from the arena's start
    cells,  # (cells, 2 * (A + B) + A * B) int64: operands, their columns of slots or -1, the pairs' columns or -1
    slots,  # (strips, columns, SLOTS) float64
    operands,
    cell_count,
    columns,
    A: tl.constexpr, B: tl.constexpr,
    CODE_X: tl.constexpr, SIZE_X: tl.constexpr, BITS_X: tl.constexpr, SELF_X: tl.constexpr,
    CODE_Y: tl.constexpr, SIZE_Y: tl.constexpr, BITS_Y: tl.constexpr, SELF_Y: tl.constexpr,
    PAIRS: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """One program per (item, strip of its chunk, cell), the cells of a strip side by side: they share what L2 holds."""
    program = tl.program_id(0)
    cell = cells + (program % cell_count) * (2 * (A + B) + A * B)
    strip = program // cell_count % STRIPS
    item = items + (program // cell_count // STRIPS).to(tl.int64) * (2 + operands)
    slots += (tl.load(item) * STRIPS + strip) * columns * SLOTS
    length = tl.maximum(tl.minimum(tl.load(item + 1) - strip * STRIP, STRIP), 0).to(tl.int32)

    a, b = tl.arange(0, A), tl.arange(0, B)
    x_at = tl.load(item + 2 + tl.load(cell + a)) * 4 + strip * (STRIP * SIZE_X // 4)
    y_at = tl.load(item + 2 + tl.load(cell + A + b)) * 4 + strip * (STRIP * SIZE_Y // 4)
    xs, ys = _empty_self(A, BITS_X <= 24), _empty_self(B, BITS_Y <= 24)
    zero = tl.zeros([A, B, THREADS], tl.float64)
    pairs = zero, zero, zero, zero, tl.zeros([A, B, THREADS], tl.int64), tl.zeros([A, B, THREADS], tl.int32)

    STEP: tl.constexpr = THREADS * max(16 // SIZE_X, 16 // SIZE_Y)
    lanes = tl.arange(0, THREADS) * (STEP // THREADS)
    whole = length // STEP
    for step in tl.range(0, whole, loop_unroll_factor=UNROLL):
        xs, ys, pairs = _vector(
            arena, x_at, y_at, step * STEP + lanes, length, xs, ys, pairs,
            CODE_X, SIZE_X, BITS_X, SELF_X, CODE_Y, SIZE_Y, BITS_Y, SELF_Y, PAIRS, False,
        )  # fmt: skip
    if whole * STEP < length:
        xs, ys, pairs = _vector(
            arena, x_at, y_at, whole * STEP + lanes, length, xs, ys, pairs,
            CODE_X, SIZE_X, BITS_X, SELF_X, CODE_Y, SIZE_Y, BITS_Y, SELF_Y, PAIRS, True,
        )  # fmt: skip

    if SELF_X:
        _close_self(arena, x_at, length, slots, tl.load(cell + A + B + a), xs, CODE_X, SIZE_X, BITS_X)
    if SELF_Y:
        _close_self(arena, y_at, length, slots, tl.load(cell + 2 * A + B + b), ys, CODE_Y, SIZE_Y, BITS_Y)
    if PAIRS:
        column = tl.load(cell + 2 * (A + B) + a[:, None] * B + b[None, :])
        _close_pairs(
            arena, x_at, y_at, length, slots, column, xs, ys, pairs, CODE_X, SIZE_X, BITS_X, CODE_Y, SIZE_Y, BITS_Y
        )
