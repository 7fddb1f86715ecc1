"""What jitted code here needs of memory and of bits, and Numba does not give without its runtime."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.np import arrayobj

from .emitter import I64, intrinsic


@intrinsic
def copy_bytes(typingctx: Any, source: Any, target: Any, count: Any) -> Any:
    """Copy `count` bytes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target, count = args
        pointer = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(builder, builder.inttoptr(target, pointer), builder.inttoptr(source, pointer), count, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def zero_bytes(typingctx: Any, target: Any, count: Any) -> Any:
    """Set `count` bytes to zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, count = args
        pointer = builder.inttoptr(target, ir.IntType(8).as_pointer())
        cgutils.memset(builder, pointer, count, 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def matrix(typingctx: Any, pointer: Any, address: Any, rows: Any, columns: Any) -> Any:
    """The C-contiguous (rows, columns) array at an address, of the dtype that `pointer` points to; it owns nothing."""
    array_type = types.Array(pointer.dtype, 2, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, address, rows, columns = args
        array = context.make_array(array_type)(context, builder)
        element = context.get_data_type(array_type.dtype)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(element))
        arrayobj.populate_array(
            array,
            data=builder.inttoptr(address, element.as_pointer()),
            shape=[rows, columns],
            strides=[builder.mul(columns, itemsize), itemsize],
            itemsize=itemsize,
            meminfo=None,
        )
        return array._getvalue()

    return array_type(pointer, types.int64, types.int64, types.int64), codegen


def _null(element: Any) -> Any:
    def typed(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return context.get_constant_null(signature.return_type)

        return types.CPointer(element)(), codegen

    return intrinsic(typed)


doubles = _null(types.float64)  # names a dtype to `matrix`
integers = _null(types.int64)
octets = _null(types.uint8)


@intrinsic
def exponent_of(typingctx: Any, value: Any) -> Any:
    """e of a normal positive float64 with 2**e <= value < 2**(e + 1)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], I64)
        return builder.sub(builder.lshr(bits, ir.Constant(I64, 52)), ir.Constant(I64, 1023))

    return types.int64(types.float64), codegen


@intrinsic
def power_of_two(typingctx: Any, exponent: Any) -> Any:
    """2.0**exponent as float64, for -1022 <= exponent <= 1023."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.shl(builder.add(args[0], ir.Constant(I64, 1023)), ir.Constant(I64, 52))
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def trailing_zeros(typingctx: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set, of which there is one."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def float32_of(typingctx: Any, bits: Any) -> Any:
    """The float32 of a bit pattern, as float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.bitcast(builder.trunc(args[0], ir.IntType(32)), ir.FloatType())
        return builder.fpext(value, ir.DoubleType())

    return types.float64(types.int64), codegen
