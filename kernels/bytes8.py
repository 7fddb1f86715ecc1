"""Blocks of 8-bit integers: exact sums in 16-bit lanes, four times as many as the fixed point of `fixed.py` has.

Differences of bytes fit 16 bits, and so do sums of BLOCK / 32 = 64 magnitudes below 256; squares are multiplied and
added in pairs to 32-bit lanes, by one instruction where the processor has it (pmaddwd). The results are those of
`fixed.py`, laid out alike, so the same code closes them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from .emitter import Emitter, Value, intrinsic
from .layout import FIXED_GROUP

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_LANES = 32
_V8, _V16, _V32 = (ir.VectorType(element, _LANES) for element in (_I8, _I16, _I32))
_PAIRS = ir.VectorType(_I32, _LANES // 2)


def _products(e: Emitter, v: Value) -> Value:
    """v[2i]² + v[2i + 1]² as 16 int32."""
    wide = e.b.sext(v, _V32)
    squares = e.b.mul(wide, wide)
    even, odd = (e.picked(squares, squares, range(start, _LANES, 2)) for start in (0, 1))
    return e.b.add(even, odd)


class _Operand:
    """Running sums of an operand: Σ|X|, ΣX, max|X| in 16-bit lanes, ΣX² in 32-bit lanes."""

    def __init__(self, e: Emitter) -> None:
        self.start = [e.constant(_V16, 0)] * 3 + [e.constant(_PAIRS, 0)]

    @staticmethod
    def step(e: Emitter, v: Value, state: list[Value]) -> list[Value]:
        total_abs, total, largest, squares = state
        size = e.size(v)
        return [
            e.b.add(total_abs, size),
            e.b.add(total, v),
            e.larger(size, largest),
            e.b.add(squares, _products(e, v)),
        ]


def _add_up(e: Emitter, lanes: Value, *, signed: bool) -> Value:
    """The sum of all lanes as int64."""
    if lanes.type == _V16:
        lanes = (e.b.sext if signed else e.b.zext)(lanes, _V32)
    total = e.reduce(lanes, e.b.add)
    return (e.b.sext if signed else e.b.zext)(total, _I64)


def _store_split(e: Emitter, value: Value, out: Value, slot: int) -> None:
    """An int64 as high * 2**32 + low at out[slot] and out[slot + 1]."""
    e.store(e.b.ashr(value, ir.Constant(_I64, 32)), out, slot)
    e.store(e.b.and_(value, ir.Constant(_I64, 0xFFFFFFFF)), out, slot + 1)


def _both(signed: bool) -> Any:
    def typed(typingctx: Any, x: Any, y: Any, count: Any, out_x: Any, out_y: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            sources, count, outs, out = args[:2], args[2], args[3:5], args[5]
            e = Emitter(builder)
            operand = _Operand(e)
            width = len(operand.start)
            between = [e.constant(_V16, 0)] * 3 + [e.constant(_PAIRS, 0)]  # Σ|D|, max|D|, #(D ≠ 0), ΣD²

            def body(index: Value, state: list[Value]) -> list[Value]:
                extend = builder.sext if signed else builder.zext
                values = [extend(e.load(_V8, source, index), _V16) for source in sources]
                following: list[Value] = []
                for n, value in enumerate(values):
                    following += operand.step(e, value, state[n * width : (n + 1) * width])
                total_abs, largest, differing, squares = state[2 * width :]
                d = builder.sub(*values)
                size = e.size(d)
                unequal = builder.icmp_unsigned("!=", d, e.constant(_V16, 0))
                return [
                    *following,
                    builder.add(total_abs, size),
                    e.larger(size, largest),
                    builder.add(differing, builder.zext(unequal, _V16)),
                    builder.add(squares, _products(e, d)),
                ]

            state = e.loop(count, _LANES, [*operand.start * 2, *between], body)
            squares_of = []
            for n in range(2):
                total_abs, total, largest, squares = state[n * width : (n + 1) * width]
                squares_of.append(_add_up(e, squares, signed=False))
                _store_split(e, _add_up(e, total_abs, signed=False), outs[n], 0)
                _store_split(e, _add_up(e, total, signed=True), outs[n], 2)
                _store_split(e, squares_of[n], outs[n], 4)
                e.store(builder.zext(e.reduce(largest, e.larger), _I64), outs[n], 6)
            total_abs, largest, differing, squares = state[2 * width :]
            of_difference = _add_up(e, squares, signed=False)
            _store_split(e, _add_up(e, total_abs, signed=False), out, 0)
            _store_split(e, of_difference, out, 2)
            _store_split(e, builder.sub(builder.add(*squares_of), of_difference), out, 4)
            e.store(builder.zext(e.reduce(largest, e.larger), _I64), out, 6)
            e.store(_add_up(e, differing, signed=False), out, 7)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return intrinsic(typed)


assert FIXED_GROUP % _LANES == 0  # blocks come in whole groups

both_i8 = _both(signed=True)
both_u8 = _both(signed=False)
