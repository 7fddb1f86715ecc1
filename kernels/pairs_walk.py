"""The jitted walk over the chunks of a tile with any list of pairs, compiled for the sums that are wanted.

Block after block, every operand is converted and its self sums are taken; then, while all blocks are in the
second-level cache, the sums of every pair: in fixed point where both blocks can be held in a common unit, else in
floating point.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from .blocks import pair_blocks_of
from .fixed import pair_fixed_of
from .fixed_walk import close_pair_fixed_of, common_unit, derive_dot, shift_to
from .float_walk import close_pair_of
from .layout import BLOCK, FIXED_GROUP, NO_UNIT, PAIR_GROUP, PAIR_OUT, PAIR_SLOTS, SELF_SLOTS, WIDTH
from .memory import doubles, integers, matrix
from .operands import INLINE, Room, find, hold_floats, room_of, take_self_of
from .wanted import Wanted

__all__ = ["walk_of"]


@cache
def walk_of(wanted: Wanted) -> Any:
    """The walk that takes the wanted sums, which are `completed`; `native` compiles it."""
    take_self = take_self_of(wanted)
    pair, group, pair_fixed = pair_blocks_of(wanted, 1), pair_blocks_of(wanted, PAIR_GROUP), pair_fixed_of(wanted)
    close_pair, close_pair_fixed = close_pair_of(wanted), close_pair_fixed_of(wanted)
    dot = bool(wanted & Wanted.DOT)

    def walk(
        scratch_type: Any,
        scratch_at: int,
        work_at: int,
        item_count: int,
        items_at: int,
        tensors: int,
        addresses_at: int,
        operands: int,
        operands_at: int,
        pair_count: int,
        pairs_at: int,
        force: int,
        self_slots_at: int,
        pair_slots_at: int,
    ) -> None:
        """Fill the slots of the work items; the arguments are those of `tile._walk_star`, the pairs any."""
        room = room_of(scratch_type, scratch_at, work_at, operands, operands_at)
        items = matrix(integers(), items_at, item_count, 4)
        addresses = matrix(integers(), addresses_at, tensors, operands)
        pairs = matrix(integers(), pairs_at, pair_count, 2)
        for row in range(item_count):
            tensor, start, length, slot = items[row, 0], items[row, 1], items[row, 2], items[row, 3]
            selfs = matrix(doubles(), self_slots_at + 8 * SELF_SLOTS * operands * slot, operands, SELF_SLOTS)
            between = matrix(doubles(), pair_slots_at + 8 * PAIR_SLOTS * pair_count * slot, pair_count, PAIR_SLOTS)
            for begin in range(0, length, BLOCK):
                count = min(BLOCK, length - begin)
                padded = (count + WIDTH - 1) // WIDTH * WIDTH
                groups = (count + FIXED_GROUP - 1) // FIXED_GROUP * FIXED_GROUP
                for n in range(operands):
                    find(room, n, addresses[tensor, n] + (start + begin) * room.itemsizes[n], count)
                    take_self(room, n, count, padded, groups, selfs[n])
                p = 0
                while p < pair_count:
                    i, j = pairs[p, 0], pairs[p, 1]
                    common = unit_of(room, i, j)
                    if common != NO_UNIT:
                        shift_i, shift_j = shift_to(room.units[i, 0], common), shift_to(room.units[j, 0], common)
                        held_i, held_j = room.fixed_at + i * BLOCK * 4, room.fixed_at + j * BLOCK * 4
                        pair_fixed(held_i, held_j, shift_i, shift_j, groups, room.exact_at)
                        if dot:
                            derive_dot(room.exact, room.squares[i], shift_i, room.squares[j], shift_j)
                        close_pair_fixed(room.exact, common, between[p])
                        p += 1
                        continue
                    # As many pairs of operand i as go through one loop.
                    many = 0
                    x = hold_floats(room, i, count)
                    while True:
                        room.others[many] = hold_floats(room, j, count)
                        many += 1
                        if many == PAIR_GROUP or p + many == pair_count or pairs[p + many, 0] != i:
                            break
                        j = pairs[p + many, 1]
                        if unit_of(room, i, j) != NO_UNIT:
                            break
                    if many == PAIR_GROUP:
                        group(room.scratch, x, room.others_at, padded, room.pair_at)
                    else:
                        for n in range(many):
                            pair(room.scratch, x, room.others_at + 8 * n, padded, room.pair_at + 8 * PAIR_OUT * n)
                    for n in range(many):
                        j = pairs[p + n, 1]
                        close_pair(
                            room.scratch,
                            x,
                            room.others[n],
                            padded,
                            room.sums[i],
                            room.sums[j],
                            room.pair[n],
                            room.lanes,
                            room.lanes_at,
                            between[p + n],
                            force,
                        )
                    p += many

    return walk


@njit(**INLINE)
def unit_of(room: Room, i: int, j: int) -> int:
    """The unit in which the blocks of both operands can be held in fixed point, or NO_UNIT."""
    if room.fixed[i] and room.fixed[j]:
        return common_unit(room.units[i], room.units[j])
    return NO_UNIT
