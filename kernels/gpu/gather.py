"""The second step: the slots of each tensor's strips added in a fixed order to its sums."""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .exact import added, bits_of, joined_lanes, largest_of, two_sum

__all__ = ["gather_kernel"]

SLOTS = tl.constexpr(constants.SLOTS)
STRIPS = tl.constexpr(constants.STRIPS)
SUMS = tl.constexpr(constants.SUMS)
LANES = tl.constexpr(constants.GATHER_LANES)
LOG2_LANES = tl.constexpr(constants.GATHER_LANES.bit_length() - 1)


@triton.jit(do_not_specialize=["columns"])
def gather_kernel(
    slots,  # (chunks, STRIPS, columns, SLOTS) float64
    first_chunk,  # (K + 1,) int64
    sums,  # (K, columns, SUMS) float64: Σ|x|, Σx², Σx, its bound, max|x|, #nonfinite, and the like of pairs
    columns,
):
    """One program per (tensor, column): chunk c of the tensor goes to lane c % LANES, and the lanes are added last.

    The strips of a chunk are added first. So where none of these rounds it does not matter how many there are.

    Of Σx and Σxy, two-sums keep what the high parts round off. What is then added to low parts is rounded: each time by
    2**-53 of what comes out at most, so that much of the sum of these magnitudes goes to the bound, and so does what
    `joined_lanes` may lose of the lanes.
    """
    program = tl.program_id(0)
    tensor, column = program // columns, program % columns
    begin, end = tl.load(first_chunk + tensor), tl.load(first_chunk + tensor + 1)
    lanes = tl.arange(0, LANES)[None, None, :]  # [1, 1, LANES]
    zero = tl.zeros([1, 1, LANES], tl.float64)
    sum_abs, squares, high, low, bound, rounded, count = zero, zero, zero, zero, zero, zero, zero
    largest = tl.zeros([1, 1, LANES], tl.int64)
    for chunk in range(begin, end, LANES):
        inside = chunk + lanes < end
        size, square, total, rest = zero, zero, zero, zero
        for strip in tl.static_range(STRIPS):
            at = slots + (((chunk + lanes) * STRIPS + strip) * columns + column) * SLOTS
            size += tl.load(at, inside, 0.0)
            square += tl.load(at + 1, inside, 0.0)
            total, error = two_sum(total, tl.load(at + 2, inside, 0.0))
            part = error + tl.load(at + 3, inside, 0.0)
            rest += part
            rounded += tl.abs(part) + tl.abs(rest)
            bound += tl.load(at + 4, inside, 0.0)
            largest = tl.maximum(largest, bits_of(tl.load(at + 5, inside, 0.0)))
            count += tl.load(at + 6, inside, 0.0)
        sum_abs += size
        squares += square
        high, low = added(high, low, total)
        rounded += tl.abs(low)
        low += rest
        rounded += tl.abs(low)
    bound += (1.01 * 2.0**-53) * rounded
    total, rest, lost = joined_lanes(high, low, LOG2_LANES)
    out = sums + program.to(tl.int64) * SUMS + tl.zeros([1, 1], tl.int64)
    tl.store(out, tl.sum(sum_abs, axis=2))
    tl.store(out + 1, tl.sum(squares, axis=2))
    tl.store(out + 2, total + rest)
    tl.store(out + 3, tl.sum(bound, axis=2) + lost)
    tl.store(out + 4, largest_of(largest))
    tl.store(out + 5, tl.sum(count, axis=2))
