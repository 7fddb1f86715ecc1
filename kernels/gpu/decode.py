"""Stored elements out of 16-byte loads, in registers: no table, no memory but the tensor's own.

A thread holds four 32-bit words of an operand, and `element` picks one of the elements in them as the working type:
float32 where that holds every value of the dtype, float64 for the others. Every value is exact, but integers of 64
bits beyond 2**53, which are rounded to the nearest. bfloat16 is loaded as integers and shifted. 8-bit floats are put
where float32 has exponent and mantissa and scaled by a power of two: six instructions. The two common formats have a
fast way: F8_E4M3 is not scaled, nor asked for NaN, and F8_E5M2 is half of a float16: three. A kernel that is told at
run time what it has decodes all `elements` of a load at once, so that it asks once what that is.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..decoders import DECODERS
from .dtypes import is_any, products_underflow

__all__ = ["element", "elements", "half", "may_be_tiny"]

F64, I64 = tl.constexpr(DECODERS["F64"].index), tl.constexpr(DECODERS["I64"].index)
I32 = tl.constexpr(DECODERS["I32"].index)
F16, BF16, I16 = (tl.constexpr(DECODERS[code].index) for code in ("F16", "BF16", "I16"))
I8, U8, BOOL, F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ, F8_E8M0 = (
    tl.constexpr(DECODERS[code].index)
    for code in ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")
)


@triton.jit
def element(w0, w1, w2, w3, K: tl.constexpr, CODE: tl.constexpr, ITEMSIZE: tl.constexpr, CAREFUL: tl.constexpr):
    """Element K of 16 bytes.

    w0 ... w3 are int32 tensors of one shape, the result is float32 or float64 of that shape. Unless CAREFUL, F8_E4M3
    comes in units of 2**120, and its NaN as 480.
    """
    WORD: tl.constexpr = K * ITEMSIZE // 4
    BYTE: tl.constexpr = K * ITEMSIZE % 4
    word = w0 if WORD == 0 else (w1 if WORD == 1 else (w2 if WORD == 2 else w3))
    if ITEMSIZE == 8:
        return _wide(word, w1 if K == 0 else w3, CODE)
    elif CODE == "F16":
        return half(word, BYTE)
    elif CODE == "F8_E5M2":  # the upper byte of a float16
        return half((word << 8 if BYTE % 2 == 0 else word) & -16711936, BYTE // 2 * 2)
    elif CODE == "F8_E4M3" and not CAREFUL:  # the low bits of float32's exponent and the high ones of its mantissa
        top = word << (24 - 8 * BYTE) if BYTE < 3 else word
        return ((top >> 4) & -2014314496).to(tl.float32, bitcast=True)
    else:
        # The element's bits uppermost.
        top = word << (32 - 8 * (BYTE + ITEMSIZE)) if BYTE + ITEMSIZE < 4 else word
        return _narrow(top, CODE, ITEMSIZE)


@triton.jit
def elements(block, dtype, ITEMSIZE: tl.constexpr):
    """All elements of 16 bytes a thread, of the dtype of that size whose `Decoder.index` is told at run time.

    All threads take one branch; the other ones are code that nobody runs.

    Args:
        block: int32 [R, C, threads * 4], four words of a thread one behind the other.
    Returns:
        A tuple of 16 / ITEMSIZE tensors [R, C, threads], of float32, or float64 where that is the working type of any.
    """
    R: tl.constexpr = block.shape[0]
    C: tl.constexpr = block.shape[1]
    THREADS: tl.constexpr = block.shape[2] // 4
    if ITEMSIZE == 8:
        low, high = tl.split(tl.reshape(block, R, C, THREADS, 2, 2))
        if dtype == F64:
            values = _wide(low, high, "F64")
        elif dtype == I64:
            values = _wide(low, high, "I64")
        else:
            values = _wide(low, high, "U64")
        return tl.split(values)
    elif ITEMSIZE == 4:  # float32 is itself, `constants.ANY`
        values = _narrow(block, "I32", 4) if dtype == I32 else _narrow(block, "U32", 4)
        return _quarters(tl.reshape(values, R, C, THREADS, 2, 2))
    elif ITEMSIZE == 2:
        top = tl.join(block << 16, block)
        if dtype == F16:
            values = half(top, 2)
        elif dtype == BF16:
            values = _narrow(top, "BF16", 2)
        elif dtype == I16:
            values = _narrow(top, "I16", 2)
        else:
            values = _narrow(top, "U16", 2)
        return _eighths(tl.reshape(values, R, C, THREADS, 2, 2, 2))
    else:
        top = tl.join(tl.join(block << 24, block << 8), tl.join(block << 16, block))  # bytes 0, 1 and 2, 3 of a word
        if dtype == U8:
            values = _narrow(top, "U8", 1)
        elif dtype == I8:
            values = _narrow(top, "I8", 1)
        elif dtype == BOOL:
            values = _narrow(top, "BOOL", 1)
        elif dtype == F8_E4M3:
            values = _narrow(top, "F8_E4M3", 1)
        elif dtype == F8_E5M2:
            values = half(top & -16777216, 2)
        elif dtype == F8_E4M3FNUZ:
            values = _narrow(top, "F8_E4M3FNUZ", 1)
        elif dtype == F8_E5M2FNUZ:
            values = _narrow(top, "F8_E5M2FNUZ", 1)
        else:
            values = _narrow(top, "F8_E8M0", 1)
        values = tl.reshape(values, R, C, THREADS, 2, 2, 2, 2)
        first, second = tl.split(tl.permute(values, 0, 1, 2, 4, 5, 6, 3))
        return _eighths(first) + _eighths(second)


@triton.jit
def may_be_tiny(dtype, CODE: tl.constexpr):
    """Whether products with values of a dtype that float32 holds may be below what it holds."""
    if is_any(CODE):
        return (dtype == BF16) | (dtype == F8_E8M0)
    else:
        return products_underflow(CODE)


@triton.jit
def _eighths(values):
    """[R, C, threads, 2, 2, 2] -> the eight [R, C, threads] of the last three axes, in order."""
    first, second = tl.split(tl.permute(values, 0, 1, 2, 4, 5, 3))
    return _quarters(first) + _quarters(second)


@triton.jit
def _quarters(values):
    """[R, C, threads, 2, 2] -> the four [R, C, threads] of the last two axes, in order."""
    even, odd = tl.split(values)
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def half(word, BYTE: tl.constexpr):
    """The float16 at a byte of a word."""
    return (word >> (8 * BYTE)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _wide(low, high, CODE: tl.constexpr):
    bits = (high.to(tl.int64) << 32) | low.to(tl.uint32, bitcast=True).to(tl.int64)
    if CODE == "F64":
        return bits.to(tl.float64, bitcast=True)
    elif CODE == "I64":
        return bits.to(tl.float64)
    else:  # U64, rounded once
        return bits.to(tl.uint64, bitcast=True).to(tl.float64)


@triton.jit
def _narrow(top, CODE: tl.constexpr, ITEMSIZE: tl.constexpr):
    """An element that is the uppermost bytes of a word."""
    if CODE == "F32":
        return top.to(tl.float32, bitcast=True)
    elif CODE == "I32":
        return top.to(tl.float64)
    elif CODE == "U32":
        return top.to(tl.uint32, bitcast=True).to(tl.float64)
    elif CODE == "BF16":
        return (top & -65536).to(tl.float32, bitcast=True)
    elif CODE == "BOOL":
        return ((top & -16777216) != 0).to(tl.float32)
    elif CODE == "I16" or CODE == "I8":
        return (top >> (32 - 8 * ITEMSIZE)).to(tl.float32)
    elif CODE == "U16" or CODE == "U8":
        return (top.to(tl.uint32, bitcast=True) >> (32 - 8 * ITEMSIZE)).to(tl.int32, bitcast=True).to(tl.float32)
    elif CODE == "F8_E4M3":
        return _minifloat(top, 4, 7, "fn")
    elif CODE == "F8_E4M3FNUZ":
        return _minifloat(top, 4, 8, "fnuz")
    elif CODE == "F8_E5M2FNUZ":
        return _minifloat(top, 5, 16, "fnuz")
    else:
        return _power_of_two(top)


@triton.jit
def _minifloat(top, EXPONENT_BITS: tl.constexpr, BIAS: tl.constexpr, SPECIAL: tl.constexpr):
    """An 8-bit float in the upper byte; its subnormals come out right because float32 holds them as subnormals."""
    DOWN: tl.constexpr = 8 - EXPONENT_BITS  # from 1 sign bit and the exponent to 1 sign bit and 8 bits of exponent
    MASK: tl.constexpr = -(1 << 31) + (0x7F << (24 - DOWN))
    SCALE: tl.constexpr = 2.0 ** (127 - BIAS)
    value = ((top >> DOWN) & MASK).to(tl.float32, bitcast=True) * SCALE
    if SPECIAL == "fn":
        return tl.where((top & 0x7F000000) == 0x7F000000, float("nan"), value)
    else:
        return tl.where((top & -16777216) == -(1 << 31), float("nan"), value)


@triton.jit
def _power_of_two(top):
    """F8_E8M0: 2 ** (raw - 127), 255 is NaN; the smallest is a float32 subnormal."""
    raw = (top >> 24) & 0xFF
    bits = tl.where(raw == 0, 0x00400000, raw << 23)
    return tl.where(raw == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)
