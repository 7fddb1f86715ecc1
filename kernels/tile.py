"""The jitted walk over the chunks of a tile: blocks, their sums, and the slots they are added to.

How 1e-12 is kept at the speed of memory. With u = 2**-53:

- Sums of magnitudes and squares run over at most 256 terms a lane (`blocks.py`): relative error below 3e-14.
- Σx of a float32 block is exact when no element has bits below 2**-53 of Σ|x|, which the largest and the smallest
  magnitude tell; where it may not be, and for float64 always, it is compensated (error below 2e-27 Σ|x|).
- Σxy = (Σx² + Σy² - Σd²) / 2 costs nothing and is off by at most 266/2 u (Σx² + Σy² + Σd²). Where that is more than
  5e-13 |Σxy|, as it is for unrelated vectors, the block is run again with a compensated dot product.
- Each slot carries a bound of its error, on which `cpu.py` decides whether the result is certain to 1e-12.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit, types

from .accumulate import COMPILED, UNIT, add_compensated, add_plain, joined, larger
from .blocks import (
    both_block,
    copy_bytes,
    count_nonfinite,
    dot_compensated,
    dot_pinned,
    doubles,
    exponent_of,
    integers,
    matrix,
    one_block,
    pair_block,
    self_block,
    total_compensated,
    zero_bytes,
)
from .decode import decode
from .fixed import both_fixed, pair_fixed, power_of_two, self_fixed
from .fixed_walk import (
    both_stored,
    close_pair_fixed,
    close_self_fixed,
    common_unit,
    find_unit,
    shift_to,
    shown_unit,
    to_fixed,
)
from .layout import (
    BLOCK,
    BLOCKS,
    DD_OUT,
    FIXED_GROUP,
    FIXED_OUT,
    LANES,
    NO_UNIT,
    OPERAND_ROWS,
    PAIR_OUT,
    PAIR_SLOTS,
    SELF_OUT,
    SELF_SLOTS,
    STAR,
    TAIL_SLOTS,
    WIDTH,
    WORK_SLOTS,
)

__all__ = ["FUNCTIONS"]

_DERIVED = 133 * UNIT  # error of the derived Σxy, in units of Σx² + Σy² + Σd²
_TRUSTED = 33.0  # the derived Σxy is taken while Σx² + Σy² + Σd² is at most this multiple of it: 4.9e-13
_COMPENSATED = 2e-27  # error of a compensated sum of a block, in units of the sum of its terms' magnitudes
_PINNED = 2.0**-84  # error of a pinned sum of a block, in units of the pin
_HUGE = 1e290  # above, sums of squares of float64 may have overflowed
_TINIEST = 5e-324  # least bound of a sum of products that are not all zero: its own product may underflow


@njit(**COMPILED)
def _collect(lanes: Any, slots: Any, at: int) -> None:
    """Add the lanes of a compensated sum to the double-double at slots[at : at + 3]."""
    size = 0.0
    for lane in range(LANES):
        size += lanes[2 * LANES + lane]
    for lane in range(LANES):
        add_compensated(slots, at, lanes[lane], lanes[LANES + lane], 0.0)
    slots[at + 2] += max(_COMPENSATED * size, min(size, _TINIEST))


@njit(**COMPILED)
def _close_self(
    scratch: Any, source: int, count: int, bits: int, integer: bool, sums: Any, lanes: Any, lanes_at: int, slots: Any
) -> None:
    """Add the self sums of one block to its chunk's slots."""
    size, total, low, largest, smallest = sums[0], sums[1], sums[2], sums[4], sums[5]
    slots[0] += size
    if not largest < math.inf:
        slots[6] += count_nonfinite(scratch, source, count)
        slots[1] += total  # inf or NaN by IEEE rules; a compensation would be NaN
    elif scratch.itemsize == 4:
        # All elements are multiples of 2**(e - bits + 1) with 2**e <= smallest < 2**(e + 1).
        if size <= smallest * (1 << (53 - bits)):
            add_compensated(slots, 1, total, 0.0, 0.0)
        else:
            total_compensated(scratch, source, count, lanes_at)
            _collect(lanes, slots, 1)
    else:
        add_compensated(slots, 1, total, low, 0.0 if integer and size < 2.0**53 else _COMPENSATED * size)
    slots[4] += sums[3]
    slots[5] = larger(slots[5], largest)


@njit(**COMPILED)
def _add_pinned(
    scratch: Any, x: int, y: int, count: int, largest: float, lanes: Any, lanes_at: int, slots: Any
) -> bool:
    """Add Σxy of a float32 block to slots[2:5], where no product exceeds `largest`; False if that is not to be had."""
    if scratch.itemsize != 4 or not 0.0 < largest < math.inf:
        return False
    pin = power_of_two(exponent_of(largest) + 11)
    dot_pinned(scratch, x, y, count, 1.5 * pin, lanes_at)
    if lanes[0] == 0.0 and lanes[1] == 0.0:  # all products may be 0, which this cannot tell for certain
        return False
    add_compensated(slots, 2, lanes[0], lanes[1], _PINNED * pin)
    return True


@njit(**COMPILED)
def _close_pair(
    scratch: Any,
    x: int,
    y: int,
    count: int,
    of_x: Any,
    of_y: Any,
    sums: Any,
    lanes: Any,
    lanes_at: int,
    slots: Any,
    force: bool,
) -> None:
    """Add the pair sums of one block, Σxy among them, to its chunk's slots; of_x and of_y are the self sums."""
    xx, yy, dd = of_x[3], of_y[3], sums[1]
    size = xx + yy + dd
    dot = 0.5 * ((xx + yy) - dd)
    if not force and size < _HUGE and size <= _TRUSTED * abs(dot):
        add_compensated(slots, 2, dot, 0.0, max(_DERIVED * size, min(size, _TINIEST)))
    elif not _add_pinned(scratch, x, y, count, of_x[4] * of_y[4], lanes, lanes_at, slots):
        dot_compensated(scratch, x, y, count, lanes_at)
        plain = 0.0
        for lane in range(LANES):
            plain += lanes[lane]
        if math.isfinite(plain):
            _collect(lanes, slots, 2)
        else:
            slots[2] += plain
    slots[0] += sums[0]
    slots[1] += dd
    slots[5] = larger(slots[5], sums[2])
    slots[6] += sums[3]


@njit(**COMPILED)
def _as_floats(
    scratch: Any, code: int, itemsize: int, direct: int, source: int, count: int, target: int, tail_at: int
) -> int:
    """Where the block at `source` stands as the working type, padded with zeros: `target`, unless it can stay."""
    whole = count // WIDTH * WIDTH
    if direct and whole == count:
        return source
    decode(scratch, code, source, target, whole)
    if whole != count:
        copy_bytes(source + whole * itemsize, tail_at, (count - whole) * itemsize)
        end = target + whole * scratch.itemsize
        decode(scratch, code, tail_at, end, WIDTH)
        zero_bytes(end + (count - whole) * scratch.itemsize, (whole + WIDTH - count) * scratch.itemsize)
    return target


def _run(
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
    layout: int,
    force: int,
    self_slots_at: int,
    pair_slots_at: int,
) -> None:
    """Fill the slots of the work items given as rows (tensor, start, length, slot).

    All arguments but the first are integers, those called `_at` addresses of C-contiguous arrays: scratch (2, N, BLOCK)
    of the working type that `scratch_type` points to; work, `WORK_SLOTS + N * WORK_OPERAND` float64; items
    (item_count, 4); addresses (K, N); operands (OPERAND_ROWS, N), see `layout.py`; pairs (P, 2); slots
    (W, N, SELF_SLOTS) and (W, P, PAIR_SLOTS).
    """
    itemsize = matrix(scratch_type, scratch_at, operands, BLOCK).itemsize
    scratch = matrix(scratch_type, scratch_at, operands, BLOCK)
    items = matrix(integers(), items_at, item_count, 4)
    addresses = matrix(integers(), addresses_at, tensors, operands)
    constants = matrix(integers(), operands_at, OPERAND_ROWS, operands)
    codes, itemsizes, direct, bits, whole_numbers = constants[0], constants[1], constants[2], constants[3], constants[4]
    pairs = matrix(integers(), pairs_at, pair_count, 2)
    tail_at, lanes_at, pair_at = work_at, work_at + 8 * TAIL_SLOTS, work_at + 8 * (TAIL_SLOTS + DD_OUT)
    lanes = matrix(doubles(), lanes_at, 1, DD_OUT)[0]
    pair = matrix(doubles(), pair_at, 1, PAIR_OUT)[0]
    exact_at = pair_at + 8 * PAIR_OUT
    exact = matrix(integers(), exact_at, 3, FIXED_OUT)
    sums_at = work_at + 8 * WORK_SLOTS
    sums = matrix(doubles(), sums_at, operands, SELF_OUT)
    of_block_at = sums_at + 8 * SELF_OUT * operands
    of_block = matrix(integers(), of_block_at, 3, operands)
    sources, floats, fixed = of_block[0], of_block[1], of_block[2]
    units = matrix(integers(), of_block_at + 8 * 3 * operands, operands, 2)  # of each: unit, top
    fixed_at = scratch_at + operands * BLOCK * itemsize
    between_at = exact_at + 16 * FIXED_OUT
    sums_bytes, exact_bytes, fixed_bytes, float_bytes = 8 * SELF_OUT, 8 * FIXED_OUT, BLOCK * 4, BLOCK * itemsize
    kept_at = between_at + 8 * FIXED_OUT
    kept = matrix(doubles(), kept_at, BLOCKS, SELF_OUT)  # of each block of the base: its self sums,
    kept_units = matrix(integers(), kept_at + 8 * BLOCKS * SELF_OUT, BLOCKS, 3)  # unit, top, whether it is held fixed
    for row in range(item_count):
        tensor, start, length, slot = items[row, 0], items[row, 1], items[row, 2], items[row, 3]
        selfs = matrix(doubles(), self_slots_at + 8 * SELF_SLOTS * operands * slot, operands, SELF_SLOTS)
        between = matrix(doubles(), pair_slots_at + 8 * PAIR_SLOTS * pair_count * slot, pair_count, PAIR_SLOTS)
        if layout == STAR:
            # One of the others after the other: memory is read in long runs, and the base's chunk stays in cache.
            for x in range(1, operands):
                for begin in range(0, length, BLOCK):
                    block = begin // BLOCK
                    count = min(BLOCK, length - begin)
                    padded = (count + WIDTH - 1) // WIDTH * WIDTH
                    groups = (count + FIXED_GROUP - 1) // FIXED_GROUP * FIXED_GROUP
                    for n in (0, x):
                        sources[n] = addresses[tensor, n] + (start + begin) * itemsizes[n]
                        if n == 0 and x > 1:
                            continue
                        fixed[n] = 0
                        if constants[5, n]:
                            fixed[n] = find_unit(
                                constants[5:, n],
                                itemsizes[n],
                                sources[n],
                                count,
                                tail_at,
                                exact[0],
                                exact_at,
                                units[n],
                                sums[n],
                            )
                    known = kept_units[block]
                    if x == 1:
                        known[0], known[1], known[2] = units[0, 0], units[0, 1], fixed[0]
                    else:
                        units[0, 0], units[0, 1], fixed[0] = known[0], known[1], known[2]
                        for at in range(SELF_OUT):
                            sums[0, at] = kept[block, at]
                    target_x, target_y = fixed_at + x * fixed_bytes, fixed_at
                    common = NO_UNIT
                    if fixed[0] and fixed[x]:
                        common = common_unit(units[x], units[0])
                    if common != NO_UNIT:
                        done = 0
                        if codes[0] == codes[x] and groups == count:
                            done = both_stored(
                                codes[0],
                                sources[x],
                                sources[0],
                                common,
                                count,
                                exact_at + exact_bytes,
                                exact_at,
                                between_at,
                            )
                            if done and constants[5, 0] == 2:
                                sums[0, 4], sums[x, 4] = exact[0, 6], exact[1, 6]
                        if not done:
                            to_fixed(codes[x], itemsizes[x], sources[x], count, units[x, 0], target_x, tail_at, sums[x])
                            to_fixed(codes[0], itemsizes[0], sources[0], count, units[0, 0], target_y, tail_at, sums[0])
                            both_fixed(
                                target_x,
                                target_y,
                                shift_to(units[x, 0], common),
                                shift_to(units[0, 0], common),
                                groups,
                                exact_at + exact_bytes,
                                exact_at,
                                between_at,
                            )
                        close_self_fixed(exact[1], common, sums[x], selfs[x])
                        close_pair_fixed(exact[2], common, between[x - 1])
                        if x == 1:
                            close_self_fixed(exact[0], common, sums[0], selfs[0])
                            for at in range(SELF_OUT):
                                kept[block, at] = sums[0, at]
                        continue
                    for n in (0, x):
                        floats[n] = _as_floats(
                            scratch,
                            codes[n],
                            itemsizes[n],
                            direct[n],
                            sources[n],
                            count,
                            scratch_at + n * float_bytes,
                            tail_at,
                        )
                    at_x = sums_at + x * sums_bytes
                    fused = x == 1 and not fixed[0] and not fixed[x]
                    if fused:
                        both_block(scratch, floats[x], floats[0], padded, at_x, sums_at, pair_at)
                    elif x == 1:
                        if fixed[0]:
                            to_fixed(codes[0], itemsizes[0], sources[0], count, units[0, 0], target_y, tail_at, sums[0])
                            self_fixed(target_y, groups, exact_at)
                            close_self_fixed(exact[0], shown_unit(units[0, 0]), sums[0], selfs[0])
                        else:
                            self_block(scratch, floats[0], padded, sums_at)
                    if fixed[x]:
                        to_fixed(codes[x], itemsizes[x], sources[x], count, units[x, 0], target_x, tail_at, sums[x])
                        self_fixed(target_x, groups, exact_at)
                        close_self_fixed(exact[0], shown_unit(units[x, 0]), sums[x], selfs[x])
                        pair_block(scratch, floats[x], floats[0], padded, pair_at)
                    elif not fused:
                        one_block(scratch, floats[x], floats[0], padded, at_x, pair_at)
                    _close_pair(
                        scratch,
                        floats[x],
                        floats[0],
                        padded,
                        sums[x],
                        sums[0],
                        pair,
                        lanes,
                        lanes_at,
                        between[x - 1],
                        force,
                    )
                    if not fixed[x]:
                        _close_self(
                            scratch, floats[x], padded, bits[x], whole_numbers[x], sums[x], lanes, lanes_at, selfs[x]
                        )
                    if x == 1:
                        if not fixed[0]:
                            _close_self(
                                scratch,
                                floats[0],
                                padded,
                                bits[0],
                                whole_numbers[0],
                                sums[0],
                                lanes,
                                lanes_at,
                                selfs[0],
                            )
                        for at in range(SELF_OUT):
                            kept[block, at] = sums[0, at]
            continue
        for begin in range(0, length, BLOCK):
            count = min(BLOCK, length - begin)
            padded = (count + WIDTH - 1) // WIDTH * WIDTH
            groups = (count + FIXED_GROUP - 1) // FIXED_GROUP * FIXED_GROUP
            for n in range(operands):
                sources[n] = addresses[tensor, n] + (start + begin) * itemsizes[n]
                floats[n] = 0
                fixed[n] = 0
                if constants[5, n]:
                    fixed[n] = find_unit(
                        constants[5:, n],
                        itemsizes[n],
                        sources[n],
                        count,
                        tail_at,
                        exact[0],
                        exact_at,
                        units[n],
                        sums[n],
                    )
                if fixed[n]:
                    target = fixed_at + n * fixed_bytes
                    to_fixed(codes[n], itemsizes[n], sources[n], count, units[n, 0], target, tail_at, sums[n])
                    self_fixed(target, groups, exact_at)
                    close_self_fixed(exact[0], shown_unit(units[n, 0]), sums[n], selfs[n])
                else:
                    floats[n] = _as_floats(
                        scratch,
                        codes[n],
                        itemsizes[n],
                        direct[n],
                        sources[n],
                        count,
                        scratch_at + n * float_bytes,
                        tail_at,
                    )
                    self_block(scratch, floats[n], padded, sums_at + n * sums_bytes)
                    _close_self(
                        scratch, floats[n], padded, bits[n], whole_numbers[n], sums[n], lanes, lanes_at, selfs[n]
                    )
            for p in range(pair_count):
                i, j = pairs[p, 0], pairs[p, 1]
                common = NO_UNIT
                if fixed[i] and fixed[j]:
                    common = common_unit(units[i], units[j])
                if common != NO_UNIT:
                    pair_fixed(
                        fixed_at + i * fixed_bytes,
                        fixed_at + j * fixed_bytes,
                        shift_to(units[i, 0], common),
                        shift_to(units[j, 0], common),
                        groups,
                        exact_at,
                    )
                    close_pair_fixed(exact[0], common, between[p])
                    continue
                for n in (i, j):
                    if floats[n] == 0:
                        floats[n] = _as_floats(
                            scratch,
                            codes[n],
                            itemsizes[n],
                            direct[n],
                            sources[n],
                            count,
                            scratch_at + n * float_bytes,
                            tail_at,
                        )
                pair_block(scratch, floats[i], floats[j], padded, pair_at)
                _close_pair(
                    scratch,
                    floats[i],
                    floats[j],
                    padded,
                    sums[i],
                    sums[j],
                    pair,
                    lanes,
                    lanes_at,
                    between[p],
                    force,
                )


def _gather(
    item_count: int,
    items_at: int,
    operands: int,
    pair_count: int,
    self_slots_at: int,
    pair_slots_at: int,
    work_at: int,
    self_sums_at: int,
    self_bounds_at: int,
    pair_sums_at: int,
    pair_bounds_at: int,
) -> None:
    """Add the slots of each tensor's chunks, in order, and write its sums and the bounds of Σx and of Σxy.

    There: (K, N, SELF_SUMS) and (K, P, PAIR_SUMS), the number of elements left to the caller, and (K, N) and (K, P).
    Work is (SELF_SLOTS + 2) float64; a pair has as many slots as an operand.
    """
    items = matrix(integers(), items_at, item_count, 4)
    begin = 0
    while begin < item_count:
        tensor = items[begin, 0]
        end = begin + 1
        while end < item_count and items[end, 0] == tensor:
            end += 1
        for n in range(operands):
            whole = matrix(doubles(), work_at, 1, SELF_SLOTS + 2)[0]
            for row in range(begin, end):
                part = matrix(
                    doubles(), self_slots_at + 8 * SELF_SLOTS * (items[row, 3] * operands + n), 1, SELF_SLOTS
                )[0]
                _add_slots(whole, part, row == begin, 0, 4, 1)
            out = matrix(doubles(), self_sums_at + 8 * 6 * (tensor * operands + n), 1, 6)[0]
            out[1], out[2], out[3] = joined(whole[0], whole[7]), joined(whole[1], whole[2]), joined(whole[4], whole[8])
            out[4], out[5] = whole[5], whole[6]
            matrix(doubles(), self_bounds_at, 1, operands * (tensor + 1))[0, tensor * operands + n] = whole[3]
        for p in range(pair_count):
            whole = matrix(doubles(), work_at, 1, PAIR_SLOTS + 2)[0]
            for row in range(begin, end):
                part = matrix(
                    doubles(), pair_slots_at + 8 * PAIR_SLOTS * (items[row, 3] * pair_count + p), 1, PAIR_SLOTS
                )[0]
                _add_slots(whole, part, row == begin, 0, 1, 2)
            out = matrix(doubles(), pair_sums_at + 8 * 5 * (tensor * pair_count + p), 1, 5)[0]
            out[0], out[1], out[2] = joined(whole[0], whole[7]), joined(whole[1], whole[8]), joined(whole[2], whole[3])
            out[3], out[4] = whole[5], whole[6]
            matrix(doubles(), pair_bounds_at, 1, pair_count * (tensor + 1))[0, tensor * pair_count + p] = whole[4]
        begin = end


@njit(**COMPILED)
def _add_slots(whole: Any, part: Any, first: bool, plain: int, squares: int, compensated: int) -> None:
    """Add a chunk's slots to a tensor's, whose two plain sums have their low parts behind the slots."""
    if first:
        for at in range(SELF_SLOTS):
            whole[at] = part[at]
        whole[SELF_SLOTS], whole[SELF_SLOTS + 1] = 0.0, 0.0
        return
    add_plain(whole, plain, SELF_SLOTS, part[plain])
    add_plain(whole, squares, SELF_SLOTS + 1, part[squares])
    add_compensated(whole, compensated, part[compensated], part[compensated + 1], part[compensated + 2])
    whole[5] = larger(whole[5], part[5])
    whole[6] += part[6]


def _signature(working: Any, integers: int) -> Any:
    pointer = [types.CPointer(working)] if working is not None else []
    return types.void(*pointer, *[types.int64] * integers)


# What `native` compiles: name -> (Python function, signature).
FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "run_f32": (_run, _signature(types.float32, 14)),
    "run_f64": (_run, _signature(types.float64, 14)),
    "gather": (_gather, _signature(None, 11)),
}
