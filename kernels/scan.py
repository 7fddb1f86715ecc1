"""The largest and the smallest magnitude of a block: what tells whether it fits fixed point, or a sum is exact.

In sign-and-magnitude formats, magnitudes order as their bits do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types

from .accumulate import COMPILED
from .emitter import I64, Emitter, Value, intrinsic

__all__ = ["largest", "largest_and_smallest", "smallest_above_zero"]

_BYTES = 64  # of a register, and of a cache line
_LINE = ir.Constant(I64, -_BYTES)


def _scan(bits: int, combines: Sequence[Callable[..., Value]], less: int = 0) -> Any:
    """The intrinsic that combines all magnitudes of `count` patterns of so many bits, less `less`, each way in turn.

    What lies between the first and the last whole cache line is loaded line by line, since tensors seldom begin where a
    line does and a load across two costs two; the ends are loaded as they lie. So elements may be looked at twice,
    which neither a largest nor a smallest minds. It returns a tuple of int64, `less` added again.
    """
    element = ir.IntType(bits)
    lanes = ir.VectorType(element, 8 * _BYTES // bits)

    def typed(typingctx: Any, source: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, count = args
            e = Emitter(builder)
            end = builder.add(source, builder.mul(count, ir.Constant(I64, bits // 8)))
            up = builder.and_(builder.neg(source), ir.Constant(I64, _BYTES - bits // 8))  # whole elements up to a line
            first = builder.add(source, up)

            def at(address: Value) -> Value:
                raw = e.load(lanes, address, ir.Constant(I64, 0))
                magnitudes = builder.and_(raw, e.constant(lanes, (1 << (bits - 1)) - 1))
                return builder.sub(magnitudes, e.constant(lanes, less)) if less else magnitudes

            def line(byte: Value, state: list[Value]) -> list[Value]:
                magnitudes = at(builder.add(first, byte))
                return [combine(e, magnitudes, each) for combine, each in zip(combines, state, strict=True)]

            begun, ended = at(source), at(builder.add(end, _LINE))
            whole = builder.and_(builder.sub(end, first), _LINE)
            found = e.loop(whole, _BYTES, [combine(e, begun, ended) for combine in combines], line)
            values = []
            for combine, each in zip(combines, found, strict=True):
                value = builder.add(e.reduce(each, functools.partial(combine, e)), ir.Constant(element, less))
                values.append(builder.zext(value, I64))
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(types.int64, len(combines))(types.int64, types.int64), codegen

    return intrinsic(typed)


_largest8, _largest16 = (_scan(bits, [Emitter.larger]) for bits in (8, 16))
_both8, _both16 = (_scan(bits, [Emitter.larger, Emitter.smaller]) for bits in (8, 16))
_above_zero8, _above_zero16 = (
    _scan(bits, [Emitter.smaller], less=1) for bits in (8, 16)
)  # zero less one is larger than all

_above_zero32 = _scan(32, [Emitter.smaller], less=1)


@njit(**COMPILED)
def largest(itemsize: int, source: int, count: int) -> int:
    """The largest magnitude of `count` patterns, a multiple of FIXED_GROUP; 0 of none."""
    if count == 0:
        return 0
    return _largest8(source, count)[0] if itemsize == 1 else _largest16(source, count)[0]


@njit(**COMPILED)
def largest_and_smallest(itemsize: int, source: int, count: int) -> tuple[int, int]:
    """The largest and the smallest magnitude above zero of `count` patterns, a multiple of FIXED_GROUP; 0 if none."""
    if count == 0:
        return 0, 0
    most, least = _both8(source, count) if itemsize == 1 else _both16(source, count)
    if least == 0:  # seldom so, and one more instruction for every element
        least = _above_zero8(source, count)[0] if itemsize == 1 else _above_zero16(source, count)[0]
    return most, least


@njit(**COMPILED)
def smallest_above_zero(source: int, count: int) -> int:
    """The smallest magnitude above zero of `count` float32, a multiple of WIDTH, as an integer; 0 if there is none."""
    return _above_zero32(source, count)[0]
