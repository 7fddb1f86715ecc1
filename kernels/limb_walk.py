"""Two blocks of one narrow dtype as they are stored: which loop takes all their sums at once, without a detour.

8-bit integers go through `bytes8.py`, floats through `byte_walk.py` and `word_sums.py`; what none of them takes is
converted (`fixed_walk.py`).
"""

from __future__ import annotations

from typing import Any

from numba import njit

from .accumulate import COMPILED
from .byte_walk import both_bytes
from .bytes8 import both_i8, both_u8
from .decoders import DECODERS
from .fixed_walk import describe, lowest, shown_unit
from .layout import FIXED_OUT, LANES, LIMB_BITS, LIMB_OUT, NO_UNIT
from .memory import integers, matrix
from .word_sums import wide_bf16, wide_f16, words_bf16, words_f16

_BF16, _F16, _E4M3, _E5M2 = (DECODERS[code].index for code in ("BF16", "F16", "F8_E4M3", "F8_E5M2"))
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
    unit = shown_unit(min(of_x[0], of_y[0]))
    # The scale is a power of two not below 1, see `word_sums.py`.
    if code not in (_BF16, _F16) or not -120 <= unit <= 0:
        return NO_UNIT
    if max(of_x[1], of_y[1]) + 1 - unit <= LIMB_BITS:
        if code == _BF16:
            words_bf16(x, y, -unit, count, limbs_at)
        else:
            words_f16(x, y, -unit, count, limbs_at)
    elif code == _BF16:
        wide_bf16(x, y, -unit, count, limbs_at)
    else:
        wide_f16(x, y, -unit, count, limbs_at)
    found = matrix(integers(), limbs_at, 1, LIMB_OUT)[0]
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

    Nearly all blocks of float16 are multiples of the format's smallest number that do not exceed the limbs; of 8-bit
    floats, whose own units are not looked for, of_x[0] and of_y[0] become NO_UNIT.
    """
    if code in (_E4M3, _E5M2):
        return both_bytes(format_of, x, y, count, of_x, of_y, sums_x, sums_y, limbs_at, exact)
    if code != _F16:
        return NO_UNIT
    unit = lowest(format_of)
    words_f16(x, y, -unit, count, limbs_at)
    found = matrix(integers(), limbs_at, 1, LIMB_OUT)[0]
    bound = min(format_of[3], (unit + LIMB_BITS + format_of[2]) << format_of[1])
    most_x, most_y = found[2 * LANES + 2], found[2 * LANES + 3]
    if max(most_x, most_y) >= bound:
        return NO_UNIT
    describe(format_of, most_x, 1, of_x, sums_x)
    describe(format_of, most_y, 1, of_y, sums_y)
    _spread(found, exact)
    return unit


@njit(**COMPILED)
def _spread(found: Any, exact: Any) -> None:
    """What a loop of `word_sums.py` has found, as those of `fixed.py` leave it."""
    for n in range(3):
        exact[1, 2 * n], exact[1, 2 * n + 1] = found[n], found[LANES + n]
        exact[0, 2 * n], exact[0, 2 * n + 1] = found[3 + n], found[LANES + 3 + n]
    for half in range(2):
        of = found[LANES * half : LANES * (half + 1)]
        exact[2, half] = of[6]
        exact[2, 2 + half] = of[7]
        exact[2, 4 + half] = of[2] + of[5] - of[7]
    exact[2, 6], exact[2, 7] = found[2 * LANES], found[2 * LANES + 1]
