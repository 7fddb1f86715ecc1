"""One block in floating point: its elements as the working type, and the way of its sums into the slots.

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
from functools import cache
from typing import Any

from numba import njit

from .accumulate import COMPILED, UNIT, add_compensated, larger
from .blocks import count_nonfinite, dot_compensated, dot_pinned, total_compensated
from .decode import decode
from .layout import LANES, WIDTH
from .memory import copy_bytes, exponent_of, float32_of, power_of_two, zero_bytes
from .scan import smallest_above_zero
from .wanted import Wanted

__all__ = ["as_floats", "close_pair", "close_pair_of", "close_self", "close_self_of"]

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


@cache
def close_self_of(wanted: Wanted) -> Any:
    """`close_self` of the wanted sums."""
    totals, squares = bool(wanted & Wanted.TOTALS), bool(wanted & Wanted.SQUARES)

    @njit(**COMPILED)
    def close_self(
        scratch: Any,
        source: int,
        count: int,
        bits: int,
        integer: bool,
        sums: Any,
        lanes: Any,
        lanes_at: int,
        slots: Any,
    ) -> None:
        """Add the self sums of one block to its chunk's slots."""
        largest = sums[4]
        if not largest < math.inf:
            slots[6] += count_nonfinite(scratch, source, count)
        if totals:
            _add_totals(scratch, source, count, bits, integer, sums, lanes, lanes_at, slots)
        if squares:
            slots[4] += sums[3]
        slots[5] = larger(slots[5], largest)

    return close_self


@njit(**COMPILED)
def _add_totals(
    scratch: Any, source: int, count: int, bits: int, integer: bool, sums: Any, lanes: Any, lanes_at: int, slots: Any
) -> None:
    """Add Σ|x| and Σx of one block to slots[0:4]."""
    size, total, low, largest, smallest = sums[0], sums[1], sums[2], sums[4], sums[5]
    slots[0] += size
    if not largest < math.inf:
        slots[1] += total  # inf or NaN by IEEE rules; a compensation would be NaN
    elif scratch.itemsize == 4:
        if smallest == 0.0:  # seldom so, and one more instruction for every element to leave zeros out
            smallest = float32_of(smallest_above_zero(source, count))
        # All elements are multiples of 2**(e - bits + 1) with 2**e <= smallest < 2**(e + 1).
        if size <= smallest * (1 << (53 - bits)):
            add_compensated(slots, 1, total, 0.0, 0.0)
        else:
            total_compensated(scratch, source, count, lanes_at)
            _collect(lanes, slots, 1)
    else:
        add_compensated(slots, 1, total, low, 0.0 if integer and size < 2.0**53 else _COMPENSATED * size)


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


@cache
def close_pair_of(wanted: Wanted) -> Any:
    """`close_pair` of the wanted sums."""
    size, squares, dot = (bool(wanted & flag) for flag in (Wanted.ABS_DIFF, Wanted.SQ_DIFF, Wanted.DOT))
    maximum, differing = bool(wanted & Wanted.MAX_DIFF), bool(wanted & Wanted.DIFFERING)

    @njit(**COMPILED)
    def close_pair(
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
        if dot:
            _add_dot(scratch, x, y, count, of_x, of_y, sums[1], lanes, lanes_at, slots, force)
        if size:
            slots[0] += sums[0]
        if squares:
            slots[1] += sums[1]
        if maximum:
            slots[5] = larger(slots[5], sums[2])
        if differing:
            slots[6] += sums[3]

    return close_pair


@njit(**COMPILED)
def _add_dot(
    scratch: Any,
    x: int,
    y: int,
    count: int,
    of_x: Any,
    of_y: Any,
    dd: float,
    lanes: Any,
    lanes_at: int,
    slots: Any,
    force: bool,
) -> None:
    """Add Σxy of one block to slots[2:5]: from the sums of squares where that is certain, else from the products."""
    xx, yy = of_x[3], of_y[3]
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


close_self, close_pair = close_self_of(Wanted.ALL), close_pair_of(Wanted.ALL)


@njit(**COMPILED)
def as_floats(
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
