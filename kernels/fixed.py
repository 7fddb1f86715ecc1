"""Blocks of narrow dtypes in fixed point: exact sums, in integers, at more than twice the rate of float64 arithmetic.

The elements of a block of bfloat16, float16, float8 or small integers are whole multiples of some 2**q, and unless
their magnitudes span more than about 2**19 they are multiples below 2**FIXED_BITS. Then every sum of the block is a sum
of integers: differences of int32, products of int32 in int64, all exact, and what comes out is rounded once. A block
that spans more goes the way of float32; which way it goes depends on the operand (for self sums) or on the pair (for
pair sums) alone, so a sum is the same bits whatever other operands of up to 16 bits or of float32 are in the tile. (An
operand that needs float64 takes the whole tile to float64.)

With |X| < 2**27 and |X - Y| < 2**28, eight terms of a lane fit 32 bits, a group, after which they are added to 64-bit
lanes. Squares go there at once: 256 of them make Σx² < 2**62, hence Σd² <= 2 (Σx² + Σy²) < 2**64 and, in magnitude,
2 Σxy = Σx² + Σy² - Σd² < 2**63.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import types

from .decoders import DECODERS
from .emitter import Emitter, Value, intrinsic
from .layout import FIXED_GROUP, LANES
from .wanted import Wanted

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_WIDTH = 2 * LANES
_V16 = ir.VectorType(_I32, _WIDTH)
_VF = ir.VectorType(_F32, _WIDTH)
_VL = ir.VectorType(_I64, LANES)


def _e4m3(e: Emitter, raw: Value) -> Value:
    """By way of float16, whose exponent is one bit wider: subnormals cost nothing there, as float32 they would."""
    half = ir.VectorType(_I16, _WIDTH)
    bits = e.b.and_(e.b.shl(e.b.sext(raw, half), e.constant(half, 7)), e.constant(half, 0xBF80))
    wide = e.b.fpext(e.b.bitcast(bits, ir.VectorType(ir.HalfType(), _WIDTH)), _VF)
    return e.b.fmul(wide, e.constant(_VF, 256.0))


def _e5m2(e: Emitter, raw: Value) -> Value:
    """The upper half of a float16."""
    half = ir.VectorType(_I16, _WIDTH)
    bits = e.b.shl(e.b.zext(raw, half), e.constant(half, 8))
    return e.b.fpext(e.b.bitcast(bits, ir.VectorType(ir.HalfType(), _WIDTH)), _VF)


# What is loaded and how it becomes a float32 that is still to be scaled, or at once the integer.
_FLOATS: dict[str, tuple[Any, Any]] = {
    "BF16": (_I16, lambda e, v: e.b.bitcast(e.b.shl(e.b.zext(v, _V16), e.constant(_V16, 16)), _VF)),
    "F16": (ir.HalfType(), lambda e, v: e.b.fpext(v, _VF)),
    "F8_E4M3": (_I8, _e4m3),
    "F8_E5M2": (_I8, _e5m2),
}
_INTEGERS: dict[str, tuple[Any, Any]] = {
    "I8": (_I8, lambda e, v: e.b.sext(v, _V16)),
    "U8": (_I8, lambda e, v: e.b.zext(v, _V16)),
    "I16": (_I16, lambda e, v: e.b.sext(v, _V16)),
    "U16": (_I16, lambda e, v: e.b.zext(v, _V16)),
    "BOOL": (_I8, lambda e, v: e.b.zext(e.b.icmp_unsigned("!=", v, ir.Constant(v.type, [0] * _WIDTH)), _V16)),
}


def _converter(code: str) -> Any:
    """The intrinsic that turns `count` elements at `source` into int32 multiples of 1 / scale at `target`.

    For integer dtypes it returns the largest magnitude, for floats -1: there `_range_intrinsic` has told it.
    """
    element, _ = (_FLOATS | _INTEGERS)[code]
    itemsize = DECODERS[code].itemsize

    def typed(typingctx: Any, source: Any, target: Any, count: Any, scale: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, target, count, scale = args
            e = Emitter(builder)
            factor = [e.splat(scale, _VF)] if code in _FLOATS else []

            def body(index: Value, state: list[Value]) -> list[Value]:
                raw = e.load(ir.VectorType(element, _WIDTH), source, builder.mul(index, ir.Constant(_I64, itemsize)))
                whole = _fixed_value(e, code, raw, *factor)
                e.store_at(whole, target, builder.mul(index, ir.Constant(_I64, 4)))
                return [] if code in _FLOATS else [e.larger(e.size(whole), state[0])]

            if code in _FLOATS:
                e.loop(count, _WIDTH, [], body)
                return ir.Constant(_I64, -1)
            (largest,) = e.loop(count, _WIDTH, [e.constant(_V16, 0)], body)
            return builder.zext(e.reduce(largest, e.larger), _I64)

        return types.int64(types.int64, types.int64, types.int64, types.float32), codegen

    return intrinsic(typed)


fix_bf16, fix_f16, fix_e4m3, fix_e5m2 = (_converter(code) for code in ("BF16", "F16", "F8_E4M3", "F8_E5M2"))
fix_i8, fix_u8, fix_i16, fix_u16, fix_bool = (_converter(code) for code in ("I8", "U8", "I16", "U16", "BOOL"))


class _Sums:
    """Running sums of one vector of integers V: Σ|V|, ΣV², ΣV of an operand (signed), max|V| of a difference.

    Those that are not wanted stay 0, and cost nothing.
    """

    def __init__(self, e: Emitter, *, signed: bool, wanted: Wanted = Wanted.ALL) -> None:
        self.e, self.signed = e, signed
        self.totals = bool(wanted & (Wanted.TOTALS if signed else Wanted.ABS_DIFF))
        self.squares = bool(wanted & (Wanted.SQUARES if signed else Wanted.SQ_DIFF))
        self.maximum = bool(wanted & Wanted.MAX_DIFF)
        self.wide = [e.constant(_VL, 0)] * (3 if signed else 2)  # Σ|V|, ΣV², ΣV
        self.largest = [] if signed else [e.constant(_V16, 0)]

    @property
    def state(self) -> list[Value]:
        return [*self.wide, *self.largest]

    @state.setter
    def state(self, values: list[Value]) -> None:
        at = len(self.wide)
        self.wide, self.largest = values[:at], values[at:]

    def begin_group(self) -> None:
        self.narrow = [self.e.constant(_V16, 0)] * (2 if self.signed else 1)

    def add(self, v: Value) -> None:
        e, b = self.e, self.e.b
        size = e.size(v)
        if self.totals:
            self.narrow[0] = b.add(self.narrow[0], size)
            if self.signed:
                self.narrow[1] = b.add(self.narrow[1], v)
        if self.maximum:
            self.largest = [e.larger(size, each) for each in self.largest]
        for part in _unsigned_halves(e, size) if self.squares else ():
            self.wide[1] = b.add(self.wide[1], b.mul(part, part))

    def end_group(self) -> None:
        if not self.totals:
            return
        for part in _unsigned_halves(self.e, self.narrow[0]):
            self.wide[0] = self.e.b.add(self.wide[0], part)
        if self.signed:
            for part in _signed_halves(self.e, self.narrow[1]):
                self.wide[2] = self.e.b.add(self.wide[2], part)


def _unsigned_halves(e: Emitter, v: Value) -> list[Value]:
    pairs = e.b.bitcast(v, _VL)
    return [e.b.and_(pairs, e.constant(_VL, 0xFFFFFFFF)), e.b.lshr(pairs, e.constant(_VL, 32))]


def _signed_halves(e: Emitter, v: Value) -> list[Value]:
    pairs = e.b.bitcast(v, _VL)
    half = e.constant(_VL, 32)
    return [e.b.ashr(e.b.shl(pairs, half), half), e.b.ashr(pairs, half)]


def _store_lanes(e: Emitter, vectors: list[tuple[Value, bool]], out: Value) -> None:
    """The sum of the lanes of each int64 vector (signed or not) as two integers, high * 2**32 + low, in turn."""
    half, low = e.constant(_VL, 32), e.constant(_VL, 0xFFFFFFFF)
    parts = []
    for lanes, signed in vectors:
        parts += [e.b.ashr(lanes, half) if signed else e.b.lshr(lanes, half), e.b.and_(lanes, low)]
    e.store(e.fold(parts + [e.constant(_VL, 0)] * (LANES - len(parts))), out, 0)


def _store_self(e: Emitter, sums: _Sums, out: Value) -> None:
    """Σ|X|, ΣX, ΣX² as (high, low): 6 of FIXED_OUT int64."""
    size, squares, total = sums.wide
    _store_lanes(e, [(size, False), (total, True), (squares, False)], out)


def _store_largest(e: Emitter, largest: Value, out: Value, slot: int) -> None:
    e.store(e.b.zext(e.reduce(largest, e.larger), _I64), out, slot)


def _fixed_block(selfs: int, operands: int, *, shifted: bool = False, wanted: Wanted = Wanted.ALL) -> Any:
    """Code for the self sums of the first `selfs` of the operands, and, where there are two, of the pair sums.

    Operands are int32, to be shifted where `shifted`. Of pair sums without self sums, 2 ΣXY is left to
    `fixed_walk.derive_dot`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sources, args = args[:operands], args[operands:]
        shifts, args = (args[:operands], args[operands:]) if shifted else ([], args)
        count, outs = args[0], args[1:]
        e = Emitter(builder)
        up = [e.splat(builder.trunc(shift, _I32), _V16) for shift in shifts]
        sums = [_Sums(e, signed=True, wanted=wanted) for _ in range(selfs)]
        paired = operands == 2
        difference = _Sums(e, signed=False, wanted=wanted)
        extra = [ir.Constant(_I64, 0)] if paired else []  # #(X ≠ Y)
        parts = [*sums, difference] if paired else sums
        widths = [len(part.state) for part in parts]

        def split(state: list[Value]) -> None:
            at = 0
            for part, width in zip(parts, widths, strict=True):
                part.state = state[at : at + width]
                at += width
            extra[:] = state[at:]

        def body(index: Value, state: list[Value]) -> list[Value]:
            split(state)
            for part in parts:
                part.begin_group()
            for step in range(FIXED_GROUP // _WIDTH):
                first = builder.add(index, ir.Constant(_I64, step * _WIDTH))
                values = [e.load_elements(_V16, source, first) for source in sources]
                if shifted:
                    values = [builder.shl(value, shift) for value, shift in zip(values, up, strict=True)]
                for part, value in zip(sums, values, strict=False):
                    part.add(value)
                if paired:
                    d = builder.sub(*values)
                    difference.add(d)
                    if wanted & Wanted.DIFFERING:
                        extra[0] = builder.add(
                            extra[0], e.count_true(builder.icmp_unsigned("!=", d, e.constant(_V16, 0)))
                        )
            for part in parts:
                part.end_group()
            return [value for part in parts for value in part.state] + extra

        start = [value for part in parts for value in part.state] + extra
        split(e.loop(count, FIXED_GROUP, start, body))
        for part, out in zip(sums, outs, strict=False):
            _store_self(e, part, out)
        if paired:
            out = outs[selfs]
            size, squares = difference.wide
            lanes = [(size, False), (squares, False)]
            if selfs == 2:
                lanes.append((builder.sub(builder.add(sums[0].wide[1], sums[1].wide[1]), squares), True))
            _store_lanes(e, lanes, out)
            _store_largest(e, difference.largest[0], out, 6)
            e.store(extra[0], out, 7)
        return context.get_dummy_value()

    results = selfs + (operands == 2)
    return types.void(*[types.int64] * (operands * (1 + shifted) + 1 + results)), codegen


def _fixed_value(e: Emitter, code: str, raw: Value, factor: Value | None = None) -> Value:
    """Stored elements as int32: integers as they are, floats times `factor`."""
    value = (_FLOATS | _INTEGERS)[code][1](e, raw)
    return value if factor is None else e.b.fptosi(e.b.fmul(value, factor), _V16)


@cache
def self_fixed_of(wanted: Wanted) -> Any:
    """The intrinsic of the wanted self sums of a block."""

    @intrinsic
    def self_fixed(typingctx: Any, x: Any, count: Any, out: Any) -> Any:
        """Self sums of `count` int32 at x, as 6 int64: Σ|X|, ΣX, ΣX² as (high, low)."""
        return _fixed_block(selfs=1, operands=1, wanted=wanted)

    return self_fixed


@cache
def pair_fixed_of(wanted: Wanted) -> Any:
    """The intrinsic of the wanted pair sums of two blocks."""

    @intrinsic
    def pair_fixed(typingctx: Any, x: Any, y: Any, shift_x: Any, shift_y: Any, count: Any, out: Any) -> Any:
        """Pair sums of X << shift_x and Y << shift_y: Σ|X-Y|, Σ(X-Y)², 0 as (high, low), max|X-Y|, #(X ≠ Y)."""
        return _fixed_block(selfs=0, operands=2, shifted=True, wanted=wanted)

    return pair_fixed


self_fixed = self_fixed_of(Wanted.ALL)


@intrinsic
def both_fixed(
    typingctx: Any, x: Any, y: Any, shift_x: Any, shift_y: Any, count: Any, out_x: Any, out_y: Any, out: Any
) -> Any:
    """Self sums of X << shift_x and of Y << shift_y and their pair sums in one loop."""
    return _fixed_block(selfs=2, operands=2, shifted=True)
