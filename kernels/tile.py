"""The jitted walk over the chunks of a tile that has one base: which block of which operands goes through which loop.

A tile with any other list of pairs is walked by `pairs_walk.py`.

A block is held in fixed point where that can be (`fixed_walk.py`), else in floating point (`float_walk.py`); either way
its sums are added to the slots of its chunk.
"""

from __future__ import annotations

from typing import Any

from numba import types

from .blocks import both_block, one_block, pair_block, self_block
from .byte_walk import forget_window
from .fixed import both_fixed, self_fixed
from .fixed_walk import (
    close_pair_fixed,
    close_self_fixed,
    common_unit,
    shift_to,
    shown_unit,
)
from .float_walk import close_pair, close_self
from .gather import gather
from .layout import (
    BLOCK,
    BLOCKS,
    FIXED_GROUP,
    FIXED_OUT,
    NO_UNIT,
    SELF_OUT,
    WIDTH,
)
from .limb_walk import both_at_once, both_stored
from .memory import doubles, integers, matrix
from .operands import find, hold_fixed, hold_floats
from .pairs_walk import walk_of
from .task import slots_of, task_of
from .wanted import Wanted

__all__ = ["FUNCTIONS"]


def _walk_star(scratch_type: Any, task_at: int) -> None:
    """Fill the slots of a task's work items, see `task.py`; its pairs are (1, 0), (2, 0) ..."""
    task = task_of(scratch_type, task_at)
    room, operands = task.room, task.addresses.shape[1]
    scratch, codes, sources, floats = room.scratch, room.codes, room.sources, room.floats
    fixed, units, sums = room.fixed, room.units, room.sums
    exact_at, exact_bytes = room.exact_at, 8 * FIXED_OUT
    exact = matrix(integers(), exact_at, 3, FIXED_OUT)  # of the base's block, of the other's, of the pair
    kept_at = exact_at + 3 * exact_bytes
    kept = matrix(doubles(), kept_at, BLOCKS, SELF_OUT)  # of each block of the base: its self sums,
    kept_units = matrix(integers(), kept_at + 8 * BLOCKS * SELF_OUT, BLOCKS, 3)  # unit, top, whether it is held fixed
    limbs_at = kept_at + 8 * BLOCKS * (SELF_OUT + 3)
    forget_window(limbs_at)
    for row in range(len(task.items)):
        tensor, start, length, slot = task.items[row, 0], task.items[row, 1], task.items[row, 2], task.items[row, 3]
        selfs, between = slots_of(task, slot)
        # One of the others after the other: memory is read in long runs, and the base's chunk stays in cache.
        for x in range(1, operands):
            at_once = True  # until a block turns out not to fit; `byte_walk.py` knows itself when to try again
            for begin in range(0, length, BLOCK):
                block = begin // BLOCK
                count = min(BLOCK, length - begin)
                padded = (count + WIDTH - 1) // WIDTH * WIDTH
                groups = (count + FIXED_GROUP - 1) // FIXED_GROUP * FIXED_GROUP
                for n in (0, x):
                    sources[n] = task.addresses[tensor, n] + (start + begin) * room.itemsizes[n]
                known, common, unit = kept_units[block], NO_UNIT, NO_UNIT
                alike = codes[0] == codes[x] and groups == count
                if alike and at_once:
                    unit = both_at_once(
                        codes[0],
                        room.formats[:, 0],
                        sources[x],
                        sources[0],
                        count,
                        units[x],
                        units[0],
                        sums[x],
                        sums[0],
                        limbs_at,
                        exact,
                    )
                    fixed[0] = fixed[x] = 1
                    at_once = unit != NO_UNIT or room.itemsizes[0] == 1
                    common = unit
                if unit == NO_UNIT:
                    find(room, x, sources[x], count)
                    if x == 1 or known[0] == NO_UNIT:
                        find(room, 0, sources[0], count)
                        known[0], known[1], known[2] = units[0, 0], units[0, 1], fixed[0]
                    else:
                        units[0, 0], units[0, 1], fixed[0] = known[0], known[1], known[2]
                    if x > 1:
                        for at in range(SELF_OUT):
                            sums[0, at] = kept[block, at]
                    if fixed[0] and fixed[x]:
                        common = common_unit(units[x], units[0])
                elif x == 1:
                    known[0], known[1], known[2] = units[0, 0], units[0, 1], 1
                if common != NO_UNIT:
                    if alike and unit == NO_UNIT:
                        unit = both_stored(
                            codes[0],
                            room.formats[:, 0],
                            sources[x],
                            sources[0],
                            units[x],
                            units[0],
                            count,
                            limbs_at,
                            exact,
                            exact_at,
                        )
                    if unit != NO_UNIT:
                        common = unit
                        if room.formats[0, 0] == 2:
                            sums[0, 4], sums[x, 4] = exact[0, 6], exact[1, 6]
                    else:
                        both_fixed(
                            hold_fixed(room, x, count),
                            hold_fixed(room, 0, count),
                            shift_to(units[x, 0], common),
                            shift_to(units[0, 0], common),
                            groups,
                            exact_at + exact_bytes,
                            exact_at,
                            exact_at + 2 * exact_bytes,
                        )
                    close_self_fixed(exact[1], common, sums[x], selfs[x])
                    close_pair_fixed(exact[2], common, between[x - 1])
                    if x == 1:
                        close_self_fixed(exact[0], common, sums[0], selfs[0])
                        for at in range(SELF_OUT):
                            kept[block, at] = sums[0, at]
                    continue
                for n in (0, x):
                    floats[n] = 0  # what stands there is of another block
                    hold_floats(room, n, count)
                sums_at, at_x, pair_at = room.sums_at, room.sums_at + x * 8 * SELF_OUT, room.pair_at
                fused = x == 1 and not fixed[0] and not fixed[x]
                if fused:
                    both_block(scratch, floats[x], floats[0], padded, at_x, sums_at, pair_at)
                elif x == 1:
                    if fixed[0]:
                        self_fixed(hold_fixed(room, 0, count), groups, exact_at)
                        close_self_fixed(exact[0], shown_unit(units[0, 0]), sums[0], selfs[0])
                    else:
                        self_block(scratch, floats[0], padded, sums_at)
                if fixed[x]:
                    self_fixed(hold_fixed(room, x, count), groups, exact_at)
                    close_self_fixed(exact[0], shown_unit(units[x, 0]), sums[x], selfs[x])
                    pair_block(scratch, floats[x], floats[0], padded, pair_at)
                elif not fused:
                    one_block(scratch, floats[x], floats[0], padded, at_x, pair_at)
                close_pair(
                    scratch,
                    floats[x],
                    floats[0],
                    padded,
                    sums[x],
                    sums[0],
                    room.pair[0],
                    room.lanes,
                    room.lanes_at,
                    between[x - 1],
                    task.force,
                )
                for n in (0, x):
                    if fixed[n] or (n == 0 and x > 1):
                        continue
                    close_self(
                        scratch,
                        floats[n],
                        padded,
                        room.bits[n],
                        room.whole_numbers[n],
                        sums[n],
                        room.lanes,
                        room.lanes_at,
                        selfs[n],
                    )
                if x == 1:
                    for at in range(SELF_OUT):
                        kept[block, at] = sums[0, at]


def _walk(working: Any) -> Any:
    """The signature of a walk: a pointer that names the working type, and where the task lies."""
    return types.void(types.CPointer(working), types.int64)


def _star(wanted: Wanted) -> Any:
    assert wanted == Wanted.ALL
    return _walk_star


# What `native` compiles: name -> (the Python function for the sums that are wanted, its signature).
FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "star_f32": (_star, _walk(types.float32)),
    "star_f64": (_star, _walk(types.float64)),
    "pairs_f32": (walk_of, _walk(types.float32)),
    "pairs_f64": (walk_of, _walk(types.float64)),
    "gather": (lambda wanted: gather, types.void(*[types.int64] * 12)),
}
