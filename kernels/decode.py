"""Decoding of stored elements into the working type, as vector code; every value is exact.

One intrinsic per dtype turns `2 * LANES` elements at a time into float32, or float64 where the working type is that.
`decode` is the switch over them that jitted code calls; what is left over of a block is decoded through a small
zero-padded buffer, so nothing is ever read past the end of a tensor, and the block is padded with zeros, which add
nothing to any sum.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import overload

from .decoders import DECODERS
from .emitter import Emitter, intrinsic
from .layout import WIDTH

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_F32, _F64 = ir.FloatType(), ir.DoubleType()


def _vector(of: Any) -> Any:
    return ir.VectorType(of, WIDTH)


def _splat(of: Any, value: float | int) -> Any:
    return ir.Constant(_vector(of), [value] * WIDTH)


def _minifloat(exponent_bits: int, bias: int, *, special: str) -> Any:
    """An 8-bit float: its bits are put where float32 has exponent and mantissa, then scaled by a power of two.

    Subnormals come out right because float32 then holds them as subnormals of the same spacing.

    Args:
        exponent_bits: width of the exponent; 7 less that is the width of the mantissa.
        bias: of the exponent.
        special: "ieee" (largest exponent is infinity or NaN), "fn" (only all ones is NaN), "fnuz" (only 0x80 is NaN).
    """
    shift = 23 - (7 - exponent_bits)
    top = ((1 << exponent_bits) - 1) << (7 - exponent_bits)

    def convert(b: Any, raw: Any) -> Any:
        wide = b.zext(raw, _vector(_I32))
        size = b.and_(wide, _splat(_I32, 0x7F))
        sign = b.shl(b.and_(wide, _splat(_I32, 0x80)), _splat(_I32, 24))
        scaled = b.fmul(b.bitcast(b.shl(size, _splat(_I32, shift)), _vector(_F32)), _splat(_F32, 2.0 ** (127 - bias)))
        bits = b.bitcast(scaled, _vector(_I32))
        if special == "ieee":
            high = b.icmp_unsigned(">=", size, _splat(_I32, top))
            bits = b.select(high, b.or_(b.shl(size, _splat(_I32, shift)), _splat(_I32, 0x7F800000)), bits)
        elif special == "fn":
            bits = b.select(b.icmp_unsigned("==", size, _splat(_I32, 0x7F)), _splat(_I32, 0x7FC00000), bits)
        else:
            bits = b.select(b.icmp_unsigned("==", wide, _splat(_I32, 0x80)), _splat(_I32, 0x7FC00000), bits)
        return b.bitcast(b.or_(bits, sign), _vector(_F32))

    return convert


def _power_of_two(b: Any, raw: Any) -> Any:
    """F8_E8M0: 2 ** (raw - 127), 255 is NaN; the smallest is a float32 subnormal."""
    wide = b.zext(raw, _vector(_I32))
    bits = b.shl(wide, _splat(_I32, 23))
    bits = b.select(b.icmp_unsigned("==", wide, _splat(_I32, 0)), _splat(_I32, 0x00400000), bits)
    bits = b.select(b.icmp_unsigned("==", wide, _splat(_I32, 255)), _splat(_I32, 0x7FC00000), bits)
    return b.bitcast(bits, _vector(_F32))


def _bfloat16(b: Any, raw: Any) -> Any:
    return b.bitcast(b.shl(b.zext(raw, _vector(_I32)), _splat(_I32, 16)), _vector(_F32))


def _boolean(b: Any, raw: Any) -> Any:
    return b.uitofp(b.icmp_unsigned("!=", raw, _splat(_I8, 0)), _vector(_F32))


# What is loaded, and how it becomes a float; a result in float64 marks a dtype whose values float32 cannot hold.
_CONVERSIONS: dict[str, tuple[Any, Any]] = {
    "F64": (_F64, lambda b, v: v),
    "F32": (_F32, lambda b, v: v),
    "F16": (ir.HalfType(), lambda b, v: b.fpext(v, _vector(_F32))),
    "BF16": (ir.IntType(16), _bfloat16),
    "F8_E4M3": (_I8, _minifloat(4, 7, special="fn")),
    "F8_E5M2": (_I8, _minifloat(5, 15, special="ieee")),
    "F8_E8M0": (_I8, _power_of_two),
    "F8_E4M3FNUZ": (_I8, _minifloat(4, 8, special="fnuz")),
    "F8_E5M2FNUZ": (_I8, _minifloat(5, 16, special="fnuz")),
    "I64": (_I64, lambda b, v: b.sitofp(v, _vector(_F64))),
    "I32": (_I32, lambda b, v: b.sitofp(v, _vector(_F64))),
    "I16": (ir.IntType(16), lambda b, v: b.sitofp(v, _vector(_F32))),
    "I8": (_I8, lambda b, v: b.sitofp(v, _vector(_F32))),
    "U64": (_I64, lambda b, v: b.uitofp(v, _vector(_F64))),
    "U32": (_I32, lambda b, v: b.uitofp(v, _vector(_F64))),
    "U16": (ir.IntType(16), lambda b, v: b.uitofp(v, _vector(_F32))),
    "U8": (_I8, lambda b, v: b.uitofp(v, _vector(_F32))),
    "BOOL": (_I8, _boolean),
}


def _decoder(code: str) -> Any:
    """The intrinsic that decodes `count` elements (a multiple of WIDTH) at `source` into `target`."""
    element, convert = _CONVERSIONS[code]
    itemsize = DECODERS[code].itemsize

    def typed(typingctx: Any, scratch: Any, source: Any, target: Any, count: Any) -> Any:
        wide = _F32 if scratch.dtype == types.float32 else _F64

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, source, target, count = args
            e = Emitter(builder)

            def body(index: Any, state: list[Any]) -> list[Any]:
                raw = e.load(_vector(element), source, builder.mul(index, ir.Constant(_I64, itemsize)))
                value = convert(builder, raw)
                if value.type.element != wide:
                    value = builder.fpext(value, _vector(wide))
                size = 4 if wide == _F32 else 8
                e.store_at(value, target, builder.mul(index, ir.Constant(_I64, size)))
                return state

            e.loop(count, WIDTH, [], body)
            return context.get_dummy_value()

        return types.void(scratch, types.int64, types.int64, types.int64), codegen

    return intrinsic(typed)


_f64, _f32, _f16, _bf16 = (_decoder(c) for c in ("F64", "F32", "F16", "BF16"))
_e4m3, _e5m2, _e8m0 = (_decoder(c) for c in ("F8_E4M3", "F8_E5M2", "F8_E8M0"))
_e4m3fnuz, _e5m2fnuz = (_decoder(c) for c in ("F8_E4M3FNUZ", "F8_E5M2FNUZ"))
_i64, _i32, _i16, _i8 = (_decoder(c) for c in ("I64", "I32", "I16", "I8"))
_u64, _u32, _u16, _u8, _bool = (_decoder(c) for c in ("U64", "U32", "U16", "U8", "BOOL"))

F32_INDEX = DECODERS["F32"].index
F64_INDEX = DECODERS["F64"].index
_F16, _BF16 = DECODERS["F16"].index, DECODERS["BF16"].index
_E4M3, _E5M2, _E8M0 = (DECODERS[c].index for c in ("F8_E4M3", "F8_E5M2", "F8_E8M0"))
_E4M3FNUZ, _E5M2FNUZ = (DECODERS[c].index for c in ("F8_E4M3FNUZ", "F8_E5M2FNUZ"))
_I64_INDEX, _I32_INDEX, _I16_INDEX, _I8_INDEX = (DECODERS[c].index for c in ("I64", "I32", "I16", "I8"))
_U64_INDEX, _U32_INDEX, _U16_INDEX, _U8_INDEX = (DECODERS[c].index for c in ("U64", "U32", "U16", "U8"))


@njit(nogil=True, error_model="numpy")
def _narrow(scratch: Any, code: int, source: int, target: int, count: int) -> None:
    if code == F32_INDEX:
        _f32(scratch, source, target, count)
    elif code == _BF16:
        _bf16(scratch, source, target, count)
    elif code == _F16:
        _f16(scratch, source, target, count)
    elif code == _E4M3:
        _e4m3(scratch, source, target, count)
    elif code == _E5M2:
        _e5m2(scratch, source, target, count)
    elif code == _E8M0:
        _e8m0(scratch, source, target, count)
    elif code == _E4M3FNUZ:
        _e4m3fnuz(scratch, source, target, count)
    elif code == _E5M2FNUZ:
        _e5m2fnuz(scratch, source, target, count)
    elif code == _I16_INDEX:
        _i16(scratch, source, target, count)
    elif code == _I8_INDEX:
        _i8(scratch, source, target, count)
    elif code == _U16_INDEX:
        _u16(scratch, source, target, count)
    elif code == _U8_INDEX:
        _u8(scratch, source, target, count)
    else:
        _bool(scratch, source, target, count)


def decode(scratch: Any, code: int, source: int, target: int, count: int) -> None:
    """Decode `count` elements (a multiple of WIDTH) of dtype `code` at `source` to `target`, in the dtype of `scratch`.

    float32 takes the dtypes whose `Decoder.wide` is "f32", float64 takes all. For jitted code only.
    """
    raise AssertionError("decode is called from jitted code")


@overload(decode)
def _decode(scratch: Any, code: Any, source: Any, target: Any, count: Any) -> Any:
    if scratch.dtype == types.float32:

        def to_float32(scratch: Any, code: Any, source: Any, target: Any, count: Any) -> Any:
            _narrow(scratch, code, source, target, count)

        return to_float32

    def to_float64(scratch: Any, code: Any, source: Any, target: Any, count: Any) -> Any:
        if code == F64_INDEX:
            _f64(scratch, source, target, count)
        elif code == _I64_INDEX:
            _i64(scratch, source, target, count)
        elif code == _I32_INDEX:
            _i32(scratch, source, target, count)
        elif code == _U64_INDEX:
            _u64(scratch, source, target, count)
        elif code == _U32_INDEX:
            _u32(scratch, source, target, count)
        else:
            _narrow(scratch, code, source, target, count)

    return to_float64
