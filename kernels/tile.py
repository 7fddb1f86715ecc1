"""The jitted walk over the chunks of a tile: blocks, their sums, and the slots they are added to.

How 1e-12 is kept at the speed of memory. With u = 2**-53:

- Sums of magnitudes and squares run over at most 128 terms a lane (`blocks.py`): relative error below 2e-14.
- Σx of a float32 block is exact when no element has bits below 2**-53 of Σ|x|, which the largest and the smallest
  magnitude tell; where it may not be, and for float64 always, it is compensated (error below 1e-27 Σ|x|).
- Σxy = (Σx² + Σy² - Σd²) / 2 costs nothing and is off by at most 136/2 u (Σx² + Σy² + Σd²). Where that is more than
  5e-13 |Σxy|, as it is for unrelated vectors, the block is run again with a compensated dot product.
- Each slot carries a bound of its error, on which `cpu.py` decides whether the result is certain to 1e-12.
"""

from __future__ import annotations

import math
from typing import Any

from numba import njit, types

from .blocks import (
    both_block,
    copy_bytes,
    count_nonfinite,
    dot_compensated,
    doubles,
    integers,
    matrix,
    one_block,
    pair_block,
    self_block,
    total_compensated,
)
from .decode import WIDTH, decode
from .layout import ANY, BLOCK, DD_OUT, LANES, PAIR_OUT, PAIR_SLOTS, SELF_OUT, SELF_SLOTS, STAR, TWO, WORK_SLOTS

__all__ = ["FUNCTIONS"]

# No reference counting: it would tie the machine code to Numba's runtime, and `native` loads it without Numba.
COMPILED: dict[str, Any] = {"error_model": "numpy", "_nrt": False}

_UNIT = 2.0**-53
_DERIVED = 68 * _UNIT  # error of the derived Σxy, in units of Σx² + Σy² + Σd²
_TRUSTED = 60.0  # the derived Σxy is taken while Σx² + Σy² + Σd² is at most this multiple of it: 4.6e-13
_COMPENSATED = 1e-27  # error of a compensated sum of a block, in units of the sum of its terms' magnitudes
_HUGE = 1e290  # above, sums of squares of float64 may have overflowed
_TINIEST = 5e-324  # least bound of a sum of products that are not all zero: its own product may underflow


@njit(**COMPILED)
def _two_sum(a: float, x: float) -> tuple[float, float]:
    s = a + x
    t = s - a
    return s, (a - (s - t)) + (x - t)


@njit(**COMPILED)
def _larger(a: float, b: float) -> float:
    """The larger of two magnitudes; NaN wins."""
    return b if (b > a or b != b) and a == a else a


@njit(**COMPILED)
def _add_compensated(slots: Any, at: int, high: float, low: float, bound: float) -> None:
    """Add high + low, known to `bound`, to the double-double at slots[at : at + 2] with its bound at slots[at + 2]."""
    total, error = _two_sum(slots[at], high)
    slots[at] = total
    rest = error + low
    if rest != 0.0:  # exact sums stay exact, with a bound of zero
        slots[at + 1] += rest
        bound += 2.0 * _UNIT * (abs(slots[at + 1]) + abs(error) + abs(low))
    slots[at + 2] += bound


@njit(**COMPILED)
def _collect(lanes: Any, slots: Any, at: int) -> None:
    """Add the lanes of a compensated sum to the double-double at slots[at : at + 3]."""
    size = 0.0
    for lane in range(LANES):
        size += lanes[2 * LANES + lane]
    for lane in range(LANES):
        _add_compensated(slots, at, lanes[lane], lanes[LANES + lane], 0.0)
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
            _add_compensated(slots, 1, total, 0.0, 0.0)
        else:
            total_compensated(scratch, source, count, lanes_at)
            _collect(lanes, slots, 1)
    else:
        _add_compensated(slots, 1, total, low, 0.0 if integer and size < 2.0**53 else _COMPENSATED * size)
    slots[4] += sums[3]
    slots[5] = _larger(slots[5], largest)


@njit(**COMPILED)
def _close_pair(
    scratch: Any,
    x: int,
    y: int,
    count: int,
    xx: float,
    yy: float,
    sums: Any,
    lanes: Any,
    lanes_at: int,
    slots: Any,
    force: bool,
) -> None:
    """Add the pair sums of one block, Σxy among them, to its chunk's slots."""
    dd = sums[1]
    size = xx + yy + dd
    dot = 0.5 * ((xx + yy) - dd)
    if not force and size < _HUGE and size <= _TRUSTED * abs(dot):
        _add_compensated(slots, 2, dot, 0.0, max(_DERIVED * size, min(size, _TINIEST)))
    else:
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
    slots[5] = _larger(slots[5], sums[2])
    slots[6] += sums[3]


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

    All arguments but the first are integers, those called `_at` addresses of C-contiguous arrays:
    scratch (N, BLOCK) of the working type that `scratch_type` points to; work, `WORK_SLOTS + N * (SELF_OUT + 1)`
    float64; items (item_count, 4); addresses (K, N); operands (5, N): dtype, itemsize, whether it is used where it
    lies, significant bits, whether it is an integer dtype; pairs (P, 2); slots (W, N, SELF_SLOTS) and (W, P, PAIR_SLOTS).
    """
    scratch = matrix(scratch_type, scratch_at, operands, BLOCK)
    itemsize = scratch.itemsize
    items = matrix(integers(), items_at, item_count, 4)
    addresses = matrix(integers(), addresses_at, tensors, operands)
    constants = matrix(integers(), operands_at, 5, operands)
    codes, itemsizes, direct, bits, whole_numbers = constants[0], constants[1], constants[2], constants[3], constants[4]
    pairs = matrix(integers(), pairs_at, pair_count, 2)
    tail_at, lanes_at, pair_at = work_at, work_at + 8 * WIDTH, work_at + 8 * (WIDTH + DD_OUT)
    lanes = matrix(doubles(), lanes_at, 1, DD_OUT)[0]
    pair = matrix(doubles(), pair_at, 1, PAIR_OUT)[0]
    sums_at = work_at + 8 * WORK_SLOTS
    sums = matrix(doubles(), sums_at, operands, SELF_OUT)
    where = matrix(integers(), sums_at + 8 * SELF_OUT * operands, 1, operands)[0]
    row_bytes = 8 * SELF_OUT
    for row in range(item_count):
        tensor, start, length, slot = items[row, 0], items[row, 1], items[row, 2], items[row, 3]
        selfs = matrix(doubles(), self_slots_at + 8 * SELF_SLOTS * operands * slot, operands, SELF_SLOTS)
        between = matrix(doubles(), pair_slots_at + 8 * PAIR_SLOTS * pair_count * slot, pair_count, PAIR_SLOTS)
        for begin in range(0, length, BLOCK):
            count = min(BLOCK, length - begin)
            whole = count // WIDTH * WIDTH
            padded = (count + WIDTH - 1) // WIDTH * WIDTH
            for n in range(operands):
                source = addresses[tensor, n] + (start + begin) * itemsizes[n]
                if direct[n] and whole == count:
                    where[n] = source
                    continue
                target = scratch_at + n * BLOCK * itemsize
                decode(scratch, codes[n], source, target, whole)
                if whole != count:
                    copy_bytes(source + whole * itemsizes[n], tail_at, (count - whole) * itemsizes[n])
                    decode(scratch, codes[n], tail_at, target + whole * itemsize, WIDTH)
                    for element in range(count, padded):
                        scratch[n, element] = 0
                where[n] = target
            if layout == TWO:
                both_block(scratch, where[1], where[0], padded, sums_at + row_bytes, sums_at, pair_at)
            elif layout == STAR:
                self_block(scratch, where[0], padded, sums_at)
            else:
                for n in range(operands):
                    self_block(scratch, where[n], padded, sums_at + n * row_bytes)
            for p in range(pair_count):
                i, j = pairs[p, 0], pairs[p, 1]
                if layout == STAR:
                    one_block(scratch, where[i], where[j], padded, sums_at + i * row_bytes, pair_at)
                elif layout == ANY:
                    pair_block(scratch, where[i], where[j], padded, pair_at)
                _close_pair(
                    scratch,
                    where[i],
                    where[j],
                    padded,
                    sums[i, 3],
                    sums[j, 3],
                    pair,
                    lanes,
                    lanes_at,
                    between[p],
                    force,
                )
            for n in range(operands):
                _close_self(scratch, where[n], padded, bits[n], whole_numbers[n], sums[n], lanes, lanes_at, selfs[n])


def _gather(
    item_count: int,
    items_at: int,
    operands: int,
    pair_count: int,
    self_slots_at: int,
    pair_slots_at: int,
    selfs_at: int,
    between_at: int,
) -> None:
    """Add the slots of each tensor's chunks, in order, to what stands at `selfs_at` and `between_at`.

    There: (K, N, SELF_SLOTS + 2) and (K, P, PAIR_SLOTS + 2), the slots of the tensor and behind them the low parts of
    its two sums of magnitudes and of squares.
    """
    items = matrix(integers(), items_at, item_count, 4)
    for row in range(item_count):
        tensor, slot = items[row, 0], items[row, 3]
        for n in range(operands):
            part = matrix(doubles(), self_slots_at + 8 * SELF_SLOTS * (slot * operands + n), 1, SELF_SLOTS)[0]
            whole = matrix(doubles(), selfs_at + 8 * (SELF_SLOTS + 2) * (tensor * operands + n), 1, SELF_SLOTS + 2)[0]
            _add_plain(whole, 0, SELF_SLOTS, part[0])
            _add_plain(whole, 4, SELF_SLOTS + 1, part[4])
            _add_compensated(whole, 1, part[1], part[2], part[3])
            whole[5] = _larger(whole[5], part[5])
            whole[6] += part[6]
        for p in range(pair_count):
            part = matrix(doubles(), pair_slots_at + 8 * PAIR_SLOTS * (slot * pair_count + p), 1, PAIR_SLOTS)[0]
            whole = matrix(doubles(), between_at + 8 * (PAIR_SLOTS + 2) * (tensor * pair_count + p), 1, PAIR_SLOTS + 2)[
                0
            ]
            _add_plain(whole, 0, PAIR_SLOTS, part[0])
            _add_plain(whole, 1, PAIR_SLOTS + 1, part[1])
            _add_compensated(whole, 2, part[2], part[3], part[4])
            whole[5] = _larger(whole[5], part[5])
            whole[6] += part[6]


@njit(**COMPILED)
def _add_plain(whole: Any, at: int, low: int, value: float) -> None:
    whole[at], error = _two_sum(whole[at], value)
    whole[low] += error


def _signature(working: Any, integers: int) -> Any:
    pointer = [types.CPointer(working)] if working is not None else []
    return types.void(*pointer, *[types.int64] * integers)


# What `native` compiles: name -> (Python function, signature).
FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "run_f32": (_run, _signature(types.float32, 14)),
    "run_f64": (_run, _signature(types.float64, 14)),
    "gather": (_gather, _signature(None, 8)),
}
