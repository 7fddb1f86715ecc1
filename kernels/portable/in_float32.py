"""Sums of rows of float32, for devices without float64 (Apple's GPUs, some of Intel's): right to 1e-12 all the same.

Terms are added by halving, as in `in_float64`, and every sum is three float32:

    high,   error = two-sum of both highs         two-sums are exact: Knuth, The Art of Computer Programming 2,
    middle, error = two-sum of both middles ...   4.2.2, theorem B
    low += errors                                 the only additions that round

A product is its rounded value and what that lacks (Dekker, Numerische Mathematik 18, 1971; torch has no fma that every
device keeps), a difference both parts of a two-sum, and both parts are added. With u = 2**-24 a sum of one sign lacks
some u³; a square of a difference lacks 2 u² of itself besides, where the difference does not fit into one float32. What
the additions of low round off is added up on the way: the bound of Σx and Σxy, zero where nothing was rounded.

float32 is narrow, and such devices may take subnormal numbers for zeros. So rows are scaled by powers of two, such that
their largest magnitude is in [2**40, 2**41) (`_TOP`): products then stay below 2**82, their sums below 2**98, and what
is lost below 2**-126 is 2**-166 of the largest. Σx and Σxy might cancel down to that: unless the unit of their terms
shows that nothing was lost, it is in their bounds. Differences are taken before scaling, and scaled for themselves.

What does not suit float32 the processor takes instead, chunk by chunk: dtypes that float32 does not hold, elements that
are not finite, above 2**100, or so small (2**-102) that a difference could be subnormal. It takes only the sums of such
operands and of their pairs, so the bits of an operand's or a pair's sums do not depend on what else is in a tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..decoders import DECODERS, Decoder
from ..wanted import Wanted
from . import decode
from .exact import product_error, two_sum_error

if TYPE_CHECKING:
    import torch

    Sum = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    """(rows,) high, middle and low, and what was rounded off: u times that bounds the error."""

__all__ = [
    "DTYPE",
    "Operand",
    "PAIR_NUMBERS",
    "SELF_NUMBERS",
    "operand",
    "pair_slots",
    "pair_sums",
    "self_slots",
    "table",
]

DTYPE = "float32"
SELF_NUMBERS = 13
"""What the device keeps of a chunk of an operand: Σ|x|, Σx, Σx² in three parts each, the bound of Σx, max|x|, the power
of two by which the elements were scaled, and 1 where the chunk suits float32."""
PAIR_NUMBERS = 15
"""And of a pair: Σ|d|, Σd², Σxy in three parts each, the bound of Σxy, max|d| in two parts, #(x ≠ y), the powers of two
by which d and xy were scaled; the chunk suits where both operands' do."""

_TOP = 40
_LEAST, _MOST = -102, 100  # exponents of magnitudes that suit
_OF_ZEROS = 1 << 10  # the unit of rows of zeros, whose products are zeros
_SMALLEST = -126  # the exponent of the smallest normal number
_BIAS, _MANTISSA = 127, 23
_ROUNDED = 1.01 * 2.0**-24  # 1.01: the sum of what is rounded off was rounded itself
_LOST = 2.0**-105  # of a sum of a chunk: 65,536 terms with some ten operations, each of which loses at most 2**-126


class Operand(NamedTuple):
    """Rows of one operand that may suit float32.

    Attributes:
        values: (rows, width) float32, as they are.
        scaled: the same, times 2**scale; zeros where they do not suit.
        scale: (rows,) int32.
        unit: (rows,) int32, the exponent of a power of two of which all scaled elements are multiples.
        suits: (rows,) bool.
    """

    values: torch.Tensor
    scaled: torch.Tensor
    scale: torch.Tensor
    unit: torch.Tensor
    suits: torch.Tensor


def table(code: str) -> torch.Tensor | None:
    """What `operand` looks up of a dtype, in the memory of the host; None: nothing."""
    import torch

    return decode.table_of(code, torch.float32) if DECODERS[code].itemsize <= 2 else None


def operand(
    raw: torch.Tensor, decoder: Decoder, table: torch.Tensor | None, inside: torch.Tensor | None, wanted: Wanted
) -> tuple[Operand | None, torch.Tensor | None]:
    """Rows decoded, and their (rows, SELF_NUMBERS) sums, as `in_float64.operand`; None of dtypes that do not suit."""
    import torch

    if decoder.wide != "f32":
        return None, None
    x = decode.in_float32(raw, decoder, table)
    if inside is not None:  # of what lies behind the end, not every dtype reads a zero as zero
        x = torch.where(inside, x, 0.0)
    bits = x.view(torch.int32) & 0x7FFFFFFF
    largest, smallest = bits.amax(dim=1), torch.where(bits > 0, bits, 0x7FFFFFFF).amin(dim=1)
    top, bottom = _exponent(largest), _exponent(smallest)
    suits = (largest == 0) | ((bottom >= _LEAST) & (top <= _MOST))
    scale = torch.where(suits & (largest > 0), _TOP - top, 0)
    scaled = torch.where(suits[:, None], _times(x, scale), 0.0)
    unit = torch.where(largest > 0, bottom + scale - (decoder.bits - 1), _OF_ZEROS)
    none = _nothing(scaled)
    size = total = squares = none
    if wanted & Wanted.TOTALS:
        size, total = _added(scaled.abs()), _added(scaled)
    if wanted & Wanted.SQUARES:
        product = scaled * scaled
        squares = _added(product, product_error(scaled, scaled, product))
    numbers = [*size[:3], *total[:3], *squares[:3], _bound(total, unit), largest.view(torch.float32), scale, suits]
    return Operand(x, scaled, scale, unit, suits), _stacked(numbers)


def pair_sums(of_x: Operand, of_y: Operand, wanted: Wanted) -> torch.Tensor:
    """(rows, PAIR_NUMBERS) of two operands; what is not wanted is 0."""
    import torch

    none = _nothing(of_x.scaled)
    size = squares = dot = none
    most = rest = bound = differing = none[0]
    scale = torch.zeros_like(of_x.scale)
    if wanted & (Wanted.ABS_DIFF | Wanted.SQ_DIFF | Wanted.MAX_DIFF):
        both = (of_x.suits & of_y.suits)[:, None]
        x, y = torch.where(both, of_x.values, 0.0), torch.where(both, of_y.values, 0.0)
        d = x - y
        lack = two_sum_error(x, -y, d)
        # |d| is |high| + lack, of which the lack may be less than zero.
        lack = torch.where(d < 0, -lack, lack)
        d = d.abs()
        most = d.amax(dim=1)
        rest = torch.where(d == most[:, None], lack, -torch.inf).amax(dim=1)
        scale = torch.where(most > 0, _TOP - _exponent(most.view(torch.int32)), 0)
        d, lack = _times(d, scale), _times(lack, scale)
        if wanted & Wanted.ABS_DIFF:
            size = _added(d, lack)
        if wanted & Wanted.SQ_DIFF:
            product = d * d
            squares = _added(product, product_error(d, d, product) + (d + d) * lack)
    if wanted & Wanted.DOT:
        product = of_x.scaled * of_y.scaled
        dot = _added(product, product_error(of_x.scaled, of_y.scaled, product))
        bound = _bound(dot, of_x.unit + of_y.unit)
    if wanted & Wanted.DIFFERING:
        differing = (of_x.values != of_y.values).sum(dim=1)
    numbers = [*size[:3], *squares[:3], *dot[:3], bound, most, rest, differing, scale, of_x.scale + of_y.scale]
    return _stacked(numbers)


def self_slots(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slots of chunks from what the device kept of them, and which of them the processor is to fill.

    Args:
        numbers: (..., SELF_NUMBERS) float32.
    Returns:
        (..., SELF_SLOTS) float64 and (...) bool.
    """
    wide = _wide(numbers)
    size, total, squares = (wide[..., k : k + 3] for k in (0, 3, 6))
    bound, largest, scale, suits = (wide[..., k] for k in range(9, 13))
    high, low, lost = _unscaled(total, scale)
    slots = [
        _unscaled(size, scale)[0],
        high,
        low,
        _at(bound, scale) + lost,
        _unscaled(squares, 2 * scale)[0],
        largest,
        np.zeros_like(bound),  # what is not finite the processor counts
    ]
    return np.stack(slots, axis=-1), suits == 0


def pair_slots(numbers: np.ndarray) -> np.ndarray:
    """The slots of pairs likewise; the processor fills those of which it fills an operand's."""
    wide = _wide(numbers)
    size, squares, dot = (wide[..., k : k + 3] for k in (0, 3, 6))
    bound, most, rest, differing, scale, dot_scale = (wide[..., k] for k in range(9, 15))
    high, low, lost = _unscaled(dot, dot_scale)
    slots = [
        _unscaled(size, scale)[0],
        _unscaled(squares, 2 * scale)[0],
        high,
        low,
        _at(bound, dot_scale) + lost,
        most + rest,
        differing,
    ]
    return np.stack(slots, axis=-1)


def _wide(numbers: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # max|x| may be a signalling NaN, which the processor sees to
        return numbers.astype(np.float64)


def _at(number: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A number without the power of two by which it was scaled."""
    return np.ldexp(number, -scale.astype(np.int64))


def _unscaled(parts: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(..., 3) parts of a scaled sum as a float64, what that lacks, and what the latter may be off by."""
    head, tail = parts[..., 0], parts[..., 1] + parts[..., 2]
    total = head + tail
    rounded = np.where(parts[..., 2] != 0, 2.0**-53 * np.abs(tail), 0.0)  # two float32 of which one is 0 are exact
    return _at(total, scale), _at(tail - (total - head), scale), _at(rounded, scale)


def _exponent(bits: torch.Tensor) -> torch.Tensor:
    """The exponents of float32 from their bits without sign; 128 of what is not finite, -127 of what is subnormal."""
    return (bits >> _MANTISSA) - _BIAS


def _times(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """(rows, width) times 2**exponent (rows,), which float32 need not hold: by two factors."""
    import torch

    first = exponent >> 1
    for part in (first, exponent - first):
        x = x * ((part + _BIAS) << _MANTISSA).view(torch.float32)[:, None]
    return x


def _nothing(rows: torch.Tensor) -> Sum:
    """The sum of nothing."""
    none = rows[:, 0] * 0
    return none, none, none, none


def _added(high: torch.Tensor, middle: torch.Tensor | None = None) -> Sum:
    """The sums of (rows, width) terms of one part or two; the width is a power of two, at least 4."""
    low = rounded = None
    while high.shape[1] > 1:
        half = high.shape[1] // 2
        a, b = high[:, :half], high[:, half:]
        high = a + b
        error = two_sum_error(a, b, high)
        if middle is None:
            middle = error
            continue
        a, b = middle[:, :half], middle[:, half:]
        both = a + b
        first = two_sum_error(a, b, both)
        middle = both + error
        errors = first + two_sum_error(both, error, middle)
        if low is None or rounded is None:
            low, rounded = errors, errors.abs()
        else:
            before = low[:, :half] + low[:, half:]
            low = before + errors
            rounded = (rounded[:, :half] + rounded[:, half:]) + (errors.abs() + before.abs() + low.abs())
    assert middle is not None and low is not None and rounded is not None
    return high[:, 0], middle[:, 0], low[:, 0], rounded[:, 0]


def _bound(total: Sum, unit: torch.Tensor) -> torch.Tensor:
    """What a sum may be off by, whose terms are multiples of 2**unit."""
    return _ROUNDED * total[3] + _LOST * (unit < _SMALLEST).to(total[3].dtype)


def _stacked(numbers: list[torch.Tensor]) -> torch.Tensor:
    """(rows,) numbers as (rows, numbers) float32."""
    import torch

    return torch.stack([each.to(torch.float32) for each in numbers], dim=1)
