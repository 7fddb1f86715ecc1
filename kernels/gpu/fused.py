"""The tile kernel: self sums of A + B operands and pair sums of A x B pairs over a strip, each byte loaded once.

    selfs: Σ|x|, Σx², Σx, max|x|, #nonfinite          pairs: Σ|x-y|, Σ(x-y)², Σxy, max|x-y|, #(x ≠ y)

A program walks one strip (16,384 elements of a chunk) of the operands of one cell: A operands x and B operands y of one
dtype each, a pair, a base and four others, or a square. A thread loads 16 bytes of every operand at a time and owns one
lane of every sum; the lanes are added at the end and the strip's sums go to its own slots. Shapes: operands are
[A, THREADS] and [B, THREADS], pairs [A, B, THREADS]. Accumulators are float64, one a lane, and a lane's sum is over 128
elements in the order of memory: its rounding error is below 128 units of 2**-53, and a pair's or an operand's sums are
the same bits whatever else the cell holds. A multiplication is fused with an addition where `fma` stands and nowhere
else: the launcher switches contraction off.

The strip is walked fast, and once more with care if anything is in doubt after that; the second-level cache still has
it then. The walk with care carries the rounding errors of Σx and Σxy along (two-sums), counts what is not finite, and
takes every maximum in float64. The end of a strip, where loads have masks, is always walked so. In doubt are

- a Σx that may cancel: unless a lane's Σ|x| has no bits below those of its smallest element, an integer minimum. Then
  the lane is exact. Of weights, one strip of float32 in 400 is in doubt, none of float16 and 8-bit floats (`dtypes`).
- a Σxy of bfloat16 or 8-bit values, for the like reason. Wider products carry two-sums all the time.
- a maximum that float32 may have rounded: |x-y| of bfloat16 and 8-bit values is fast in float32.
- whatever is not finite; the fast way to read F8_E4M3 takes NaN for 480, which is no value of it.

Where a lane is exact, two-sums add nothing, so the same bits come out of both walks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .decode import element
from .dtypes import (
    bits_in,
    exact_differences,
    exact_elements,
    exact_products,
    largest_fast,
    needs_least,
    scale_of,
    size_of,
)
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
INFINITY = tl.constexpr(0x7FF0000000000000)
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
def _value(
    words, first, length,
    K: tl.constexpr, CODE: tl.constexpr, ITEMSIZE: tl.constexpr, SCALED: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """Element K of 16 bytes as working type [A, THREADS], in units of `scale_of` the dtype; 0 behind the end."""
    x = element(words[0], words[1], words[2], words[3], K, CODE, ITEMSIZE, CAREFUL)
    if not CAREFUL and not SCALED and scale_of(CODE) != 1.0:
        x *= scale_of(CODE)
    if CAREFUL:
        x = tl.where((first + K < length)[None, :], x, 0.0)
        if SCALED:
            x *= 1.0 / scale_of(CODE)
    return x


@triton.jit
def _add_self(sums, x, BITS: tl.constexpr, WANTED: tl.constexpr, LEAST: tl.constexpr, CAREFUL: tl.constexpr):
    """An element of each operand added to its sums [A, THREADS]."""
    sum_abs, squares, total, low, largest, smallest, nonfinite = sums
    wide = x.to(tl.float64)
    if x.dtype == tl.float32:
        largest = tl.maximum(largest, tl.abs(x), propagate_nan=NAN_WINS)
        if LEAST:  # twice the bits have no sign; less 2, zero becomes the largest of all
            smallest = tl.minimum(smallest, (x.to(tl.uint32, bitcast=True) << 1) - 2)
    else:
        largest = tl.maximum(largest, bits_of(x))
    if WANTED:
        sum_abs += tl.abs(wide)
        squares = tl.fma(wide, wide, squares)
        if BITS > 24 or CAREFUL:
            total, low = added(total, low, wide)
        else:
            total += wide
        if CAREFUL:
            nonfinite += (bits_of(wide) >= INFINITY).to(tl.int32)
    return sum_abs, squares, total, low, largest, smallest, nonfinite


@triton.jit
def _add_pairs(sums, x, y, BITS: tl.constexpr, EXACT: tl.constexpr, CAREFUL: tl.constexpr):
    """An element of every x [A, THREADS] and y [B, THREADS] added to the sums of their pairs [A, B, THREADS]."""
    sum_abs, squares, dot, low, largest, differing = sums
    if x.dtype == y.dtype:
        differing += (x[:, None, :] != y[None, :, :]).to(tl.int32)
    else:
        differing += (x.to(tl.float64)[:, None, :] != y.to(tl.float64)[None, :, :]).to(tl.int32)
    if largest.dtype == tl.float32:
        largest = tl.maximum(largest, tl.abs(x[:, None, :] - y[None, :, :]), propagate_nan=NAN_WINS)
    x = x.to(tl.float64)[:, None, :]
    y = y.to(tl.float64)[None, :, :]
    d = x - y
    sum_abs += tl.abs(d)
    squares = tl.fma(d, d, squares)
    if largest.dtype == tl.int64:
        largest = tl.maximum(largest, bits_of(d))
    if EXACT or (BITS <= 16 and not CAREFUL):
        dot = tl.fma(x, y, dot)
    else:
        product = x * y
        if BITS > 53:
            low += tl.fma(x, y, -product)
        dot, low = added(dot, low, product)
    return sum_abs, squares, dot, low, largest, differing


@triton.jit
def _vector(
    arena, x_at, y_at, first, length, xs, ys, pairs,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    WIDTH: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """The next WIDTH elements of each thread: 16 bytes of an operand at a time."""
    WIDTH_X: tl.constexpr = 16 // size_of(CODE_X)
    WIDTH_Y: tl.constexpr = 16 // size_of(CODE_Y)
    SCALED: tl.constexpr = CODE_X == CODE_Y
    LEAST: tl.constexpr = needs_least(CODE_X, CODE_Y, PAIRS)
    for k in tl.static_range(WIDTH):
        if k % WIDTH_X == 0:
            x_first = first + k
            x_words = _words(arena, x_at, x_first, length, size_of(CODE_X), CAREFUL)
        if PAIRS and k % WIDTH_Y == 0:
            y_first = first + k
            y_words = _words(arena, y_at, y_first, length, size_of(CODE_Y), CAREFUL)
        x = _value(x_words, x_first, length, k % WIDTH_X, CODE_X, size_of(CODE_X), SCALED, CAREFUL)
        xs = _add_self(xs, x, bits_in(CODE_X), SELF_X, LEAST, CAREFUL)
        if PAIRS:
            y = _value(y_words, y_first, length, k % WIDTH_Y, CODE_Y, size_of(CODE_Y), SCALED, CAREFUL)
            ys = _add_self(ys, y, bits_in(CODE_Y), SELF_Y, LEAST, CAREFUL)
            pairs = _add_pairs(pairs, x, y, bits_in(CODE_X) + bits_in(CODE_Y), exact_products(CODE_X, CODE_Y), CAREFUL)
    return xs, ys, pairs


@triton.jit
def _no_self(ROWS: tl.constexpr, CODE: tl.constexpr):
    """Self sums of nothing."""
    zero = tl.zeros([ROWS, THREADS], tl.float64)
    largest = tl.zeros([ROWS, THREADS], tl.float32 if bits_in(CODE) <= 24 else tl.int64)
    return (
        zero, zero, zero, zero, largest, tl.full([ROWS, THREADS], 0xFFFFFFFF, tl.uint32),
        tl.zeros([ROWS, THREADS], tl.int32),
    )  # fmt: skip


@triton.jit
def _no_pairs(A: tl.constexpr, B: tl.constexpr, SHORT: tl.constexpr):
    """Pair sums of nothing; the maximum is a float32, or the bits of a float64."""
    zero = tl.zeros([A, B, THREADS], tl.float64)
    largest = tl.zeros([A, B, THREADS], tl.float32 if SHORT else tl.int64)
    return zero, zero, zero, zero, largest, tl.zeros([A, B, THREADS], tl.int32)


@triton.jit
def _ends(sums):
    """The largest magnitude of each lane as float64, and the smallest above zero, infinity where there is none."""
    largest, smallest = sums[4], sums[5]
    if largest.dtype == tl.float32:
        bits = (smallest + 2) >> 1
        least = bits.to(tl.float32, bitcast=True).to(tl.float64)
        return largest.to(tl.float64), tl.where(bits == 0, float("inf"), least)
    else:
        return largest.to(tl.float64, bitcast=True), tl.zeros(largest.shape, tl.float64)


@triton.jit
def _exact_self(sums, CODE: tl.constexpr):
    """Whether each lane's Σx is exact: all elements are multiples of the smallest one times 2**-bits."""
    if exact_elements(CODE):
        return tl.full(sums[0].shape, 1, tl.int1)
    elif bits_in(CODE) <= 24:
        return ~(sums[0] > _ends(sums)[1] * 2.0 ** (53 - bits_in(CODE)))
    else:
        return tl.full(sums[0].shape, 0, tl.int1)


@triton.jit
def _exact_dots(xs, ys, CODE_X: tl.constexpr, CODE_Y: tl.constexpr):
    """Whether each lane's Σxy [A, B, THREADS] is exact, for the like reason."""
    BITS: tl.constexpr = bits_in(CODE_X) + bits_in(CODE_Y)
    x_largest, x_smallest = _ends(xs)
    y_largest, y_smallest = _ends(ys)
    most = LANE * x_largest[:, None, :] * y_largest[None, :, :]
    if exact_products(CODE_X, CODE_Y):
        return tl.full(most.shape, 1, tl.int1)
    elif BITS <= 16:
        return ~(most > x_smallest[:, None, :] * y_smallest[None, :, :] * 2.0 ** (53 - BITS))
    else:
        return tl.full(most.shape, 0, tl.int1)


@triton.jit
def _exact_dots_by_squares(
    xs, ys, CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr
):
    """The same, found more often: |Σxy| is at most the root of Σx² Σy² (Cauchy and Schwarz), where those are taken."""
    BITS: tl.constexpr = bits_in(CODE_X) + bits_in(CODE_Y)
    x_largest, x_smallest = _ends(xs)
    y_largest, y_smallest = _ends(ys)
    x_squares = xs[1] if SELF_X else LANE * x_largest * x_largest
    y_squares = ys[1] if SELF_Y else LANE * y_largest * y_largest
    unit = x_smallest[:, None, :] * y_smallest[None, :, :] * 2.0 ** (53 - BITS)
    return ~(1.001 * x_squares[:, None, :] * y_squares[None, :, :] > unit * unit)


@triton.jit
def _in_doubt(
    xs, ys, pairs,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Whether a fast walk must be made again, for any of the reasons above."""
    SCALED: tl.constexpr = CODE_X == CODE_Y
    x_largest, x_smallest = _ends(xs)
    x_sound = x_largest <= largest_fast(CODE_X, SCALED)  # [A, THREADS], False for NaN
    if SELF_X and bits_in(CODE_X) <= 24:
        x_sound &= _exact_self(xs, CODE_X)
    sound = x_sound[:, None, :]
    if PAIRS:
        y_largest, y_smallest = _ends(ys)
        y_sound = y_largest <= largest_fast(CODE_Y, SCALED)
        if SELF_Y and bits_in(CODE_Y) <= 24:
            y_sound &= _exact_self(ys, CODE_Y)
        sound = sound & y_sound[None, :, :]  # [A, B, THREADS]
        if bits_in(CODE_X) + bits_in(CODE_Y) <= 16 and not exact_products(CODE_X, CODE_Y):
            sound &= _exact_dots_by_squares(xs, ys, CODE_X, SELF_X, CODE_Y, SELF_Y)
        largest = pairs[4]
        if largest.dtype == tl.float32 and not exact_differences(CODE_X, CODE_Y):
            # Differences are multiples of 2**-8 of the smaller of these; rounding keeps the order, so only the lanes
            # with the largest matter.
            wide = largest.to(tl.float64)
            least = tl.minimum(x_smallest[:, None, :], y_smallest[None, :, :])
            most = tl.max(bits_of(wide), axis=2, keep_dims=True)
            sound &= (bits_of(wide) != most) | (wide <= 65536.0 * least)
    return tl.min(tl.ravel(sound.to(tl.int32)), axis=0) == 0


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
def _close_self(slots, column, sums, CODE: tl.constexpr, SCALE: tl.constexpr):
    """The lanes of self sums [A, THREADS] added and stored, in units of 1 again."""
    sum_abs, squares, total, low, _, _, nonfinite = sums
    size = tl.sum(sum_abs, axis=1)[:, None]
    high, rest = joined_lanes(total[:, None, :], low[:, None, :], LOG2_THREADS)
    inexact = tl.max((~_exact_self(sums, CODE)).to(tl.int32), axis=1)[:, None] > 0
    _store(
        slots,
        column[:, None],
        size * SCALE,
        tl.sum(squares, axis=1)[:, None] * (SCALE * SCALE),
        high * SCALE,
        rest * SCALE,
        tl.where(inexact, COMPENSATED * size * SCALE, 0.0),
        largest_of(bits_of(_ends(sums)[0])[:, None, :]) * SCALE,
        tl.sum(nonfinite, axis=1)[:, None],
    )


@triton.jit
def _close_pairs(slots, column, xs, ys, sums, CODE_X: tl.constexpr, CODE_Y: tl.constexpr, SCALE: tl.constexpr):
    """The lanes of pair sums [A, B, THREADS] added and stored."""
    sum_abs, squares, dot, low, largest, differing = sums
    high, rest = joined_lanes(dot, low, LOG2_THREADS)
    x_most = largest_of(bits_of(_ends(xs)[0])[:, None, :])  # [A, 1]
    y_most = tl.trans(largest_of(bits_of(_ends(ys)[0])[:, None, :]))  # [1, B]
    bound = tl.maximum(COMPENSATED * (STRIP * SCALE * SCALE) * x_most * y_most, TINIEST)
    inexact = tl.max((~_exact_dots(xs, ys, CODE_X, CODE_Y)).to(tl.int32), axis=2) > 0
    _store(
        slots,
        column,
        tl.sum(sum_abs, axis=2) * SCALE,
        tl.sum(squares, axis=2) * (SCALE * SCALE),
        high * (SCALE * SCALE),
        rest * (SCALE * SCALE),
        tl.where(inexact & (x_most > 0) & (y_most > 0), bound, 0.0),
        largest_of(largest) * SCALE,
        tl.sum(differing, axis=2),
    )


@triton.jit(do_not_specialize=["operands", "cell_count", "strips", "columns"])  # a compilation takes seconds
def tile_kernel(
    arena,  # int32: the bytes of all operands
    items,  # (items, 2 + N) int64: slot, elements, then where each operand begins, in 16 bytes from the arena's start
    cells,  # (cells, 2 * (A + B) + A * B) int64: operands, their columns of slots or -1, the pairs' columns or -1
    slots,  # (strips, columns, SLOTS) float64
    operands,
    cell_count,
    strips,
    columns,
    A: tl.constexpr, B: tl.constexpr,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One program per (item, strip of its chunk, cell), the cells of a strip side by side: they share what L2 holds.

    strips: how many strips the longest item has; all others are walked as strips of nothing.
    """
    program = tl.program_id(0)
    cell = cells + (program % cell_count) * (2 * (A + B) + A * B)
    strip = program // cell_count % strips
    item = items + (program // cell_count // strips).to(tl.int64) * (2 + operands)
    length = tl.maximum(tl.minimum(tl.load(item + 1) - strip * STRIP, STRIP), 0).to(tl.int32)

    a, b = tl.arange(0, A), tl.arange(0, B)
    x_at = tl.load(item + 2 + tl.load(cell + a)) * 4 + strip * (STRIP * size_of(CODE_X) // 4)
    y_at = tl.load(item + 2 + tl.load(cell + A + b)) * 4 + strip * (STRIP * size_of(CODE_Y) // 4)
    WIDTH: tl.constexpr = 16 // min(size_of(CODE_X), size_of(CODE_Y))
    STEP: tl.constexpr = THREADS * WIDTH
    lanes = tl.arange(0, THREADS) * WIDTH
    SHORT: tl.constexpr = bits_in(CODE_X) + bits_in(CODE_Y) <= 16
    xs, ys, pairs = _no_self(A, CODE_X), _no_self(B, CODE_Y), _no_pairs(A, B, SHORT)
    whole = length // STEP
    for step in tl.range(0, whole, num_stages=STAGES):
        xs, ys, pairs = _vector(
            arena, x_at, y_at, step * STEP + lanes, length, xs, ys, pairs,
            CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH, False,
        )  # fmt: skip

    again = _in_doubt(xs, ys, pairs, CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS)
    if SHORT:
        pairs = pairs[0], pairs[1], pairs[2], pairs[3], bits_of(pairs[4].to(tl.float64)), pairs[5]
    if again:
        xs, ys, pairs = _no_self(A, CODE_X), _no_self(B, CODE_Y), _no_pairs(A, B, False)
        whole = 0
    PARTS: tl.constexpr = max(WIDTH // 4, 1)  # few elements at a time: more would take the registers
    for part in range(whole * PARTS, tl.cdiv(length, STEP) * PARTS):
        xs, ys, pairs = _vector(
            arena, x_at, y_at, part // PARTS * STEP + part % PARTS * (WIDTH // PARTS) + lanes, length, xs, ys, pairs,
            CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH // PARTS, True,
        )  # fmt: skip

    slots += (tl.load(item) * STRIPS + strip) * columns * SLOTS
    SCALE_X: tl.constexpr = scale_of(CODE_X) if CODE_X == CODE_Y else 1.0
    if SELF_X:
        _close_self(slots, tl.load(cell + A + B + a), xs, CODE_X, SCALE_X)
    if SELF_Y:
        _close_self(slots, tl.load(cell + 2 * A + B + b), ys, CODE_Y, SCALE_X)
    if PAIRS:
        column = tl.load(cell + 2 * (A + B) + a[:, None] * B + b[None, :])
        _close_pairs(slots, column, xs, ys, pairs, CODE_X, CODE_Y, SCALE_X)
