"""Two blocks of one narrow dtype as they are stored: which loop takes all their sums at once, without a detour.

8-bit integers go through `bytes8.py`, floats through `limb_sums.py`; what neither takes is converted (`fixed_walk.py`).
"""

from __future__ import annotations

from typing import Any

from numba import njit

from .accumulate import COMPILED
from .bytes8 import both_i8, both_u8
from .decoders import DECODERS
from .fixed_walk import describe, lowest, shown_unit
from .layout import BYTE_BITS, BYTE_LOW_BITS, FIXED_OUT, LANES, LIMB_BITS, LIMB_OUT, NO_UNIT
from .limb_sums import limbs_e4m3, limbs_e5m2
from .limbs import HAS_LOOKUPS
from .memory import integers, matrix, octets
from .word_sums import wide_bf16, wide_f16, words_bf16, words_f16

_BF16, _F16, _E4M3 = (DECODERS[code].index for code in ("BF16", "F16", "F8_E4M3"))
_I8, _U8 = (DECODERS[code].index for code in ("I8", "U8"))


@njit(**COMPILED)
def both_stored(
    code: int,
    format_of: Any,
    x: int,
    y: int,
    of_x: Any,
    of_y: Any,
    count: int,
    limbs_at: int,
    exact: Any,
    exact_at: int,
) -> int:
    """All sums of two blocks of one dtype as they are stored; their unit, or NO_UNIT if there is no loop for them.

    The blocks are given by address and as (unit, top). The sums of y go to exact[0], of x to exact[1], of the pair to
    exact[2]; `limbs_at` is where WORK_LIMBS of working memory stand.
    """
    if format_of[0] == 2:
        if code == _I8:
            both_i8(x, y, count, exact_at + 8 * FIXED_OUT, exact_at, exact_at + 16 * FIXED_OUT)
            return 0
        if code == _U8:
            both_u8(x, y, count, exact_at + 8 * FIXED_OUT, exact_at, exact_at + 16 * FIXED_OUT)
            return 0
        return NO_UNIT
    unit = min(of_x[0], of_y[0])
    top = max(of_x[1], of_y[1])
    found = matrix(integers(), limbs_at, 1, LIMB_OUT)[0]
    table_at = limbs_at + 8 * LIMB_OUT
    if code in (_BF16, _F16):
        unit = shown_unit(unit)
        if not -120 <= unit <= 0:  # the scale is a power of two not below 1, see `word_sums.py`
            return NO_UNIT
        if top + 1 - unit <= LIMB_BITS:
            if code == _BF16:
                words_bf16(x, y, -unit, count, limbs_at)
            else:
                words_f16(x, y, -unit, count, limbs_at)
        elif code == _BF16:
            wide_bf16(x, y, -unit, count, limbs_at)
        else:
            wide_f16(x, y, -unit, count, limbs_at)
    elif not HAS_LOOKUPS or top + 1 - unit > BYTE_BITS:
        return NO_UNIT
    else:
        known = matrix(integers(), table_at, 1, 1)[0, 0]
        if top + 1 - BYTE_BITS <= known <= unit:  # a table is not made without need
            unit = known
        else:
            unit = (max(lowest(format_of), top + 1 - BYTE_BITS) + unit) // 2
        _tabulate(format_of, unit, table_at)
        if code == _E4M3:
            limbs_e4m3(x, y, table_at + 8, count, limbs_at)
        else:
            limbs_e5m2(x, y, table_at + 8, count, limbs_at)
    _spread(found, exact)
    return unit


@njit(**COMPILED)
def both_at_once(
    code: int,
    format_of: Any,
    x: int,
    y: int,
    count: int,
    of_x: Any,
    of_y: Any,
    sums_x: Any,
    sums_y: Any,
    limbs_at: int,
    exact: Any,
) -> int:
    """`find_unit` of two blocks and `both_stored` in one pass; NO_UNIT if there is no such loop, or they do not fit it.

    The formats have few exponents: nearly all blocks are multiples of the smallest number that do not exceed the limbs.
    """
    unit = lowest(format_of)
    if code == _F16:
        bits = LIMB_BITS
        words_f16(x, y, -unit, count, limbs_at)
    elif code == _E4M3 and HAS_LOOKUPS:
        bits = BYTE_BITS
        _tabulate(format_of, unit, limbs_at + 8 * LIMB_OUT)
        limbs_e4m3(x, y, limbs_at + 8 * (LIMB_OUT + 1), count, limbs_at)
    else:
        return NO_UNIT
    found = matrix(integers(), limbs_at, 1, LIMB_OUT)[0]
    bound = min(format_of[3], (unit + bits + format_of[2]) << format_of[1])
    most_x, most_y = found[2 * LANES + 2], found[2 * LANES + 3]
    if max(most_x, most_y) >= bound:
        return NO_UNIT
    describe(format_of, most_x, 1, of_x, sums_x)
    describe(format_of, most_y, 1, of_y, sums_y)
    _spread(found, exact)
    return unit


@njit(**COMPILED)
def _spread(found: Any, exact: Any) -> None:
    """What a loop of `limbs.py` has found, as those of `fixed.py` leave it."""
    for n in range(3):
        exact[1, 2 * n], exact[1, 2 * n + 1] = found[n], found[LANES + n]
        exact[0, 2 * n], exact[0, 2 * n + 1] = found[3 + n], found[LANES + 3 + n]
    for half in range(2):
        of = found[LANES * half : LANES * (half + 1)]
        exact[2, half] = of[6]
        exact[2, 2 + half] = of[7]
        exact[2, 4 + half] = of[2] + of[5] - of[7]
    exact[2, 6], exact[2, 7] = found[2 * LANES], found[2 * LANES + 1]


@njit(**COMPILED)
def forget_table(limbs_at: int) -> None:
    """Make certain that what happens to stand in fresh memory is not taken for a table."""
    matrix(integers(), limbs_at, 1, LIMB_OUT + 1)[0, LIMB_OUT] = NO_UNIT


@njit(**COMPILED)
def _tabulate(format_of: Any, unit: int, table_at: int) -> None:
    """The limbs of all 128 magnitudes of an 8-bit float as multiples of a unit, byte by byte, behind their unit."""
    known = matrix(integers(), table_at, 1, 1)[0]
    if known[0] == unit:
        return
    known[0] = unit
    table = matrix(octets(), table_at + 8, 4, 128)
    mantissa = format_of[1]
    for pattern in range(128):
        stored, value = pattern >> mantissa, pattern & ((1 << mantissa) - 1)
        if stored:
            value = (value + (1 << mantissa)) << (stored - 1)
        value >>= unit - lowest(format_of)  # exact for every element of the block
        low, high = value & ((1 << BYTE_LOW_BITS) - 1), value >> BYTE_LOW_BITS
        table[0, pattern], table[1, pattern] = low & 255, low >> 8
        table[2, pattern], table[3, pattern] = high & 255, (high >> 8) & 255
