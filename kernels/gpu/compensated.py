"""The tile kernel for GPUs that are slow at float64: the sums of `fused` in float32, with what it rounds off added too.

Consumer cards have 1/64 of float32's rate for float64, and for conversions to it. So every sum is three float32 here:

    high,   error = two-sum of high and a term          two-sums are exact: Knuth, The Art of Computer Programming 2,
    middle, error = two-sum of middle and that error    4.2.2, theorem B
    low += error                                        the only addition that rounds

A product is its rounded value and what an fma says it lacks, a difference both parts of a two-sum, and both parts are
added. Before they come to these three, 4, 8 or 16 elements that a thread has loaded are added among themselves (a
run), as cheaply as their dtypes allow (`dtypes.kind_of_run`): in one float32 where that never rounds, or else in two,
of which the second takes the errors of the first as they are. With u = 2**-24 and n terms a run this loses at most
n² u² / 2 of a sum of one sign: 3e-14 of float32, 4.5e-13 beside bytes and of the 8-bit floats with five bits of
exponent or more, and nothing of the others; in practice 1e-15. A square of a difference lacks at most 4 u² of itself
besides.

Σx and Σxy may cancel, so these go by runs only where a run is exact. Each addition to low rounds off u |low| at most,
so that a lane is right to its number of elements times u times the largest |low|, which is kept: no zero changes it, as
there are behind the end. That is the bound of the strip's sum, about 1e-18 Σ|terms|.

float32 is narrower, too. In doubt are an operand whose largest magnitude is outside of 2**-40 ... 2**56 (and not zero),
a pair of such a one, and a pair whose largest difference is below 2**-40: there squares may overflow, or underflow may
take more of their sum than 2**-50. What is not finite is in doubt as well. What underflow takes of Σxy its bound says.
What is in doubt is marked, operand by operand and pair by pair, and taken by the next kernel, `again`. So the bits of
an operand's or a pair's sums do not depend on what else the cell holds.

Nor do they depend on whether a kernel knows a dtype or no more than its size. Operands are alone in this: the kernels
of a pair of two dtypes are all of one sort. What rounds is added in the same order and number of float32 by both, and
what does not comes to one number in either; Σx goes by what `dtypes.held_for` says, as its bound has to be the same.

Lanes become float64 when the strip is closed.

Operands of dtypes that float32 does not hold are not for this kernel: their sums are float64 on every GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .closing import close_pairs, close_self
from .decode import may_be_tiny
from .dtypes import (
    bits_in,
    derives_squares,
    exact_differences,
    exact_elements,
    exact_products,
    exact_strip,
    held_for,
    kind_of_run,
    largest_fast,
    size_of,
    strip_of,
)
from .exact import bits_of, largest_of, two_sum
from .loads import begin_of, blocks_of, columns_of, left_of, place, turned, unpacked, value
from .single import store

__all__ = ["compensated_kernel"]

THREADS = tl.constexpr(constants.THREADS)
STRIP = tl.constexpr(constants.STRIP)
STRIPS = tl.constexpr(constants.STRIPS)
SLOTS = tl.constexpr(constants.SLOTS)
LANE = tl.constexpr(constants.LANE)
LARGEST = tl.constexpr(2.0**56)  # 512 squares of twice as much are below 2**123
SMALLEST = tl.constexpr(2.0**-40)  # its square is 2**-80, and what 65,536 squares lose to underflow below 2**-131
UNDERFLOW = tl.constexpr(2.0**-148)  # what a product and its error lose at most
SIGN = tl.constexpr(-(1 << 31))
NAN_WINS = tl.constexpr(tl.PropagateNan.ALL)
PLAIN, PARTS = tl.constexpr(1), tl.constexpr(2)  # float32 that a run takes; 3 is no run


@triton.jit
def _to_lane(sums, term):
    """A term added to a lane's sum in three parts; the largest |low| is kept."""
    high, middle, low, most, run, run_low = sums
    high, error = two_sum(high, term)
    middle, error = two_sum(middle, error)
    low += error
    return high, middle, low, tl.maximum(most, tl.abs(low)), run, run_low


@triton.jit
def _both_to_lane(sums, term, lack):
    """A term of two parts, likewise."""
    high, middle, low, most, run, run_low = sums
    high, error = two_sum(high, term)
    middle, first = two_sum(middle, error)
    middle, second = two_sum(middle, lack)
    both = first + second
    low += both
    return high, middle, low, tl.maximum(most, tl.abs(low) + tl.abs(both)), run, run_low


@triton.jit
def _plus(sums, term, KIND: tl.constexpr, FIRST: tl.constexpr):
    """A term added to a sum, by way of a run where its kind has one; FIRST of the run."""
    if KIND == PLAIN:
        high, middle, low, most, run, run_low = sums
        return high, middle, low, most, term if FIRST else run + term, run_low
    elif KIND == PARTS:
        high, middle, low, most, run, run_low = sums
        if FIRST:
            return high, middle, low, most, term, tl.zeros(run.shape, tl.float32)
        else:
            run, error = two_sum(run, term)
            return high, middle, low, most, run, run_low + error
    else:
        return _to_lane(sums, term)


@triton.jit
def _plus_both(sums, term, lack, KIND: tl.constexpr, FIRST: tl.constexpr):
    """A term of two parts, likewise; no run of such is plain."""
    if KIND == PARTS:
        high, middle, low, most, run, run_low = sums
        if FIRST:
            return high, middle, low, most, term, lack
        else:
            run, error = two_sum(run, term)
            return high, middle, low, most, run, run_low + (error + lack)
    else:
        return _both_to_lane(sums, term, lack)


@triton.jit
def _plus_product(sums, x, y, BITS: tl.constexpr, KIND: tl.constexpr, FIRST: tl.constexpr):
    """A product of so many bits, likewise."""
    product = x * y
    if BITS <= 24:
        return _plus(sums, product, KIND, FIRST)
    else:
        return _plus_both(sums, product, tl.fma(x, y, -product), KIND, FIRST)


@triton.jit
def _end_run(sums, KIND: tl.constexpr):
    """A run added to the lane's sum."""
    if KIND == PLAIN:
        return _to_lane(sums, sums[4])
    elif KIND == PARTS:
        return _both_to_lane(sums, sums[4], sums[5])
    else:
        return sums


@triton.jit
def _add_self(
    sums, x, CODE: tl.constexpr, WANTED: tl.constexpr, SQUARES: tl.constexpr, K: tl.constexpr, RUN: tl.constexpr
):
    """An element of each operand, the Kth of a run, added to its sums [A, 1, THREADS] or [1, B, THREADS]."""
    size, squares, total, largest = sums
    largest = tl.maximum(largest, tl.abs(x), propagate_nan=NAN_WINS)
    if SQUARES:
        KIND: tl.constexpr = kind_of_run(CODE, CODE, RUN, False)
        squares = _plus_product(squares, x, x, 2 * bits_in(CODE), KIND, K == 0)
        if K == RUN - 1:
            squares = _end_run(squares, KIND)
    if WANTED:
        SIZE: tl.constexpr = kind_of_run(CODE, None, RUN, False)
        TOTAL: tl.constexpr = kind_of_run(held_for(CODE), None, RUN, True)
        size = _plus(size, tl.abs(x), SIZE, K == 0)
        total = _plus(total, x, TOTAL, K == 0)
        if K == RUN - 1:
            size, total = _end_run(size, SIZE), _end_run(total, TOTAL)
    return size, squares, total, largest


@triton.jit
def _add_pairs(sums, x, y, CODE_X: tl.constexpr, CODE_Y: tl.constexpr, K: tl.constexpr, RUN: tl.constexpr):
    """An element of every x [A, 1, THREADS] and y [1, B, THREADS] added to their pairs' sums [A, B, THREADS]."""
    size, squares, dot, largest, rest, differing = sums
    DOT: tl.constexpr = kind_of_run(CODE_X, CODE_Y, RUN, True)
    dot = _plus_product(dot, x, y, bits_in(CODE_X) + bits_in(CODE_Y), DOT, K == 0)
    EXACT: tl.constexpr = exact_differences(CODE_X, CODE_Y)
    SIZE: tl.constexpr = kind_of_run(CODE_X, "-", RUN, False) if EXACT else 2
    if EXACT:
        d = x - y
        largest = tl.maximum(largest, tl.abs(d), propagate_nan=NAN_WINS)
        size = _plus(size, tl.abs(d), SIZE, K == 0)
        if not derives_squares(CODE_X, CODE_Y):
            squares = _plus_product(squares, d, d, 48, PARTS, K == 0)
    else:
        d, lack = two_sum(x, -y)
        square = d * d
        squares = _plus_both(squares, square, tl.fma(lack, d + d, tl.fma(d, d, -square)), PARTS, K == 0)
        lack = (lack.to(tl.int32, bitcast=True) ^ (d.to(tl.int32, bitcast=True) & SIGN)).to(tl.float32, bitcast=True)
        d = tl.abs(d)
        size = _plus_both(size, d, lack, PARTS, K == 0)
        rest = tl.where(d > largest, lack, tl.where(d == largest, tl.maximum(rest, lack), rest))
        largest = tl.maximum(largest, d, propagate_nan=NAN_WINS)
    differing += tl.where(d != 0.0, 1.0, 0.0)
    if K == RUN - 1:
        size, dot = _end_run(size, SIZE), _end_run(dot, DOT)
        if not derives_squares(CODE_X, CODE_Y):
            squares = _end_run(squares, PARTS)
    return size, squares, dot, largest, rest, differing


@triton.jit
def _step(
    arena, x_at, y_at, start, length, x_dtype, y_dtype, xs, ys, pairs,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """WIDTH elements a thread, as `walk.vector`; those behind the end are 0, which changes no sum.

    The lanes of a pair are those of the wider operand, for which a narrower one is `turned`. Where several of a byte
    are beside a wider one, their own sums come first: their elements of both lanes would not have room at once.
    """
    OWN_X: tl.constexpr = 16 // size_of(CODE_X)
    OWN_Y: tl.constexpr = 16 // size_of(CODE_Y)
    FIRST: tl.constexpr = PAIRS and OWN_X == 16 and OWN_Y < 16
    DERIVED: tl.constexpr = PAIRS and derives_squares(CODE_X, CODE_Y)
    # Runs of an operand are the same whatever it is paired with.
    RUN_X: tl.constexpr = 16 if OWN_X == 16 else 4
    RUN_Y: tl.constexpr = 16 if OWN_Y == 16 else 4
    x_blocks = blocks_of(arena, x_at, start, length, WIDTH // OWN_X, size_of(CODE_X), True)
    if PAIRS:
        y_blocks = blocks_of(arena, y_at, start, length, WIDTH // OWN_Y, size_of(CODE_Y), True)
    if FIRST:
        x_left, x_words = left_of(start, length, OWN_X), unpacked(x_blocks[0], x_dtype, CODE_X, "")
        for k in tl.static_range(WIDTH):
            x = _value(x_words, x_left, k, k, CODE_X)
            xs = _add_self(xs, x, CODE_X, SELF_X, SELF_X, k % RUN_X, RUN_X)
    for k in tl.static_range(WIDTH):
        if k % OWN_X == 0 and not FIRST:
            x_left = left_of(begin_of(start, 0, k, OWN_X, WIDTH, 1), length, OWN_X)
            x_words = unpacked(x_blocks[k // OWN_X], x_dtype, CODE_X, "")
        if not FIRST:
            x = _value(x_words, x_left, k % OWN_X, k % OWN_X, CODE_X)
            xs = _add_self(xs, x, CODE_X, SELF_X, SELF_X or DERIVED, k % RUN_X, RUN_X)
        if PAIRS:
            if k % OWN_Y == 0:
                y_left = left_of(begin_of(start, 0, k, OWN_Y, WIDTH, 1), length, OWN_Y)
                y_words = unpacked(y_blocks[k // OWN_Y], y_dtype, CODE_Y, "")
            y = _value(y_words, y_left, k % OWN_Y, k % OWN_Y, CODE_Y)
            ys = _add_self(ys, y, CODE_Y, SELF_Y, SELF_Y or DERIVED, k % RUN_Y, RUN_Y)
            if OWN_X > OWN_Y:
                if k == 0:
                    x_turned = unpacked(turned(x_blocks[0], OWN_X // OWN_Y), x_dtype, CODE_X, "")
                x = _value(x_turned, y_left, k, k % OWN_Y, CODE_X)
            if OWN_Y > OWN_X:
                if k == 0:
                    y_turned = unpacked(turned(y_blocks[0], OWN_Y // OWN_X), y_dtype, CODE_Y, "")
                y = _value(y_turned, x_left, k, k % OWN_X, CODE_Y)
            pairs = _add_pairs(pairs, x, y, CODE_X, CODE_Y, k, WIDTH)
    return xs, ys, pairs


@triton.jit
def _value(words, left, K: tl.constexpr, AT: tl.constexpr, CODE: tl.constexpr):
    """Element K of 16 bytes [R, C, THREADS], or 0 where it is not one of the first `left` [1, 1, THREADS] by AT."""
    return tl.where(left > AT, value(words, 0, 0, 0, K, CODE, False, False, False, ""), 0.0)


@triton.jit
def _none(zero):
    """A sum of nothing."""
    return zero, zero, zero, zero, zero, zero


@triton.jit
def _wide(sums):
    """A sum in three parts as float64 in two, and what it may be off by."""
    high, middle, low, most, _, _ = sums
    tail = middle.to(tl.float64) + low.to(tl.float64)
    total, rest = two_sum(high.to(tl.float64), tail)
    # Where every low was 0, all of the tail is middle.
    bound = tl.where(most > 0, LANE * 2.0**-24 * most.to(tl.float64) + 2.0**-53 * tl.abs(tail), 0.0)
    return total, rest, bound


@triton.jit
def _narrow(sums):
    """A sum of one sign in three parts as one float64."""
    high, middle, low, _, _, _ = sums
    return high.to(tl.float64) + (middle.to(tl.float64) + low.to(tl.float64))


@triton.jit
def _close_operands(slots, column, sums, CODE: tl.constexpr, WANTED: tl.constexpr):
    """The slots of self sums filled; the largest magnitudes [A, 1] or [1, B] and whether they are sound."""
    size, squares, total, largest = sums
    bits = bits_of(largest.to(tl.float64))
    most = largest_of(bits)
    sound = (most <= min(largest_fast(CODE, False), LARGEST)) & ((most >= SMALLEST) | (most == 0))
    if WANTED:
        total, low, lost = _wide(total)
        bound = tl.zeros(most.shape, tl.float64)
        if not exact_elements(held_for(CODE)):
            bound = tl.sum(lost, axis=2)
        lanes = _narrow(size), _narrow(squares), total, low, bits, bits, tl.zeros(bits.shape, tl.int32)
        close_self(slots, column, lanes, bound, sound, exact_strip(CODE, None), 1.0)
    return most, sound


@triton.jit
def _close_pairs(
    slots, column, sums, x_squares, y_squares, x_most, y_most, sound, tiny,
    CODE_X: tl.constexpr, CODE_Y: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """The slots of pair sums [A, B, THREADS] filled; whether they are sound [A, B], as the operands are or not.

    tiny: whether products may be below what float32 holds.
    """
    size, squares, dot, largest, rest, differing = sums
    bits = bits_of(largest.to(tl.float64) + rest.to(tl.float64))
    most = largest_of(bits)
    sound = sound & ((most >= SMALLEST) | (most == 0))
    dot, low, lost = _wide(dot)
    bound = tl.zeros(most.shape, tl.float64)
    if not exact_products(CODE_X, CODE_Y):
        bound = tl.sum(lost, axis=2) + tl.where(tiny & (x_most > 0) & (y_most > 0), STRIP * UNDERFLOW, 0.0)
    lanes = _narrow(size), _narrow(squares), dot, low, bits, differing
    close_pairs(
        slots, column, lanes, _narrow(x_squares), _narrow(y_squares), bound, sound,
        exact_strip(CODE_X, CODE_Y), derives_squares(CODE_X, CODE_Y), 1.0, WANTED,
    )  # fmt: skip
    return sound


@triton.jit
def _mark(slots, column, sound, length, columns):
    """What is not sound marked in the slots of the next strip, too, where this one is two to `again`."""
    tl.static_assert(STRIPS == 2)
    column = tl.where(sound | (length <= STRIP), -1, column)
    count, mark = slots + (columns + column) * SLOTS + (SLOTS - 1), tl.full(column.shape, -1.0, tl.float64)
    if column.numel == 1:
        store(count, mark, column)
    else:
        tl.store(count, mark, column >= 0)


# A compilation takes seconds: one serves all numbers.
@triton.jit(do_not_specialize=["operands", "cell_count", "log2_strips", "columns", "x_dtype", "y_dtype"])
def compensated_kernel(
    arena, items, cells, slots, operands, cell_count, log2_strips, columns, x_dtype, y_dtype,
    A: tl.constexpr, B: tl.constexpr,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    STAGES: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """As `fused.tile_kernel`, whose arguments these are."""
    length, x_at, y_at, slots, cell = place(
        items, cells, slots, operands, cell_count, log2_strips, columns, A, B, CODE_X, CODE_Y
    )
    WIDTH: tl.constexpr = 16 // min(size_of(CODE_X), size_of(CODE_Y))
    STEP: tl.constexpr = THREADS * WIDTH
    zero = tl.zeros([A, B, THREADS], tl.float32)
    none_x, none_y = _none(tl.zeros([A, 1, THREADS], tl.float32)), _none(tl.zeros([1, B, THREADS], tl.float32))
    xs = none_x, none_x, none_x, none_x[0]
    ys = none_y, none_y, none_y, none_y[0]
    pairs = _none(zero), _none(zero), _none(zero), zero, zero, zero
    for step in tl.range(0, tl.cdiv(length, STEP), num_stages=STAGES):
        xs, ys, pairs = _step(
            arena, x_at, y_at, step * STEP, length, x_dtype, y_dtype, xs, ys, pairs,
            CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH,
        )  # fmt: skip

    x_column, y_column, column = columns_of(cell, A, B)
    TWO: tl.constexpr = strip_of(CODE_X, CODE_Y) > STRIP
    x_most, x_sound = _close_operands(slots, x_column, xs, CODE_X, SELF_X)
    if SELF_X and TWO:
        _mark(slots, x_column, x_sound, length, columns)
    if PAIRS:
        y_most, y_sound = _close_operands(slots, y_column, ys, CODE_Y, SELF_Y)
        tiny = may_be_tiny(x_dtype, CODE_X) | may_be_tiny(y_dtype, CODE_Y)
        sound = _close_pairs(
            slots, column, pairs, xs[1], ys[1], x_most, y_most, x_sound & y_sound, tiny, CODE_X, CODE_Y, WANTED
        )  # fmt: skip
        if SELF_Y and TWO:
            _mark(slots, y_column, y_sound, length, columns)
        if TWO:
            _mark(slots, column, sound, length, columns)
