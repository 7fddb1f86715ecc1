"""The jitted walk over the chunks of a tile with any list of pairs, compiled for the sums that are wanted.

Block after block, every operand is converted and its self sums are taken; then, while all blocks are in the
second-level cache, the sums of every pair: in fixed point where both blocks can be held in a common unit, else in
floating point.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .blocks import pair_block_of
from .fixed import pair_fixed_of
from .fixed_walk import close_pair_fixed_of, common_unit, derive_dot, shift_to
from .float_walk import close_pair_of
from .layout import BLOCK, FIXED_GROUP, NO_UNIT, PAIR_SLOTS, SELF_SLOTS, WIDTH
from .memory import doubles, integers, matrix
from .operands import find, hold_floats, room_of, take_self_of
from .wanted import Wanted

__all__ = ["walk_of"]


@cache
def walk_of(wanted: Wanted) -> Any:
    """The walk that takes the wanted sums, which are `completed`; `native` compiles it."""
    take_self = take_self_of(wanted)
    pair_block, pair_fixed = pair_block_of(wanted), pair_fixed_of(wanted)
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
                for p in range(pair_count):
                    i, j = pairs[p, 0], pairs[p, 1]
                    common = NO_UNIT
                    if room.fixed[i] and room.fixed[j]:
                        common = common_unit(room.units[i], room.units[j])
                    if common != NO_UNIT:
                        shift_i, shift_j = shift_to(room.units[i, 0], common), shift_to(room.units[j, 0], common)
                        held_i, held_j = room.fixed_at + i * BLOCK * 4, room.fixed_at + j * BLOCK * 4
                        pair_fixed(held_i, held_j, shift_i, shift_j, groups, room.exact_at)
                        if dot:
                            derive_dot(room.exact, room.squares[i], shift_i, room.squares[j], shift_j)
                        close_pair_fixed(room.exact, common, between[p])
                    else:
                        for n in (i, j):
                            hold_floats(room, n, count)
                        pair_block(room.scratch, room.floats[i], room.floats[j], padded, room.pair_at)
                        close_pair(
                            room.scratch,
                            room.floats[i],
                            room.floats[j],
                            padded,
                            room.sums[i],
                            room.sums[j],
                            room.pair,
                            room.lanes,
                            room.lanes_at,
                            between[p],
                            force,
                        )

    return walk
