"""One block in fixed point: whether it can be, its conversion, and the way of its integer sums into the slots.

A block of an operand has a unit 2**q of which all its elements are whole multiples, and a top: all magnitudes are below
2**(top + 1). It is held in fixed point when top + 1 - q is at most FIXED_BITS; a pair of blocks is when the same holds
for the larger top and the smaller unit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from .accumulate import COMPILED, add_compensated, larger, two_sum
from .decoders import DECODERS
from .fixed import (
    fix_bf16,
    fix_bool,
    fix_e4m3,
    fix_e5m2,
    fix_f16,
    fix_i8,
    fix_i16,
    fix_u8,
    fix_u16,
)
from .layout import (
    FIXED_BITS,
    FIXED_GROUP,
    LIMB_BITS,
    NO_UNIT,
    TAIL_SLOTS,
    ZERO_UNIT,
)
from .memory import copy_bytes, power_of_two, zero_bytes
from .scan import largest, largest_and_smallest
from .wanted import Wanted

_BF16, _F16, _E4M3, _E5M2 = (DECODERS[code].index for code in ("BF16", "F16", "F8_E4M3", "F8_E5M2"))
_I8, _U8, _I16, _U16 = (DECODERS[code].index for code in ("I8", "U8", "I16", "U16"))
_TWO_32 = 2.0**32


@njit(**COMPILED)
def _convert(code: int, source: int, target: int, count: int, scale: float) -> int:
    if code == _BF16:
        return fix_bf16(source, target, count, scale)
    if code == _F16:
        return fix_f16(source, target, count, scale)
    if code == _E4M3:
        return fix_e4m3(source, target, count, scale)
    if code == _E5M2:
        return fix_e5m2(source, target, count, scale)
    if code == _I8:
        return fix_i8(source, target, count, scale)
    if code == _U8:
        return fix_u8(source, target, count, scale)
    if code == _I16:
        return fix_i16(source, target, count, scale)
    if code == _U16:
        return fix_u16(source, target, count, scale)
    return fix_bool(source, target, count, scale)


@njit(**COMPILED)
def lowest(format_of: Any) -> int:
    """The exponent of a float format's smallest number above zero."""
    return 1 - format_of[2] - format_of[1]


@njit(**COMPILED)
def find_unit(
    format_of: Any,
    itemsize: int,
    source: int,
    count: int,
    tail_at: int,
    of_block: Any,
    sums: Any,
) -> int:
    """The unit and the top of a block, at of_block[0] and of_block[1]; 1 if it can be held in fixed point.

    `format_of` holds the operand's rows of `layout.OPERAND_ROWS` from the fifth on: whether it is an integer dtype (2)
    or a float (1), bits of the mantissa (of the magnitude), bias of the exponent, first pattern that is not finite. Of
    floats, the largest magnitude goes to sums[4], where a block's max|x| stands.

    A block so small that all its elements are less than 2**LIMB_BITS times the format's smallest number has that for a
    unit: its own smallest element is not looked for.
    """
    if format_of[0] == 2:
        of_block[0], of_block[1] = 0, format_of[1]
        return 1
    whole = count // FIXED_GROUP * FIXED_GROUP
    rest = 0
    if whole != count:
        copy_tail(itemsize, source, count, tail_at)
        rest = FIXED_GROUP
    short, most, least = False, 0, 1
    if format_of[1] > 2 and format_of[2] < 127:  # the exponents of E5M2 and of BF16 span too much for it
        most = max(largest(itemsize, source, whole), largest(itemsize, tail_at, rest))
        short = most < (lowest(format_of) + LIMB_BITS + format_of[2]) << format_of[1]
    if not short:
        most, least = largest_and_smallest(itemsize, source, whole)
        most_of_rest, least_of_rest = largest_and_smallest(itemsize, tail_at, rest)
        most = max(most, most_of_rest)
        if least == 0 or 0 < least_of_rest < least:
            least = least_of_rest
    if most >= format_of[3]:
        return 0
    return describe(format_of, most, least, of_block, sums)


@njit(**COMPILED)
def describe(format_of: Any, most: int, least: int, of_block: Any, sums: Any) -> int:
    """The rest of `find_unit`, given the largest finite magnitude and the smallest above zero, as patterns."""
    if most == 0:
        of_block[0], of_block[1], sums[4] = ZERO_UNIT, -ZERO_UNIT, 0.0
        return 1
    mantissa, bias = format_of[1], format_of[2]
    stored = most >> mantissa
    top = max(stored, 1) - bias
    unit = max(least >> mantissa, 1) - bias - mantissa
    if stored:  # the leading bit of a normal number is not stored
        most += (1 - stored) << mantissa
    sums[4] = most * power_of_two(top - mantissa)
    of_block[0], of_block[1] = unit, top
    # The scale must be a normal float32.
    return 1 if top + 1 - unit <= FIXED_BITS and -127 <= unit <= 126 else 0


@njit(**COMPILED)
def to_fixed(
    code: int, itemsize: int, source: int, count: int, unit: int, target: int, tail_at: int, sums: Any
) -> None:
    """Convert a block to int32 multiples of its unit at `target`, padded with zeros to whole groups.

    Of integer dtypes, the largest magnitude goes to sums[4].
    """
    whole = count // FIXED_GROUP * FIXED_GROUP
    scale = power_of_two(-shown_unit(unit))
    largest = _convert(code, source, target, whole, scale)
    if whole != count:
        copy_tail(itemsize, source, count, tail_at)
        largest = max(largest, _convert(code, tail_at, target + 4 * whole, FIXED_GROUP, scale))
    if largest >= 0:
        sums[4] = largest


@njit(**COMPILED)
def copy_tail(itemsize: int, source: int, count: int, tail_at: int) -> None:
    """What is behind a block's last whole group, padded with zeros to a group."""
    whole = count // FIXED_GROUP * FIXED_GROUP
    zero_bytes(tail_at, 8 * TAIL_SLOTS)
    copy_bytes(source + whole * itemsize, tail_at, (count - whole) * itemsize)


@njit(**COMPILED)
def common_unit(x: Any, y: Any) -> int:
    """The unit in which both blocks of a pair, each given as (unit, top), fit; or NO_UNIT."""
    common = min(x[0], y[0])
    if max(x[1], y[1]) + 1 - common > FIXED_BITS:
        return NO_UNIT
    return shown_unit(common)


@njit(**COMPILED)
def shown_unit(unit: int) -> int:
    """The unit of a block that is zero throughout is any; 0 will do."""
    return 0 if unit == ZERO_UNIT else unit


@njit(**COMPILED)
def shift_to(unit: int, common: int) -> int:
    """By how much integers of one unit are shifted to be of another."""
    return 0 if unit == ZERO_UNIT else unit - common


@njit(**COMPILED)
def derive_dot(exact: Any, of_x: Any, shift_x: int, of_y: Any, shift_y: int) -> None:
    """2 ΣXY = ΣX² + ΣY² - Σ(X-Y)² of blocks in a common unit, at exact[4] and exact[5] as (high, low).

    of_x and of_y are ΣX² and ΣY² in the blocks' own units, (high, low) with 0 <= low < 2**32. All three sums are
    integers below 2**65 in the common unit, so this is exact, and costs nothing beside a loop over the products.
    """
    high, low = -exact[2], -exact[3]
    for squares, shift in ((of_x, 2 * shift_x), (of_y, 2 * shift_y)):
        high += squares[0] << shift
        if shift < 32:  # even, so 30 at most: the sum of two stays below 2**63
            low += squares[1] << shift
        else:
            high += squares[1] << (shift - 32)
    exact[4], exact[5] = high + (low >> 32), low & 0xFFFFFFFF


@cache
def close_self_fixed_of(wanted: Wanted) -> Any:
    """`close_self_fixed` of the wanted sums."""
    totals, squares = bool(wanted & Wanted.TOTALS), bool(wanted & Wanted.SQUARES)

    @njit(**COMPILED)
    def close_self_fixed(exact: Any, unit: int, sums: Any, slots: Any) -> None:
        """Add the integer self sums of one block, and max|x| in sums[4], to its slots; Σx² goes to sums[3] too."""
        scale = power_of_two(unit)
        if totals:
            slots[0] += (exact[0] * _TWO_32 + exact[1]) * scale
            add_compensated(slots, 1, (exact[2] * _TWO_32 + exact[3]) * scale, 0.0, 0.0)
        if squares:
            sums[3] = (exact[4] * _TWO_32 + exact[5]) * (scale * scale)
            slots[4] += sums[3]
        slots[5] = larger(slots[5], sums[4])

    return close_self_fixed


@cache
def close_pair_fixed_of(wanted: Wanted) -> Any:
    """`close_pair_fixed` of the wanted sums."""
    size, squares, dot = (bool(wanted & flag) for flag in (Wanted.ABS_DIFF, Wanted.SQ_DIFF, Wanted.DOT))
    maximum, differing = bool(wanted & Wanted.MAX_DIFF), bool(wanted & Wanted.DIFFERING)

    @njit(**COMPILED)
    def close_pair_fixed(exact: Any, unit: int, slots: Any) -> None:
        """Add the integer pair sums of one block to its chunk's slots."""
        scale = power_of_two(unit)
        square = scale * scale
        if size:
            slots[0] += (exact[0] * _TWO_32 + exact[1]) * scale
        if squares:
            slots[1] += (exact[2] * _TWO_32 + exact[3]) * square
        if dot:
            high, low = two_sum(exact[4] * _TWO_32, float(exact[5]))
            add_compensated(slots, 2, high * (0.5 * square), low * (0.5 * square), 0.0)
        if maximum:
            slots[5] = larger(slots[5], exact[6] * scale)
        if differing:
            slots[6] += exact[7]

    return close_pair_fixed


close_self_fixed, close_pair_fixed = close_self_fixed_of(Wanted.ALL), close_pair_fixed_of(Wanted.ALL)
