"""Two blocks of an 8-bit float dtype: the window of magnitudes that `byte_sums.py` takes, and what it leaves out.

The window is chosen so that few elements of a block are outside, and kept for the blocks that follow until more are.
A pair with an element outside is added here, if both are multiples, below 2**BYTE_BITS, of a unit 2**BYTE_BELOW times
smaller. All is in integers, so the sums are the exact ones whatever the window: ΣX² < 2**59, hence Σ(X-Y)² < 2**61.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from .accumulate import COMPILED
from .byte_sums import HAS_BYTE_LIMBS, limbs_of_bytes
from .fixed_walk import describe, lowest
from .layout import (
    BLOCK,
    BYTE_BELOW,
    BYTE_BITS,
    BYTE_LIMB,
    BYTE_OUT,
    BYTE_PATTERNS,
    BYTE_WINDOW,
    NO_UNIT,
)
from .memory import integers, matrix, octets, trailing_zeros

__all__ = ["both_bytes", "forget_window"]

_MORE = 64  # pairs left out, and twice as many as expected: another window is looked for
_MANY = BLOCK // 4  # ... and of elements outside of the best: the blocks go another way
_PAUSE = 16  # blocks until a window is looked for again, if there was none, or the last did not serve so many in a row
_STATE = 4
_MISFIT = -1


@njit(**COMPILED)
def forget_window(work_at: int) -> None:
    """Make certain that what happens to stand in fresh memory is not taken for a window."""
    state = matrix(integers(), work_at, 1, _STATE)[0]
    state[0], state[1], state[2], state[3] = NO_UNIT, 0, 0, 0


@njit(**COMPILED)
def both_bytes(
    format_of: Any, x: int, y: int, count: int, of_x: Any, of_y: Any, sums_x: Any, sums_y: Any, work_at: int, exact: Any
) -> int:
    """All sums of two blocks as they are stored; their unit, or NO_UNIT if they do not fit.

    The blocks are given by address, `count` is a multiple of FIXED_GROUP; WORK_BYTES of working memory stand at
    `work_at`. The sums of y go to exact[0], of x to exact[1], of the pair to exact[2], as `fixed.py` lays them out, and
    the largest magnitudes to sums_y[4] and sums_x[4]. The blocks' own units, of_y[0] and of_x[0], are not looked for.
    """
    if not HAS_BYTE_LIMBS:
        return NO_UNIT
    # The unit of the window, the elements of a block that are expected outside of it, the blocks in a row that it has
    # served, the blocks until one is looked for.
    state = matrix(integers(), work_at, 1, _STATE)[0]
    out_at = work_at + 8 * _STATE
    left_out_at = out_at + 8 * BYTE_OUT
    table_at = left_out_at + BLOCK // 8
    magnitudes = matrix(integers(), table_at + 2 * BYTE_PATTERNS, 1, BYTE_PATTERNS)[0]
    if state[3] > 0:
        state[3] -= 1
        return NO_UNIT
    if state[0] == NO_UNIT:
        state[0], state[1] = _best_window(format_of, x, y, count, magnitudes)
        state[2] = 0
        if state[1] > _MANY:
            state[0], state[3] = NO_UNIT, _PAUSE
            return NO_UNIT
        _tabulate(format_of, state[0], table_at, magnitudes)
    limbs_of_bytes(x, y, table_at, count, out_at, left_out_at)
    found = matrix(integers(), out_at, 1, BYTE_OUT)[0]
    unit = _fine_unit(format_of, state[0])
    left_out, fit = _add_left_out(x, y, count, left_out_at, magnitudes, state[0] - unit, found)
    served = state[2]
    state[2] = served + 1 if fit else 0
    if left_out > _MORE + 2 * state[1]:
        state[0], state[3] = NO_UNIT, _PAUSE if served + 1 < _PAUSE else 0
    elif not fit and served == 0:  # of two in a row more follow, each of which would be walked twice
        state[0], state[3] = NO_UNIT, _PAUSE
    if not fit:
        return NO_UNIT
    describe(format_of, found[3], 1, of_x, sums_x)
    describe(format_of, found[7], 1, of_y, sums_y)
    of_x[0] = of_y[0] = NO_UNIT
    for n in range(3):
        _split(found[n], exact[1], 2 * n)
        _split(found[4 + n], exact[0], 2 * n)
    _split(found[8], exact[2], 0)
    _split(found[2] + found[6] - 2 * found[9], exact[2], 2)
    _split(2 * found[9], exact[2], 4)
    exact[2, 6], exact[2, 7] = found[10], found[11]
    return unit


@njit(**COMPILED)
def _split(value: int, into: Any, at: int) -> None:
    """An integer as high * 2**32 + low."""
    into[at], into[at + 1] = value >> 32, value & 0xFFFFFFFF


@njit(**COMPILED)
def _fine_unit(format_of: Any, unit: int) -> int:
    """The unit of the elements outside of a window."""
    return max(lowest(format_of), unit - BYTE_BELOW)


@njit(**COMPILED)
def _value(format_of: Any, pattern: int) -> int:
    """The magnitude of a pattern as a multiple of the format's smallest number; _MISFIT if it is not finite."""
    mantissa = format_of[1]
    if pattern >= format_of[3]:
        return _MISFIT
    stored, value = pattern >> mantissa, pattern & ((1 << mantissa) - 1)
    return (value + (1 << mantissa)) << (stored - 1) if stored else value


@njit(**COMPILED)
def _multiple(value: int, shift: int, bits: int) -> int:
    """value / 2**shift if that is whole and below 2**bits, else _MISFIT."""
    if value < 0 or value >> shift << shift != value or value >> (shift + bits) != 0:
        return _MISFIT
    return value >> shift


@njit(**COMPILED)
def _best_window(format_of: Any, x: int, y: int, count: int, counts: Any) -> tuple[int, int]:
    """The unit of the window that most elements of two blocks are in, and how many are not.

    counts: (BYTE_PATTERNS,) of working memory.
    """
    for pattern in range(BYTE_PATTERNS):
        counts[pattern] = 0
    for source in (x, y):
        stored = matrix(octets(), source, 1, count)[0]
        for at in range(count):
            counts[stored[at] & (BYTE_PATTERNS - 1)] += 1
    least = lowest(format_of)
    best, unit = 2 * count + 1, least
    bits = ((format_of[3] - 1) >> format_of[1]) + format_of[1]  # of the largest number
    for shift in range(bits - BYTE_WINDOW + 1):
        outside = 0
        for pattern in range(BYTE_PATTERNS):
            if counts[pattern] and _multiple(_value(format_of, pattern), shift, BYTE_WINDOW) < 0:
                outside += counts[pattern]
        if outside < best:
            best, unit = outside, least + shift
    return unit, best


@njit(**COMPILED)
def _tabulate(format_of: Any, unit: int, table_at: int, magnitudes: Any) -> None:
    """The limbs of all magnitudes in a window, as `limbs_of_bytes` takes them, and all magnitudes in the finer unit."""
    table = matrix(octets(), table_at, 2, BYTE_PATTERNS)
    least, fine = lowest(format_of), _fine_unit(format_of, unit)
    for pattern in range(BYTE_PATTERNS):
        value = _value(format_of, pattern)
        magnitudes[pattern] = _multiple(value, fine - least, BYTE_BITS)
        inside = _multiple(value, unit - least, BYTE_WINDOW)
        if inside < 0:
            table[0, pattern], table[1, pattern] = 0, 0x80
        else:
            table[0, pattern], table[1, pattern] = inside & ((1 << BYTE_LIMB) - 1), inside >> BYTE_LIMB


@njit(**COMPILED)
def _add_left_out(
    x: int, y: int, count: int, left_out_at: int, magnitudes: Any, shift: int, found: Any
) -> tuple[int, bool]:
    """Bring sums to a unit that is 2**shift times smaller, and add what was left out.

    Returns how many pairs that were, and whether they fit and are not too many; if not, the sums mean nothing.
    """
    for at in (0, 1, 4, 5, 8, 10):
        found[at] <<= shift
    for at in (2, 6, 9):
        found[at] <<= 2 * shift
    first, second = matrix(octets(), x, 1, count)[0], matrix(octets(), y, 1, count)[0]
    words = matrix(integers(), left_out_at, 1, BLOCK // 64)[0]
    left_out, fit = 0, True
    occupied = found[12]
    while occupied != 0:
        word = trailing_zeros(occupied)
        occupied &= occupied - 1
        bits = words[word]
        if left_out > _MANY:
            return left_out, False
        while bits != 0:
            at = 64 * word + trailing_zeros(bits)
            bits &= bits - 1
            left_out += 1
            p, q = first[at], second[at]
            size_p, size_q = magnitudes[p & 0x7F], magnitudes[q & 0x7F]
            fit = fit and size_p >= 0 and size_q >= 0
            v, w = (-size_p if p & 0x80 else size_p), (-size_q if q & 0x80 else size_q)
            found[0] += size_p
            found[1] += v
            found[2] += v * v
            found[4] += size_q
            found[5] += w
            found[6] += w * w
            found[8] += abs(v - w)
            found[9] += v * w
            found[10] = max(found[10], abs(v - w))
            found[11] += v != w
    return left_out, fit
