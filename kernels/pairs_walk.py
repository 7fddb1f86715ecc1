"""The jitted walk over the chunks of a tile with any list of pairs, compiled for the sums that are wanted.

Block after block, every operand is converted and its self sums are taken; then, while all blocks are in the
second-level cache, the sums of every pair: in fixed point where both blocks can be held in a common unit, else in
floating point.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from .accumulate import COMPILED
from .blocks import pair_blocks_of
from .fixed import pair_fixed_of
from .fixed_walk import close_pair_fixed_of, common_unit, derive_dot, shift_to
from .float_walk import close_pair_of
from .layout import BLOCK, FIXED_GROUP, NO_UNIT, PAIR_GROUP, PAIR_OUT, WIDTH
from .operands import Room, find, hold_floats, take_self_of
from .task import slots_of, task_of
from .wanted import Wanted

__all__ = ["walk_of"]


@cache
def walk_of(wanted: Wanted) -> Any:
    """The walk that takes the wanted sums, which are `completed`; `native` compiles it."""
    take_self, take_fixed, take_floats = take_self_of(wanted), _take_fixed_of(wanted), _take_floats_of(wanted)

    def walk(scratch_type: Any, task_at: int) -> None:
        """Fill the slots of a task's work items, see `task.py`."""
        task = task_of(scratch_type, task_at)
        room, pairs, operands = task.room, task.pairs, task.addresses.shape[1]
        for row in range(len(task.items)):
            tensor, start, length, slot = task.items[row, 0], task.items[row, 1], task.items[row, 2], task.items[row, 3]
            selfs, between = slots_of(task, slot)
            for begin in range(0, length, BLOCK):
                count = min(BLOCK, length - begin)
                padded = (count + WIDTH - 1) // WIDTH * WIDTH
                groups = (count + FIXED_GROUP - 1) // FIXED_GROUP * FIXED_GROUP
                for n in range(operands):
                    find(room, n, task.addresses[tensor, n] + (start + begin) * room.itemsizes[n], count)
                    take_self(room, n, count, padded, groups, selfs[n])
                p = 0
                while p < len(pairs):
                    unit = _unit_of(room, pairs[p, 0], pairs[p, 1])
                    if unit != NO_UNIT:
                        take_fixed(room, pairs[p, 0], pairs[p, 1], unit, groups, between[p])
                        p += 1
                    else:
                        p += take_floats(room, pairs, p, count, padded, between, task.force)

    return walk


@njit(**COMPILED)
def _unit_of(room: Room, i: int, j: int) -> int:
    """The unit in which the blocks of both operands can be held in fixed point, or NO_UNIT."""
    if room.fixed[i] and room.fixed[j]:
        return common_unit(room.units[i], room.units[j])
    return NO_UNIT


def _take_fixed_of(wanted: Wanted) -> Any:
    """The function that takes the wanted sums of a pair in fixed point."""
    pair_fixed, close_pair_fixed = pair_fixed_of(wanted), close_pair_fixed_of(wanted)
    dot = bool(wanted & Wanted.DOT)

    @njit(**COMPILED)
    def take_fixed(room: Room, i: int, j: int, unit: int, groups: int, slots: Any) -> None:
        """Add the sums of the blocks of two operands, held in a common unit, to their chunk's slots."""
        shift_i, shift_j = shift_to(room.units[i, 0], unit), shift_to(room.units[j, 0], unit)
        held_i, held_j = room.fixed_at + i * BLOCK * 4, room.fixed_at + j * BLOCK * 4
        pair_fixed(held_i, held_j, shift_i, shift_j, groups, room.exact_at)
        if dot:
            derive_dot(room.exact, room.squares[i], shift_i, room.squares[j], shift_j)
        close_pair_fixed(room.exact, unit, slots)

    return take_fixed


def _take_floats_of(wanted: Wanted) -> Any:
    """The function that takes the wanted sums of pairs in floating point."""
    one, group = pair_blocks_of(wanted, 1), pair_blocks_of(wanted, PAIR_GROUP)
    close_pair = close_pair_of(wanted)

    @njit(**COMPILED)
    def take_floats(room: Room, pairs: Any, p: int, count: int, padded: int, between: Any, force: int) -> int:
        """Add the sums of pair p to its chunk's slots, and with it those of the next that have the same first operand.

        Returns how many pairs that were, PAIR_GROUP at most.
        """
        i = pairs[p, 0]
        x = hold_floats(room, i, count)
        many = 0
        while True:
            room.others[many] = hold_floats(room, pairs[p + many, 1], count)
            many += 1
            if many == PAIR_GROUP or p + many == len(pairs) or pairs[p + many, 0] != i:
                break
            if _unit_of(room, i, pairs[p + many, 1]) != NO_UNIT:
                break
        if many == PAIR_GROUP:
            group(room.scratch, x, room.others_at, padded, room.pair_at)
        else:
            for n in range(many):
                one(room.scratch, x, room.others_at + 8 * n, padded, room.pair_at + 8 * PAIR_OUT * n)
        for n in range(many):
            of_x, of_y = room.sums[i], room.sums[pairs[p + n, 1]]
            sums, slots = room.pair[n], between[p + n]
            close_pair(
                room.scratch, x, room.others[n], padded, of_x, of_y, sums, room.lanes, room.lanes_at, slots, force
            )
        return many

    return take_floats
