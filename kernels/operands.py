"""What a walk over a tile keeps of its operands, and what it does with the block of one of them.

A walk holds one `Room`: the table that describes the operands, working memory, and of every operand where its block
stands as the working type and as fixed point, with its self sums. The functions here do to operand n what all walks
do. Which of them stand in place of their calls is left to the compiler: when told to put all there it took 1.6 times
as long, and the code was no faster.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import njit

from .accumulate import COMPILED
from .blocks import self_block_of
from .fixed import self_fixed_of
from .fixed_walk import close_self_fixed_of, find_unit, shown_unit, to_fixed
from .float_walk import as_floats, close_self_of
from .layout import BLOCK, DD_OUT, FIXED_OUT, OPERAND_ROWS, PAIR_GROUP, PAIR_OUT, SELF_OUT, TAIL_SLOTS, WORK_SLOTS
from .memory import doubles, integers, matrix
from .wanted import Wanted

__all__ = ["Room", "find", "hold_fixed", "hold_floats", "room_of", "take_self_of"]


class Room(NamedTuple):
    """The memory of a walk. Names in `_at` are addresses of what stands before them; shapes are of N operands.

    Attributes:
        scratch: (N, BLOCK) of the working type; behind it, from `fixed_at` on, the same of int32.
        codes, itemsizes, direct, bits, whole_numbers: (N,), rows of `layout.OPERAND_ROWS`.
        formats: (4, N), the further rows, as `find_unit` takes them.
        tail_at: where the end of a tensor is padded.
        lanes: (DD_OUT,) of a compensated sum.
        pair: (PAIR_GROUP, PAIR_OUT) the sums of pairs of blocks in floating point.
        others: (PAIR_GROUP,) where the second block of each stands.
        exact: (FIXED_OUT,) those of a block or of two in fixed point.
        sums: (N, SELF_OUT) the self sums of each operand's block.
        sources, floats: (N,) where the block is stored, and where it stands as the working type, 0 if it does not yet.
        fixed: (N,) whether it is held in fixed point.
        units: (N, 2) its unit and top then.
        squares: (N, 2) ΣX² then, in units of its own, as (high, low).
    """

    scratch: Any
    scratch_at: int
    fixed_at: int
    codes: Any
    itemsizes: Any
    direct: Any
    bits: Any
    whole_numbers: Any
    formats: Any
    tail_at: int
    lanes: Any
    lanes_at: int
    pair: Any
    pair_at: int
    others: Any
    others_at: int
    exact: Any
    exact_at: int
    sums: Any
    sums_at: int
    sources: Any
    floats: Any
    fixed: Any
    units: Any
    squares: Any


@njit(**COMPILED)
def room_of(scratch_type: Any, scratch_at: int, work_at: int, operands: int, operands_at: int) -> Room:
    """The memory that the caller of a walk gave it, in parts."""
    scratch = matrix(scratch_type, scratch_at, operands, BLOCK)
    constants = matrix(integers(), operands_at, OPERAND_ROWS, operands)
    lanes_at = work_at + 8 * TAIL_SLOTS
    pair_at = lanes_at + 8 * DD_OUT
    others_at = pair_at + 8 * PAIR_GROUP * PAIR_OUT
    exact_at = others_at + 8 * PAIR_GROUP
    sums_at = work_at + 8 * WORK_SLOTS
    of_block_at = sums_at + 8 * SELF_OUT * operands
    of_block = matrix(integers(), of_block_at, 3, operands)
    units_at = of_block_at + 8 * 3 * operands
    return Room(
        scratch,
        scratch_at,
        scratch_at + operands * BLOCK * scratch.itemsize,
        constants[0],
        constants[1],
        constants[2],
        constants[3],
        constants[4],
        constants[5:],
        work_at,
        matrix(doubles(), lanes_at, 1, DD_OUT)[0],
        lanes_at,
        matrix(doubles(), pair_at, PAIR_GROUP, PAIR_OUT),
        pair_at,
        matrix(integers(), others_at, 1, PAIR_GROUP)[0],
        others_at,
        matrix(integers(), exact_at, 1, FIXED_OUT)[0],
        exact_at,
        matrix(doubles(), sums_at, operands, SELF_OUT),
        sums_at,
        of_block[0],
        of_block[1],
        of_block[2],
        matrix(integers(), units_at, operands, 2),
        matrix(integers(), units_at + 16 * operands, operands, 2),
    )


@njit(**COMPILED)
def find(room: Room, n: int, source: int, count: int) -> None:
    """Begin with the block of operand n that is stored at `source`: whether it can be held in fixed point."""
    room.sources[n], room.floats[n], room.fixed[n] = source, 0, 0
    if room.formats[0, n]:
        room.fixed[n] = find_unit(
            room.formats[:, n],
            room.itemsizes[n],
            source,
            count,
            room.tail_at,
            room.units[n],
            room.sums[n],
        )


@njit(**COMPILED)
def hold_floats(room: Room, n: int, count: int) -> int:
    """Where the block of operand n stands as the working type; it is converted when first asked for."""
    if room.floats[n] == 0:
        target = room.scratch_at + n * BLOCK * room.scratch.itemsize
        code, itemsize, direct, source = room.codes[n], room.itemsizes[n], room.direct[n], room.sources[n]
        room.floats[n] = as_floats(room.scratch, code, itemsize, direct, source, count, target, room.tail_at)
    return room.floats[n]


@njit(**COMPILED)
def hold_fixed(room: Room, n: int, count: int) -> int:
    """Convert the block of operand n to int32 multiples of its unit; where they stand."""
    target = room.fixed_at + n * BLOCK * 4
    to_fixed(
        room.codes[n],
        room.itemsizes[n],
        room.sources[n],
        count,
        room.units[n, 0],
        target,
        room.tail_at,
        room.sums[n],
    )
    return target


@cache
def take_self_of(wanted: Wanted) -> Any:
    """The function that takes the wanted self sums of an operand."""
    products = bool(wanted & (Wanted.SQUARES | Wanted.TOTALS))
    self_block, self_fixed = self_block_of(wanted), self_fixed_of(wanted)
    close_self, close_self_fixed = close_self_of(wanted), close_self_fixed_of(wanted)

    @njit(**COMPILED)
    def take_self(room: Room, n: int, count: int, padded: int, groups: int, slots: Any) -> None:
        """Convert the block of operand n, and add its self sums to its chunk's slots.

        padded, groups: `count` rounded up to what loops in floating and in fixed point step by.
        """
        exact = room.exact
        if room.fixed[n]:
            held = hold_fixed(room, n, count)
            if products:
                self_fixed(held, groups, room.exact_at)
                room.squares[n, 0], room.squares[n, 1] = exact[4] + (exact[5] >> 32), exact[5] & 0xFFFFFFFF
            close_self_fixed(exact, shown_unit(room.units[n, 0]), room.sums[n], slots)
        else:
            held = hold_floats(room, n, count)
            self_block(room.scratch, held, padded, room.sums_at + n * 8 * SELF_OUT)
            close_self(
                room.scratch,
                held,
                padded,
                room.bits[n],
                room.whole_numbers[n],
                room.sums[n],
                room.lanes,
                room.lanes_at,
                slots,
            )

    return take_self
