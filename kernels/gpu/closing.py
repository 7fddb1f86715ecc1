"""The end of a strip: the lanes of every sum added, and the strip's sums in their slots with what they may be off by.

Lanes are float64 here, whatever the walk has added in: those of operands [A, 1, THREADS] or [1, B, THREADS], of pairs
[A, B, THREADS].
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..wanted import Wanted
from . import constants
from .dtypes import bits_in, exact_elements, exact_products, held_for, log2_unit, plain_products
from .exact import bits_of, joined_lanes, largest_of
from .single import store

__all__ = [
    "close_pairs",
    "close_self",
    "ends",
    "exact_dots",
    "exact_self",
    "joined_bound",
    "of_strip",
    "positive",
    "self_bound",
    "settled",
]

LOG2_THREADS = tl.constexpr(constants.THREADS.bit_length() - 1)
THREADS = tl.constexpr(constants.THREADS)
STRIP = tl.constexpr(constants.STRIP)
LANE = tl.constexpr(constants.LANE)
SLOTS = tl.constexpr(constants.SLOTS)
COMPENSATED = tl.constexpr(2e-27)  # error of a compensated sum of a strip, in units of the sum of its terms' magnitudes
ABS_DIFF, SQ_DIFF, DOT, MAX_DIFF, DIFFERING = (
    tl.constexpr(int(flag)) for flag in (Wanted.ABS_DIFF, Wanted.SQ_DIFF, Wanted.DOT, Wanted.MAX_DIFF, Wanted.DIFFERING)
)
TINIEST = tl.constexpr(5e-324)  # least bound of a sum of products that are not all zero: its own product may underflow


@triton.jit
def ends(sums):
    """The largest magnitude of each lane as float64, and the smallest above zero, infinity where there is none."""
    largest, smallest = sums[4], sums[5]
    if largest.dtype == tl.float32:
        bits = (smallest + 2) >> 1
        least = bits.to(tl.float32, bitcast=True).to(tl.float64)
        return largest.to(tl.float64), tl.where(bits == 0, float("inf"), least)
    else:
        return largest.to(tl.float64, bitcast=True), tl.zeros(largest.shape, tl.float64)


@triton.jit
def of_strip(sums):
    """Self sums whose lanes all have the largest and the smallest magnitude of the strip; of dtypes up to 24 bits."""
    sum_abs, squares, total, low, largest, smallest, nonfinite = sums
    if largest.dtype == tl.float32:
        bits = largest.to(tl.int32, bitcast=True)  # magnitudes sort as integers do, NaN above infinity
        most = tl.max(bits, axis=2, keep_dims=True).to(tl.float32, bitcast=True)
        largest = tl.broadcast_to(most, largest.shape)
        smallest = tl.broadcast_to(tl.min(smallest, axis=2, keep_dims=True), smallest.shape)
    return sum_abs, squares, total, low, largest, smallest, nonfinite


@triton.jit
def exact_self(sums, CODE: tl.constexpr):
    """Whether each lane's Σx is exact: all elements are multiples of the smallest one times 2**-bits."""
    if exact_elements(CODE):
        return tl.full(sums[0].shape, 1, tl.int1)
    elif bits_in(CODE) <= 24:
        return ~(sums[0] > ends(sums)[1] * 2.0 ** (53 - bits_in(CODE)))
    else:
        return tl.full(sums[0].shape, 0, tl.int1)


@triton.jit
def exact_dots(xs, ys, CODE_X: tl.constexpr, CODE_Y: tl.constexpr):
    """Whether each lane's Σxy [A, B, THREADS] is exact, for the like reason, or by the units of the dtypes."""
    BITS: tl.constexpr = bits_in(CODE_X) + bits_in(CODE_Y)
    x_largest, x_smallest = ends(xs)
    y_largest, y_smallest = ends(ys)
    most = LANE * x_largest * y_largest
    if exact_products(CODE_X, CODE_Y):
        return tl.full(most.shape, 1, tl.int1)
    elif BITS <= 16:
        unit = x_smallest * y_smallest * 2.0**-BITS
        OF_DTYPES: tl.constexpr = 2.0 ** (log2_unit(CODE_X) + log2_unit(CODE_Y))
        if OF_DTYPES > 0:
            unit = tl.maximum(unit, OF_DTYPES)
        return ~(most > unit * 2.0**53)
    else:
        return tl.full(most.shape, 0, tl.int1)


@triton.jit
def self_bound(sums, CODE: tl.constexpr):
    """What the lanes of Σx [A, 1] or [1, B] may be off by, in the units of the walk: nothing where every one is exact.

    What adding them may lose `close_self` adds to that, as `close_pairs` does for Σxy. It is exact where a kernel that
    knows no more than the size of the dtype can say so: what the host takes again must not depend on the kernel.
    """
    inexact = tl.max((~exact_self(sums, held_for(CODE))).to(tl.int32), axis=2) > 0
    return tl.where(inexact, COMPENSATED * tl.sum(sums[0], axis=2), 0.0)


@triton.jit
def joined_bound(x_most, y_most, SCALE: tl.constexpr):
    """What lanes of a compensated Σxy [A, B] may be off by, in units of 1, of operands so large [A, 1] and [1, B]."""
    bound = tl.maximum(COMPENSATED * (STRIP * SCALE * SCALE) * (x_most * y_most), TINIEST)
    return tl.where((x_most > 0) & (y_most > 0), bound, 0.0)


@triton.jit
def positive(squares, dot):
    """Whether Σxy [A, B, 1] of every lane is so far from cancelling that it is good without two-sums; from Σd² and Σxy.

    Σ|xy| <= (Σx² + Σy²) / 2 = Σxy + Σd² / 2 <= 5 Σxy, so 256 roundings are at most 5 * 256 * 2**-53 = 1.4e-13 of it. Of
    every lane: of what cancels in the end some lanes may be far from it, by chance.
    """
    return tl.min((squares <= 8.0 * dot).to(tl.int32), axis=2, keep_dims=True) > 0


@triton.jit
def settled(
    xs, ys, sums, CODE_X: tl.constexpr, CODE_Y: tl.constexpr, MIXED: tl.constexpr, SCALE: tl.constexpr
):  # fmt: skip
    """Pair sums with the Σxy of each lane that counts, and what all lanes of it [A, B] may be off by, in units of 1.

    A lane that is exact has one Σxy, whatever the walk. Where others are, the plain ones count if all are `positive`,
    else the compensated ones. So the walk with care gives no other bits to a pair that needs none.

    MIXED: the lanes of pairs are not those of both operands.
    """
    sum_abs, squares, dot, low, largest, differing, plain = sums
    x_most, y_most = largest_of(bits_of(ends(xs)[0])), largest_of(bits_of(ends(ys)[0]))  # [A, 1] and [1, B]
    if MIXED:
        xs, ys = of_strip(xs), of_strip(ys)
    exact = exact_dots(xs, ys, CODE_X, CODE_Y)
    if plain_products(CODE_X, CODE_Y):
        good = positive(squares, plain)
        dot, low = tl.where(good, plain, dot), tl.where(good, 0.0, low)
        # 1.001: the sums that it is computed from are rounded themselves.
        lost = (1.001 * LANE * 2.0**-53 * SCALE * SCALE) * (plain + 0.5 * squares)
        lost = tl.where(good, lost, joined_bound(x_most, y_most, SCALE)[:, :, None] * (1.0 / THREADS))
        bound = tl.sum(tl.where(exact, 0.0, lost), axis=2)
    else:
        inexact = tl.max((~exact).to(tl.int32), axis=2) > 0
        bound = tl.where(inexact, joined_bound(x_most, y_most, SCALE), 0.0)
    return (sum_abs, squares, dot, low, largest, differing), bound


@triton.jit
def _joined(high, low, EXACT: tl.constexpr):
    """The sum [A, B] of lanes in two parts, and what adding them may have lost."""
    if EXACT:
        total = tl.sum(high, axis=2)
        none = tl.zeros(total.shape, tl.float64)
        return total, none, none
    else:
        return joined_lanes(high, low, LOG2_THREADS)


@triton.jit
def close_self(slots, column, sums, bound, sound, EXACT: tl.constexpr, SCALE: tl.constexpr):
    """The lanes of self sums added and stored, in units of 1 again.

    column, bound, sound: [A, 1] or [1, B], the bound of the lanes, and as for `close_pairs`. EXACT: no Σx of a strip
    rounds.
    """
    sum_abs, squares, total, low, _, _, nonfinite = sums
    count = tl.sum(nonfinite, axis=2).to(tl.float64)
    if sound is not None:
        count = tl.where(sound, count, -1.0)
    high, rest, lost = _joined(total, low, EXACT)
    _store(
        slots,
        column,
        tl.sum(sum_abs, axis=2) * SCALE,
        tl.sum(squares, axis=2) * (SCALE * SCALE),
        high * SCALE,
        rest * SCALE,
        (bound + lost) * SCALE,
        largest_of(bits_of(ends(sums)[0])) * SCALE,
        count,
    )


@triton.jit
def close_pairs(
    slots, column, sums, x_squares, y_squares, bound, sound,
    EXACT: tl.constexpr, DERIVED: tl.constexpr, SCALE: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """The lanes of pair sums added and stored; column and bound are [A, B], the bound (of the lanes) in units of 1.

    sound: [A, B], where all that has been summed is; the others are marked by a count of -1. None: everywhere.

    EXACT: no Σxy of a strip rounds. DERIVED: Σ(x-y)² is taken from it and the lanes of Σx² and Σy².

    WANTED: in place of other sums stands 0. As nobody reads their lanes, the compiler takes them out of the walk.
    """
    sum_abs, squares, dot, low, largest, differing = sums
    none = tl.zeros(column.shape, tl.float64)
    size, apart, most, count = none, none, none, none
    high, rest = none, none
    if (DOT & WANTED) or (DERIVED and SQ_DIFF & WANTED):
        high, rest, lost = _joined(dot, low, EXACT)
        bound += lost * (SCALE * SCALE)
    if SQ_DIFF & WANTED:
        apart = tl.sum(squares, axis=2)
        if DERIVED:
            apart = tl.sum(x_squares, axis=2) + tl.sum(y_squares, axis=2) - 2 * high
    if not (DOT & WANTED):
        high, rest, bound = none, none, none
    if ABS_DIFF & WANTED:
        size = tl.sum(sum_abs, axis=2)
    if MAX_DIFF & WANTED:
        most = largest_of(largest)
    if DIFFERING & WANTED:
        count = tl.sum(differing.to(tl.int32), axis=2).to(tl.float64)
    if sound is not None:
        count = tl.where(sound, count, -1.0)
    _store(
        slots,
        column,
        size * SCALE,
        apart * (SCALE * SCALE),
        high * (SCALE * SCALE),
        rest * (SCALE * SCALE),
        bound,
        most * SCALE,
        count,
    )


@triton.jit
def _store(slots, column, sum_abs, squares, high, low, bound, largest, count):
    """The slots of one strip; a column below zero is nobody's."""
    at = slots + column * SLOTS
    if column.numel == 1:
        store(at, sum_abs, column)
        store(at + 1, squares, column)
        store(at + 2, high, column)
        store(at + 3, low, column)
        store(at + 4, bound, column)
        store(at + 5, largest, column)
        store(at + 6, count, column)
    else:  # at once: seven stores of tensors take longer to compile, and more instructions; the eighth is nobody's
        number = tl.arange(0, 8)[None, None, :]
        even = tl.join(tl.join(sum_abs, bound), tl.join(high, count))
        odd = tl.join(tl.join(squares, largest), tl.join(low, count))
        sums = tl.reshape(tl.join(even, odd), column.shape[0], column.shape[1], 8)
        tl.store(at[:, :, None] + number, sums, (column[:, :, None] >= 0) & (number < SLOTS))
