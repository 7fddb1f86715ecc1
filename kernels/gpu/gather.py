"""The second step: the slots of each tensor's strips added in a fixed order to its sums.

Derived from the machine code (sm_90), not measured: a warp takes 440 instructions for a column of a tensor of up to 32
chunks. So those of 10,000 such pairs are 1.3e7 of a warp, 14 us of an H100 by issue, beside some 1.7 ms for their bytes
(float32, 64 Ki elements each). One pair of the same bytes takes 237 warps in the first level and 3 in the second.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .exact import added, bits_of, joined_lanes, largest_of, two_sum

__all__ = ["gather_kernel"]

SLOTS = tl.constexpr(constants.SLOTS)
ROWS = tl.constexpr(constants.GATHER_ROWS)
LANES = tl.constexpr(constants.GATHER_LANES)
LOG2_LANES = tl.constexpr(constants.GATHER_LANES.bit_length() - 1)


@triton.jit(do_not_specialize=["first_row", "rows", "columns"])
def gather_kernel(
    slots,  # (..., STRIPS, columns, SLOTS) float64: what is added
    table,  # (..., 3) int64, see `levels`
    sums,  # (places, columns, SLOTS) float64
    first_row,  # of this level
    rows,
    columns,
    STRIPS: tl.constexpr,  # of a chunk; 1 where sums are added again
):
    """A warp adds one column of one row: what is number c of the row goes to lane c % LANES, and the lanes come last.

    The strips of a chunk are added first. So where none of these rounds it does not matter how many there are.

    Of Σx and Σxy, two-sums keep what the high parts round off. What is then added to low parts is rounded: each time by
    2**-53 of what comes out at most, so that much of the sum of these magnitudes goes to the bound, and so does what
    `joined_lanes` may lose of the lanes.
    """
    number = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None, None]  # [ROWS, 1, 1]
    row, column = number // columns, number % columns
    wanted = row < rows
    entry = table + (first_row + row).to(tl.int64) * 3
    begin, end = tl.load(entry, wanted, 0), tl.load(entry + 1, wanted, 0)
    lanes = tl.arange(0, LANES)[None, None, :]  # [1, 1, LANES]
    zero = tl.zeros([ROWS, 1, LANES], tl.float64)
    sum_abs, squares, high, low, bound, rounded, count = zero, zero, zero, zero, zero, zero, zero
    largest = tl.zeros([ROWS, 1, LANES], tl.int64)
    for done in range(0, tl.max(end - begin), LANES):
        chunk = begin + done + lanes
        inside = chunk < end
        size, square, total, rest = zero, zero, zero, zero
        for strip in tl.static_range(STRIPS):
            at = slots + ((chunk * STRIPS + strip) * columns + column) * SLOTS
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
        before, low = low, low + rest
        # Where no chunk is, nothing is rounded: how many steps there are follows from the rows of the program together.
        rounded += tl.where(inside, tl.abs(before) + tl.abs(low), 0.0)
    bound += (1.01 * 2.0**-53) * rounded
    total, rest, lost = joined_lanes(high, low, LOG2_LANES)
    place = tl.load(entry + 2, wanted, 0)
    out = tl.reshape(sums + (place * columns + column) * SLOTS, [ROWS, 1])
    stored = tl.reshape(wanted, [ROWS, 1])
    tl.store(out, tl.sum(sum_abs, axis=2), stored)
    tl.store(out + 1, tl.sum(squares, axis=2), stored)
    tl.store(out + 2, total, stored)
    tl.store(out + 3, rest, stored)
    tl.store(out + 4, tl.sum(bound, axis=2) + lost, stored)
    tl.store(out + 5, largest_of(largest), stored)
    tl.store(out + 6, tl.sum(count, axis=2), stored)
