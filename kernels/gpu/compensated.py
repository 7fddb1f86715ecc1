"""The tile kernel for GPUs that are slow at float64: the sums of `fused` in float32, with what it rounds off added too.

Consumer cards have 1/64 of float32's rate for float64, and for conversions to it. So every sum is three float32 here:

    high,   error = two-sum of high and a term          two-sums are exact: Knuth, The Art of Computer Programming 2,
    middle, error = two-sum of middle and that error    4.2.2, theorem B
    low += error                                        the only addition that rounds

A product is its rounded value and what an fma says it lacks, a difference both parts of a two-sum, and both parts are
added. Before they come to these three, 4, 8 or 16 elements that a thread has loaded are added among themselves (a
run), as cheaply as their dtypes allow (`dtypes.kind_of_run`): in one float32 where that never rounds, or else in two,
of which the second takes the errors of the first as they are. With u = 2**-24 and n terms a run this loses at most
n² u² / 2 of a sum of one sign: 3e-14 of float32, 4.5e-13 of the 8-bit floats with five bits of exponent or more, and
nothing of the others; in practice 1e-15. A square of a difference lacks at most 4 u² of itself besides.

Σx and Σxy may cancel, so these go by runs only where a run is exact. All else that low rounds off is added up on the
way, u times the sum of every |low|, one addition an element: the bound of the strip's sum, about 1e-18 Σ|terms|.

float32 is narrower, too. In doubt are an operand whose largest magnitude is outside of 2**-40 ... 2**56 (and not zero),
a pair of such a one, and a pair whose largest difference is below 2**-40: there squares may overflow, or underflow may
take more of their sum than 2**-50. What is not finite is in doubt as well. What underflow takes of Σxy its bound says.

Lanes become float64 when the strip is closed. A cell with a doubt in it is walked again, by the float64 walk with care,
but only operands and pairs that are in doubt themselves take their sums from there, so that the bits of an operand's or
a pair's sums do not depend on what else the cell holds.

Operands of dtypes that float32 does not hold are not for this kernel: their sums are float64 on every GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .closing import close_pairs, close_self, joined_bound, self_bound, settled
from .dtypes import (
    bits_in,
    derives_squares,
    exact_differences,
    exact_elements,
    exact_products,
    exact_strip,
    kind_of_run,
    largest_fast,
    parts_of,
    products_underflow,
    size_of,
)
from .exact import bits_of, largest_of, two_sum
from .loads import begin_of, beside, block_of, columns_of, place, value, words
from .walk import no_pairs, no_self, vector

__all__ = ["compensated_kernel"]

THREADS = tl.constexpr(constants.THREADS)
STRIP = tl.constexpr(constants.STRIP)
LARGEST = tl.constexpr(2.0**56)  # 512 squares of twice as much are below 2**123
SMALLEST = tl.constexpr(2.0**-40)  # its square is 2**-80, and what 65,536 squares lose to underflow below 2**-131
UNDERFLOW = tl.constexpr(2.0**-148)  # what a product and its error lose at most
SIGN = tl.constexpr(-(1 << 31))
NAN_WINS = tl.constexpr(tl.PropagateNan.ALL)
PLAIN, TWO = tl.constexpr(1), tl.constexpr(2)  # float32 that a run takes; 3 is no run


@triton.jit
def _to_lane(sums, term):
    """A term added to a lane's sum in three parts, and to the sum of |low|."""
    high, middle, low, rounded, run, run_low = sums
    high, error = two_sum(high, term)
    middle, error = two_sum(middle, error)
    low += error
    return high, middle, low, rounded + tl.abs(low), run, run_low


@triton.jit
def _both_to_lane(sums, term, lack):
    """A term of two parts, likewise."""
    high, middle, low, rounded, run, run_low = sums
    high, error = two_sum(high, term)
    middle, first = two_sum(middle, error)
    middle, second = two_sum(middle, lack)
    both = first + second
    low += both
    return high, middle, low, rounded + (tl.abs(low) + tl.abs(both)), run, run_low


@triton.jit
def _plus(sums, term, KIND: tl.constexpr, FIRST: tl.constexpr):
    """A term added to a sum, by way of a run where its kind has one; FIRST of the run."""
    if KIND == PLAIN:
        high, middle, low, rounded, run, run_low = sums
        return high, middle, low, rounded, term if FIRST else run + term, run_low
    elif KIND == TWO:
        high, middle, low, rounded, run, run_low = sums
        if FIRST:
            return high, middle, low, rounded, term, tl.zeros(run.shape, tl.float32)
        else:
            run, error = two_sum(run, term)
            return high, middle, low, rounded, run, run_low + error
    else:
        return _to_lane(sums, term)


@triton.jit
def _plus_both(sums, term, lack, KIND: tl.constexpr, FIRST: tl.constexpr):
    """A term of two parts, likewise; no run of such is plain."""
    if KIND == TWO:
        high, middle, low, rounded, run, run_low = sums
        if FIRST:
            return high, middle, low, rounded, term, lack
        else:
            run, error = two_sum(run, term)
            return high, middle, low, rounded, run, run_low + (error + lack)
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
    elif KIND == TWO:
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
        TOTAL: tl.constexpr = kind_of_run(CODE, None, RUN, True)
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
            squares = _plus_product(squares, d, d, 48, TWO, K == 0)
    else:
        d, lack = two_sum(x, -y)
        square = d * d
        squares = _plus_both(squares, square, tl.fma(lack, d + d, tl.fma(d, d, -square)), TWO, K == 0)
        lack = (lack.to(tl.int32, bitcast=True) ^ (d.to(tl.int32, bitcast=True) & SIGN)).to(tl.float32, bitcast=True)
        d = tl.abs(d)
        size = _plus_both(size, d, lack, TWO, K == 0)
        rest = tl.where(d > largest, lack, tl.where(d == largest, tl.maximum(rest, lack), rest))
        largest = tl.maximum(largest, d, propagate_nan=NAN_WINS)
    differing += tl.where(d != 0.0, 1.0, 0.0)
    if K == RUN - 1:
        size, dot = _end_run(size, SIZE), _end_run(dot, DOT)
        if not derives_squares(CODE_X, CODE_Y):
            squares = _end_run(squares, TWO)
    return size, squares, dot, largest, rest, differing


@triton.jit
def _vector(
    arena, x_at, y_at, start, part, length, xs, ys, pairs,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    WIDTH: tl.constexpr, PARTS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One of PARTS of a step of WIDTH elements a thread, as `walk.vector`."""
    OWN_X: tl.constexpr = 16 // size_of(CODE_X)
    OWN_Y: tl.constexpr = 16 // size_of(CODE_Y)
    DERIVED: tl.constexpr = PAIRS and derives_squares(CODE_X, CODE_Y)
    COUNT: tl.constexpr = WIDTH // PARTS
    # Runs of an operand are the same whatever it is paired with.
    RUN_X: tl.constexpr = 16 if OWN_X == 16 and not MASKED else min(COUNT, 4)
    RUN_Y: tl.constexpr = 16 if OWN_Y == 16 and not MASKED else min(COUNT, 4)
    for k in tl.static_range(COUNT):
        if k % OWN_X == 0:
            x_begin = begin_of(start, part, k, OWN_X, WIDTH, PARTS)
            x_block = block_of(arena, x_at, x_begin, length, OWN_X, size_of(CODE_X), MASKED)
            x_words = words(x_block)
        x = value(x_words, x_begin, length, OWN_X, k % OWN_X, CODE_X, False, MASKED, False, "")
        xs = _add_self(xs, x, CODE_X, SELF_X, SELF_X or DERIVED, k % RUN_X, RUN_X)
        if PAIRS:
            if k % OWN_Y == 0:
                y_begin = begin_of(start, part, k, OWN_Y, WIDTH, PARTS)
                y_block = block_of(arena, y_at, y_begin, length, OWN_Y, size_of(CODE_Y), MASKED)
                y_words = words(y_block)
            y = value(y_words, y_begin, length, OWN_Y, k % OWN_Y, CODE_Y, False, MASKED, False, "")
            ys = _add_self(ys, y, CODE_Y, SELF_Y, SELF_Y or DERIVED, k % RUN_Y, RUN_Y)
            if OWN_X > OWN_Y:
                if k % (OWN_Y if MASKED else WIDTH) == 0:
                    x_block_of_y = beside(
                        arena, x_at, x_block, y_begin, length, OWN_Y, CODE_X, OWN_X // OWN_Y, MASKED
                    )  # fmt: skip
                    x_words_of_y = words(x_block_of_y)
                x = value(
                    x_words_of_y, y_begin, length, OWN_Y, k % (OWN_Y if MASKED else WIDTH), CODE_X,
                    False, MASKED, False, "",
                )  # fmt: skip
            if OWN_Y > OWN_X:
                if k % (OWN_X if MASKED else WIDTH) == 0:
                    y_block_of_x = beside(
                        arena, y_at, y_block, x_begin, length, OWN_X, CODE_Y, OWN_Y // OWN_X, MASKED
                    )  # fmt: skip
                    y_words_of_x = words(y_block_of_x)
                y = value(
                    y_words_of_x, x_begin, length, OWN_X, k % (OWN_X if MASKED else WIDTH), CODE_Y,
                    False, MASKED, False, "",
                )  # fmt: skip
            pairs = _add_pairs(pairs, x, y, CODE_X, CODE_Y, k, COUNT)
    return xs, ys, pairs


@triton.jit
def _none(zero):
    """A sum of nothing."""
    return zero, zero, zero, zero, zero, zero


@triton.jit
def _wide(sums):
    """A sum in three parts as float64 in two, and what it may be off by."""
    high, middle, low, rounded, _, _ = sums
    head, tail = high.to(tl.float64), middle.to(tl.float64) + low.to(tl.float64)
    total = head + tail
    # 1.01: `rounded` itself has been rounded 2,048 times. Where low is 0, all of tail is middle.
    bound = tl.where(rounded > 0, 1.01 * 2.0**-24 * rounded.to(tl.float64) + 2.0**-52 * tl.abs(tail), 0.0)
    return total, tail - (total - head), bound


@triton.jit
def _narrow(sums):
    """A sum of one sign in three parts as one float64."""
    high, middle, low, _, _, _ = sums
    return high.to(tl.float64) + (middle.to(tl.float64) + low.to(tl.float64))


@triton.jit
def _close_operands(
    slots, column, sums,
    CODE: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """The slots of self sums filled; the largest magnitudes [A, 1] or [1, B] and whether they are sound."""
    size, squares, total, largest = sums
    bits = bits_of(largest.to(tl.float64))
    most = largest_of(bits)
    sound = (most <= min(largest_fast(CODE, False), LARGEST)) & ((most >= SMALLEST) | (most == 0))
    if WANTED:
        total, low, lost = _wide(total)
        lanes = _narrow(size), _narrow(squares), total, low, bits, bits, tl.zeros(bits.shape, tl.int32)
        if exact_elements(CODE):
            bound = tl.zeros(most.shape, tl.float64)
        else:
            bound = tl.sum(lost, axis=2) + self_bound(lanes, "F64")
        close_self(slots, column, lanes, bound, exact_strip(CODE, None), 1.0)
    return most, sound


@triton.jit
def _close_pairs(
    slots, column, sums, x_squares, y_squares, x_most, y_most,
    CODE_X: tl.constexpr, CODE_Y: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """The slots of pair sums [A, B, THREADS] filled; whether the differences are sound [A, B]."""
    size, squares, dot, largest, rest, differing = sums
    bits = bits_of(largest.to(tl.float64) + rest.to(tl.float64))
    most = largest_of(bits)
    dot, low, lost = _wide(dot)
    if exact_products(CODE_X, CODE_Y):
        bound = tl.zeros(most.shape, tl.float64)
    else:
        bound = tl.sum(lost, axis=2) + joined_bound(x_most, y_most, 1.0)
    if products_underflow(CODE_X, CODE_Y):
        bound += tl.where((x_most > 0) & (y_most > 0), STRIP * UNDERFLOW, 0.0)
    lanes = _narrow(size), _narrow(squares), dot, low, bits, differing
    close_pairs(
        slots, column, lanes, _narrow(x_squares), _narrow(y_squares), bound,
        exact_strip(CODE_X, CODE_Y), derives_squares(CODE_X, CODE_Y), 1.0, WANTED,
    )  # fmt: skip
    return (most >= SMALLEST) | (most == 0)


@triton.jit(do_not_specialize=["operands", "cell_count", "log2_strips", "columns"])  # a compilation takes seconds
def compensated_kernel(
    arena, items, cells, slots, operands, cell_count, log2_strips, columns,
    A: tl.constexpr, B: tl.constexpr,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    STAGES: tl.constexpr, UNROLL: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """As `fused.tile_kernel`, whose arguments these are."""
    length, x_at, y_at, slots, cell = place(
        items, cells, slots, operands, cell_count, log2_strips, columns, A, B, CODE_X, CODE_Y
    )
    WIDTH: tl.constexpr = 16 // min(size_of(CODE_X), size_of(CODE_Y))
    STEP: tl.constexpr = THREADS * WIDTH
    PARTS: tl.constexpr = parts_of(CODE_X, CODE_Y)
    zero = tl.zeros([A, B, THREADS], tl.float32)
    none_x, none_y = _none(tl.zeros([A, 1, THREADS], tl.float32)), _none(tl.zeros([1, B, THREADS], tl.float32))
    xs = none_x, none_x, none_x, none_x[0]
    ys = none_y, none_y, none_y, none_y[0]
    pairs = _none(zero), _none(zero), _none(zero), zero, zero, zero
    whole = length // STEP
    for step in tl.range(0, whole, num_stages=STAGES, loop_unroll_factor=UNROLL):
        xs, ys, pairs = _vector(
            arena, x_at, y_at, step * STEP, 0, length, xs, ys, pairs,
            CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH, 1, False,
        )  # fmt: skip
    for part in range(whole * PARTS, tl.cdiv(length, STEP) * PARTS):
        xs, ys, pairs = _vector(
            arena, x_at, y_at, part // PARTS * STEP, part % PARTS, length, xs, ys, pairs,
            CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH, PARTS, True,
        )  # fmt: skip

    x_column, y_column, column = columns_of(cell, A, B)
    x_most, x_sound = _close_operands(slots, x_column, xs, CODE_X, SELF_X)
    again = tl.min(tl.ravel(x_sound.to(tl.int32)), axis=0) == 0
    if PAIRS:
        y_most, y_sound = _close_operands(slots, y_column, ys, CODE_Y, SELF_Y)
        sound = _close_pairs(
            slots, column, pairs, xs[1], ys[1], x_most, y_most, CODE_X, CODE_Y, WANTED
        )  # fmt: skip
        sound = sound & x_sound & y_sound
        again |= tl.min(tl.ravel(sound.to(tl.int32)), axis=0) == 0
    if again:
        x_sums, y_sums = no_self(A, 1, CODE_X, False), no_self(1, B, CODE_Y, False)
        pair_sums = no_pairs(A, B, False, False)
        for part in range(tl.cdiv(length, STEP) * PARTS):
            x_sums, y_sums, pair_sums = vector(
                arena, x_at, y_at, part // PARTS * STEP, part % PARTS, length, 0, 0,
                x_sums, y_sums, pair_sums, CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH, PARTS, False, False, True,
            )  # fmt: skip
        if SELF_X:
            close_self(
                slots, tl.where(x_sound, -1, x_column), x_sums, self_bound(x_sums, CODE_X),
                exact_strip(CODE_X, None), 1.0,
            )  # fmt: skip
        if SELF_Y:
            close_self(
                slots, tl.where(y_sound, -1, y_column), y_sums, self_bound(y_sums, CODE_Y),
                exact_strip(CODE_Y, None), 1.0,
            )  # fmt: skip
        if PAIRS:
            pair_sums, bound = settled(
                x_sums, y_sums, pair_sums, CODE_X, CODE_Y, size_of(CODE_X) != size_of(CODE_Y), 1.0
            )  # fmt: skip
            close_pairs(
                slots, tl.where(sound, -1, column), pair_sums, x_sums[1], y_sums[1], bound,
                exact_strip(CODE_X, CODE_Y), derives_squares(CODE_X, CODE_Y), 1.0, WANTED,
            )  # fmt: skip
