"""What the kernels know of a dtype when they are compiled.

A dtype whose values are all multiples of some unit, and none larger than 2**span of it, adds without rounding while the
sum has 53 bits; the functions below say for which sums over a lane that holds whatever the values are. What stands for
all dtypes of a size (`constants.ANY`) has as many significant bits as any of them, and no such unit.
"""

from __future__ import annotations

import sys

import triton

from ..decoders import DECODERS
from ..sums import CHUNK
from .constants import ANY, LANE, STRIP

__all__ = [
    "always_fixed",
    "bits_in",
    "derives_squares",
    "differences_up_to",
    "exact_differences",
    "exact_elements",
    "exact_products",
    "exact_strip",
    "fixed_point",
    "fixed_up_to",
    "halves_in",
    "held_for",
    "is_any",
    "kind_of_run",
    "largest_fast",
    "log2_unit",
    "needs_least",
    "parts_of",
    "plain_products",
    "products_underflow",
    "scale_of",
    "size_of",
    "strip_of",
    "upper_differences",
]

_SIZES = {name: decoder.itemsize for code, decoder in DECODERS.items() for name in (code, ANY[code])}
_BITS = {code: decoder.bits for code, decoder in DECODERS.items()} | {
    code: max(decoder.bits for decoder in DECODERS.values() if ANY[decoder.code] == code) for code in ANY.values()
}
_STANDS_FOR = {code: code for code in ANY.values()} | ANY
_NO_SPAN = 1000
# log2 of the largest magnitude over the unit, rounded up, of the dtypes in which it is of use.
_SPANS = dict.fromkeys(_SIZES, _NO_SPAN) | {
    "F16": 40,
    "F8_E4M3": 18,
    "F8_E5M2": 32,
    "F8_E4M3FNUZ": 18,
    "F8_E5M2FNUZ": 33,
    "I16": 15,
    "I8": 7,
    "U16": 16,
    "U8": 8,
    "BOOL": 1,
}
# The unit in which `decode.element` is fast: float32 holds F8_E4M3 in units of 2**120 without arithmetic.
_SCALES = dict.fromkeys(_SIZES, 1.0) | {"F8_E4M3": 2.0**120}
_LARGEST = {code: (2 - 2.0**-23) * 2.0**127 if bits <= 24 else sys.float_info.max for code, bits in _BITS.items()}
_LARGEST["F8_E4M3"] = 448.0
# log2 of what all values of a dtype are multiples of, where that is of use.
_LOG2_UNITS = dict.fromkeys(_SIZES, -_NO_SPAN) | {"F8_E4M3": -9, "F8_E5M2": -16}
_HALVES = dict.fromkeys(_SIZES, "") | {"BF16": "bf16", "F16": "f16", "F8_E4M3": "f16", "F8_E5M2": "f16"}
_LANE_BITS = LANE.bit_length() - 1
_STRIP_BITS = STRIP.bit_length() - 1
_CHUNK_BITS = CHUNK.bit_length() - 1
_MANTISSA = 53


@triton.constexpr_function
def held_for(code: str) -> str:
    """What Σx of a lane is held for where all kernels must say alike whether it is exact.

    What stands for the dtype in kernels that know no more than its size, unless it is always exact for these too.
    """
    general = _STANDS_FOR[code]
    return code if _SPANS[code] + _LANE_BITS <= _MANTISSA - _BITS[general] else general


@triton.constexpr_function
def is_any(code: str) -> bool:
    """Whether a kernel is told at run time which dtype of a size this is."""
    return code not in DECODERS


@triton.constexpr_function
def _strip_bits(x: str, y: str | None) -> int:
    """log2 of the elements of a strip."""
    # 2 Σxy is the most that has to be exact: a Σd² that is made of it may round once, see `derives_squares`.
    whole = (y is None or y == x) and 2 * _SPANS[x] + 1 + _CHUNK_BITS <= _MANTISSA
    return _CHUNK_BITS if whole else _STRIP_BITS


@triton.constexpr_function
def strip_of(x: str, y: str) -> int:
    """Elements that a program walks, of operands of two dtypes.

    A whole chunk where both have the same and no self sum of one rounds, nor any Σxy (8-bit floats of four exponent
    bits, and integers of 16 and 8 bits, where kernels know them): the end of a strip is spread over twice as many. As
    nothing rounds, an operand's sums of a chunk are the same bits beside another dtype, where they are those of two
    strips.
    """
    return 1 << _strip_bits(x, y)


@triton.constexpr_function
def size_of(code: str) -> int:
    """Bytes of an element."""
    return _SIZES[code]


@triton.constexpr_function
def bits_in(code: str) -> int:
    """Significant bits of a value."""
    return _BITS[code]


@triton.constexpr_function
def exact_elements(code: str) -> bool:
    """Whether Σx of a lane never rounds."""
    return _SPANS[code] + _LANE_BITS <= _MANTISSA


@triton.constexpr_function
def exact_products(x: str, y: str) -> bool:
    """Whether Σxy of a lane never rounds."""
    return _SPANS[x] + _SPANS[y] + _LANE_BITS <= _MANTISSA


@triton.constexpr_function
def plain_products(x: str, y: str) -> bool:
    """Whether the fast walk adds Σxy up without two-sums, in the hope that it is exact, or far from cancelling."""
    return _BITS[x] + _BITS[y] <= 16 and not exact_products(x, y)


@triton.constexpr_function
def exact_differences(x: str, y: str) -> bool:
    """Whether x - y never rounds in float32."""
    return x == y and _SPANS[x] + 1 <= 24


@triton.constexpr_function
def upper_differences(x: str, y: str, packed: bool) -> bool:
    """Whether the fast walk takes the largest x - y of upper halves of float64: of 8-bit floats, in words of two."""
    return packed and _SIZES[x] == _SIZES[y] == 1 and _HALVES[x] == _HALVES[y] == "f16"


@triton.constexpr_function
def differences_up_to(x: str, y: str, packed: bool) -> float:
    """The largest x - y that the fast walk does not round, in units of the smallest element.

    Those are multiples of 2**-`bits_in` of it. Float32 has 24 bits, and the upper half of a float64 has 21.
    """
    return 2.0 ** ((21 if upper_differences(x, y, packed) else 24) - max(_BITS[x], _BITS[y]))


@triton.constexpr_function
def log2_unit(code: str) -> int:
    """log2 of what all values of a dtype are multiples of; far below that where it is of no use."""
    return _LOG2_UNITS[code]


@triton.constexpr_function
def fixed_point(x: str, y: str) -> bool:
    """Whether `packed` walks two operands: as multiples of one unit, none larger than `fixed_up_to`."""
    return x == y and _LOG2_UNITS[x] > -_NO_SPAN


@triton.constexpr_function
def fixed_up_to(code: str) -> float:
    """The largest magnitude that `packed` has room for: 2**20 units, see `halves.added_up`, or all that there are."""
    return min(_LARGEST[code], 2.0 ** (20 + _LOG2_UNITS[code]))


@triton.constexpr_function
def always_fixed(code: str) -> bool:
    """Whether no finite magnitude is larger."""
    return _LARGEST[code] <= 2.0 ** (20 + _LOG2_UNITS[code])


@triton.constexpr_function
def halves_in(code: str) -> str:
    """Which numbers of 16 bits the fast walk computes with, two to a word, where a GPU can; none: ""."""
    return _HALVES[code]


@triton.constexpr_function
def exact_strip(x: str, y: str | None) -> bool:
    """Whether no Σx of a strip rounds, or no Σxy where there is a y."""
    return _SPANS[x] + (_SPANS[y] if y is not None else 0) + _strip_bits(x, y) <= _MANTISSA


@triton.constexpr_function
def derives_squares(x: str, y: str) -> bool:
    """Whether nothing rounds of what Σ(x-y)² of a strip is made of: Σx² + Σy² and 2 Σxy; and so no x - y in float32.

    Their difference may, once, which is 1e-16 of it: of a chunk of F8_E4M3 with y = -x it has up to 54 bits, as
    4 * 229376² * 65536 is above 2**53 (448 is 229376 of the smallest). Of integers it has at most 50.
    """
    return x == y and 2 * _SPANS[x] + 1 + _strip_bits(x, y) <= _MANTISSA


@triton.constexpr_function
def kind_of_run(x: str, y: str | None, length: int, cancels: bool) -> int:
    """In how many float32 so many terms are added before they come to a sum in three parts.

    1 where that is exact; 2 where that is exact, or where the sum is of one sign and so good enough; 3: no run, every
    term goes to the three by itself.

    Args:
        x: the dtype of the terms,
        y: ... or of a factor of them, None for none, "-" for differences of two elements of x.
        length: terms.
        cancels: whether their signs differ.
    """
    bits = _SPANS[x] + (0 if y is None else 1 if y == "-" else _SPANS[y])
    more = (length - 1).bit_length()
    if bits + more <= 24:
        return 1
    # The first of two holds 24 bits, its errors are `length` numbers below the last of these and are added exactly too.
    return 2 if bits + 2 * more <= 48 or not cancels else 3


@triton.constexpr_function
def products_underflow(code: str) -> bool:
    """Whether products with values of a dtype may be below what float32 holds."""
    return _SPANS[code] == _NO_SPAN


@triton.constexpr_function
def needs_least(x: str, y: str, pairs: bool) -> bool:
    """Whether anything depends on the smallest magnitudes."""
    exact = exact_elements(x)
    if pairs:
        exact = exact and exact_elements(y) and exact_products(x, y) and exact_differences(x, y)
    return not exact


@triton.constexpr_function
def parts_of(x: str, y: str) -> int:
    """In how many parts a step is walked that has masks: four elements at a time, or of two sizes, one."""
    return max(4 // _SIZES[x], 1) if _SIZES[x] == _SIZES[y] else 16 // min(_SIZES[x], _SIZES[y])


@triton.constexpr_function
def scale_of(code: str) -> float:
    """The unit of what the fast decoder returns."""
    return _SCALES[code]


@triton.constexpr_function
def largest_fast(code: str, scaled: bool) -> float:
    """The largest finite magnitude, in that unit or in units of 1."""
    return _LARGEST[code] / (_SCALES[code] if scaled else 1.0)
