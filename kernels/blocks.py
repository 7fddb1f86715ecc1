"""The innermost loops of the CPU backend, written as vector instructions.

A block is up to `BLOCK` elements of working type float32 or float64, padded with zeros to a multiple of `LANES` * 2.
Each function here is a Numba intrinsic: called from jitted code with addresses, it emits LLVM vector code, so that the
lanes, the order of every addition and the use of fused multiply-add are fixed by this file and not by what the
auto-vectoriser makes of a loop on some processor. That is what makes a sum the same to the last bit whichever kernel
computes it, fused or not, and what the error bounds in `float_walk.py` rest on: every float64 sum runs over `LANES` = 8
independent lanes of at most BLOCK / LANES = 256 terms, which are then added as a tree.

Sums of a block (x, y: the elements as float64; d = x - y rounded once to float64):

    self sums    Σ|x|, Σx, compensation of Σx, Σx², max|x|, the smallest |x| (float32 only)
    pair sums    Σ|d|, Σd², max|d|, #(x ≠ y)

Σxy is not among them: `float_walk.py` takes it from Σx² + Σy² - Σd² where that is certain to 5e-13, and
calls `dot_pinned` or `dot_compensated` where it is not, which costs a second look at a block that is still in the
first-level cache. The pace is set by the floating-point pipes: Zen 4 begins one 512-bit addition and one multiplication
a cycle (measured), and a fused multiply-add is one of the latter. So some additions are multiplications by 1, which
takes an eighth of the time off float32 and a fifth off float64, and whatever can be had from integer instructions is.

NaN propagates: sums carry it, and maxima are taken over the bits of magnitudes, where NaN sorts above infinity.

Of sums that are not wanted no instruction is emitted; 0 stands in their place, and nobody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import types

from .emitter import F32, F64, I32, I64, VD, VF16, VI16, VL, Emitter, Value, intrinsic
from .layout import LANES, PAIR_OUT
from .wanted import Wanted


class _Float32:
    """Blocks of float32: two float64 vectors per load; the integer view gives the range of magnitudes."""

    step = 2 * LANES
    integers = VI16

    @staticmethod
    def load(e: Emitter, address: Value, index: Value) -> tuple[Value, list[Value]]:
        raw = e.load(VF16, address, e.b.mul(index, ir.Constant(I64, 4)))
        return raw, e.widened(raw)

    @staticmethod
    def self_start(e: Emitter) -> list[Value]:
        zero = e.constant(VD, 0.0)
        return [zero, zero, zero, e.constant(VI16, 0), e.constant(VI16, -1)]

    @staticmethod
    def self_step(e: Emitter, raw: Value, parts: list[Value], state: list[Value], wanted: Wanted) -> list[Value]:
        total_abs, total, squares, largest, smallest = state
        for v in parts:
            if wanted & Wanted.TOTALS:
                total_abs = e.add_by_multiplier(total_abs, e.magnitude(v))
                total = e.add_by_multiplier(total, v)
            if wanted & Wanted.SQUARES:
                squares = e.fma(v, v, squares)
        bits = e.b.and_(e.b.bitcast(raw, VI16), e.constant(VI16, 0x7FFFFFFF))
        # Magnitudes order as their bits do, and NaN sorts above infinity.
        largest = e.larger(bits, largest)
        if wanted & Wanted.TOTALS:  # what Σx is certain by
            smallest = e.smaller(bits, smallest)
        return [total_abs, total, squares, largest, smallest]

    @staticmethod
    def self_store(e: Emitter, state: list[Value], out: Value) -> None:
        total_abs, total, squares, largest, smallest = state
        b = e.b
        top, low = e.reduce(largest, e.larger), e.reduce(smallest, e.smaller)
        for slot, value in enumerate(
            (
                e.add_lanes(total_abs),
                e.add_lanes(total),
                ir.Constant(F64, 0.0),
                e.add_lanes(squares),
                b.fpext(b.bitcast(top, F32), F64),
                b.fpext(b.bitcast(low, F32), F64),
            )
        ):
            e.store(value, out, slot)


class _Float64:
    """Blocks of float64: the elements fill the significand, so Σx is compensated from the start."""

    step = LANES
    integers = VL

    @staticmethod
    def load(e: Emitter, address: Value, index: Value) -> tuple[Value, list[Value]]:
        raw = e.load(VD, address, e.b.mul(index, ir.Constant(I64, 8)))
        return raw, [raw]

    @staticmethod
    def self_start(e: Emitter) -> list[Value]:
        return [*[e.constant(VD, 0.0)] * 4, e.constant(VL, 0)]

    @staticmethod
    def self_step(e: Emitter, raw: Value, parts: list[Value], state: list[Value], wanted: Wanted) -> list[Value]:
        total_abs, total, low, squares, largest = state
        (v,) = parts
        size = e.magnitude(v)
        if wanted & Wanted.TOTALS:
            total_abs = e.add_by_multiplier(total_abs, size)
            total, error = e.two_sum(total, v)
            low = e.add_by_multiplier(low, error)
        if wanted & Wanted.SQUARES:
            squares = e.fma(v, v, squares)
        largest = e.maximum(size, largest)
        return [total_abs, total, low, squares, largest]

    @staticmethod
    def self_store(e: Emitter, state: list[Value], out: Value) -> None:
        total_abs, total, low, squares, largest = state
        # The eight high parts are added with their errors, so that the tree loses nothing either.
        high = e.b.extract_element(total, ir.Constant(I32, 0))
        rest = e.add_lanes(low)
        for lane in range(1, LANES):
            high, error = e.two_sum(high, e.b.extract_element(total, ir.Constant(I32, lane)))
            rest = e.b.fadd(rest, error)
        for slot, value in enumerate(
            (e.add_lanes(total_abs), high, rest, e.add_lanes(squares), e.largest_lane(largest), ir.Constant(F64, 0.0))
        ):
            e.store(value, out, slot)


def _pair_start(e: Emitter) -> list[Value]:
    return [e.constant(VD, 0.0), e.constant(VD, 0.0), e.constant(VL, 0), ir.Constant(I64, 0)]


def _pair_step(
    e: Emitter,
    raw: Sequence[Value],
    parts: Sequence[list[Value]],
    state: list[Value],
    wanted: Wanted = Wanted.ALL,
) -> list[Value]:
    total_abs, squares, largest, differing = state
    for x, y in zip(*parts, strict=True):
        d = e.b.fsub(x, y)
        size = e.magnitude(d)
        if wanted & Wanted.ABS_DIFF:
            total_abs = e.b.fadd(total_abs, size)
        if wanted & Wanted.SQ_DIFF:
            squares = e.fma(d, d, squares)
        if wanted & Wanted.MAX_DIFF:
            largest = e.maximum(size, largest)
    if wanted & Wanted.DIFFERING:
        unequal = e.b.fcmp_unordered("!=", *raw)
        differing = e.b.add(differing, e.count_true(unequal))
    return [total_abs, squares, largest, differing]


def _pair_store(e: Emitter, state: list[Value], out: Value) -> None:
    total_abs, squares, largest, differing = state
    count = e.b.uitofp(differing, F64)
    for slot, value in enumerate((e.add_lanes(total_abs), e.add_lanes(squares), e.largest_lane(largest), count)):
        e.store(value, out, slot)


def _working_type(scratch: Any) -> Any:
    return {types.float32: _Float32, types.float64: _Float64}[scratch.dtype]


@cache
def self_block_of(wanted: Wanted) -> Any:
    """The intrinsic of the wanted self sums of a block."""

    @intrinsic
    def self_block(typingctx: Any, scratch: Any, x: Any, count: Any, out: Any) -> Any:
        """Self sums of the `count` elements at address x, written as SELF_OUT float64 at address out."""
        kind = _working_type(scratch)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, x, count, out = args
            e = Emitter(builder, x)

            def body(index: Value, state: list[Value]) -> list[Value]:
                raw, parts = kind.load(e, x, index)
                return kind.self_step(e, raw, parts, state, wanted)

            kind.self_store(e, e.loop(count, kind.step, kind.self_start(e), body), out)
            return context.get_dummy_value()

        return types.void(scratch, types.int64, types.int64, types.int64), codegen

    return self_block


@cache
def pair_blocks_of(wanted: Wanted, others: int) -> Any:
    """The intrinsic of the wanted pair sums of a block with so many others."""

    @intrinsic
    def pair_blocks(typingctx: Any, scratch: Any, x: Any, ys: Any, count: Any, out: Any) -> Any:
        """Pair sums of the `count` elements at x with those at each address in ys, PAIR_OUT float64 each at out.

        x is loaded and widened once, and the additions of one pair do not wait for those of another: of float32, 4 at a
        time take 0.85 of the time of one after the other for all sums, 0.73 for Σd² alone (Zen 4, blocks in cache).
        """
        kind = _working_type(scratch)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, x, ys, count, out = args
            e = Emitter(builder)
            width = len(_pair_start(e))
            at = [e.load(I64, ys, ir.Constant(I64, 8 * n)) for n in range(others)]

            def body(index: Value, state: list[Value]) -> list[Value]:
                raw_x, parts_x = kind.load(e, x, index)
                following: list[Value] = []
                for n, y in enumerate(at):
                    raw_y, parts_y = kind.load(e, y, index)
                    sums = state[n * width : (n + 1) * width]
                    following += _pair_step(e, (raw_x, raw_y), (parts_x, parts_y), sums, wanted)
                return following

            state = e.loop(count, kind.step, _pair_start(e) * others, body)
            for n in range(others):
                place = builder.add(out, ir.Constant(I64, 8 * PAIR_OUT * n))
                _pair_store(e, state[n * width : (n + 1) * width], place)
            return context.get_dummy_value()

        return types.void(scratch, types.int64, types.int64, types.int64, types.int64), codegen

    return pair_blocks


@intrinsic
def pair_block(typingctx: Any, scratch: Any, x: Any, y: Any, count: Any, out: Any) -> Any:
    """Pair sums of the `count` elements at x and y, written as PAIR_OUT float64 at out."""
    return _fused(scratch, selfs=0)


self_block = self_block_of(Wanted.ALL)


@intrinsic
def both_block(typingctx: Any, scratch: Any, x: Any, y: Any, count: Any, out_x: Any, out_y: Any, out: Any) -> Any:
    """Self sums of x and of y and the pair sums of (x, y) in one loop: each element is loaded and widened once."""
    return _fused(scratch, selfs=2)


@intrinsic
def one_block(typingctx: Any, scratch: Any, x: Any, y: Any, count: Any, out_x: Any, out: Any) -> Any:
    """Self sums of x and the pair sums of (x, y) in one loop."""
    return _fused(scratch, selfs=1)


def _fused(scratch: Any, selfs: int) -> Any:
    kind = _working_type(scratch)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses, count, outs = args[1:3], args[3], args[4:]
        e = Emitter(builder, addresses[0])
        start = kind.self_start(e)
        width = len(start)

        def body(index: Value, state: list[Value]) -> list[Value]:
            raws, parts = zip(*(kind.load(e, address, index) for address in addresses), strict=True)
            following: list[Value] = []
            for n in range(selfs):
                following += kind.self_step(e, raws[n], parts[n], state[n * width : (n + 1) * width], Wanted.ALL)
            return following + _pair_step(e, raws, parts, state[selfs * width :])

        state = e.loop(count, kind.step, [*start * selfs, *_pair_start(e)], body)
        for n in range(selfs):
            kind.self_store(e, state[n * width : (n + 1) * width], outs[n])
        _pair_store(e, state[selfs * width :], outs[selfs])
        return context.get_dummy_value()

    return types.void(scratch, *[types.int64] * (4 + selfs)), codegen


@intrinsic
def total_compensated(typingctx: Any, scratch: Any, x: Any, count: Any, out: Any) -> Any:
    """Σx with every rounding error kept: LANES high parts, then LANES low parts, then LANES magnitudes at out."""
    return _compensated(scratch, dot=False)


@intrinsic
def dot_compensated(typingctx: Any, scratch: Any, x: Any, y: Any, count: Any, out: Any) -> Any:
    """Σxy with every rounding error kept, laid out as by `total_compensated`.

    Ogita, Rump and Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26 (2005), algorithm 5.3 (Dot2), in
    lanes. Products of float32 are exact in float64; those of float64 are split by a fused multiply-add.
    """
    return _compensated(scratch, dot=True)


def _compensated(scratch: Any, *, dot: bool) -> Any:
    kind = _working_type(scratch)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        addresses, (count, out) = args[1:-2], args[-2:]
        e = Emitter(builder)

        def body(index: Value, state: list[Value]) -> list[Value]:
            high, low, size = state
            operands = [kind.load(e, address, index)[1] for address in addresses]
            for values in zip(*operands, strict=True):
                term = values[0]
                if dot:
                    term = e.b.fmul(*values)
                    if kind is _Float64:
                        low = e.b.fadd(low, e.fma(values[0], values[1], e.b.fneg(term)))
                high, error = e.two_sum(high, term)
                low = e.b.fadd(low, error)
                size = e.b.fadd(size, e.magnitude(term))
            return [high, low, size]

        state = e.loop(count, kind.step, [e.constant(VD, 0.0)] * 3, body)
        for part, vector in enumerate(state):
            for lane in range(LANES):
                e.store(e.b.extract_element(vector, ir.Constant(I32, lane)), out, part * LANES + lane)
        return context.get_dummy_value()

    return types.void(scratch, *[types.int64] * (4 if dot else 3)), codegen


@intrinsic
def dot_pinned(typingctx: Any, scratch: Any, x: Any, y: Any, count: Any, pin: Any, out: Any) -> Any:
    """Σxy of float32 as high + low at out[0] and out[1], given pin = 1.5 * 2**k with 2**k >= 1024 max|x| max|y|.

    A running sum that starts at the pin never leaves its binade, so the part of a product that it takes, and the part
    that it leaves, are both exact without the comparison of magnitudes or the extra operations of a general two-sum:
    4 additions a term for 7. The parts taken are added exactly; those left, below 2**(k-53) each, to within 2**(k-87).
    Rump, Ogita and Oishi, "Accurate floating-point summation, part I", SIAM J. Sci. Comput. 31 (2008), section 3.
    """
    kind = _working_type(scratch)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, x, y, count, pin, out = args
        e = Emitter(builder)
        one = builder.insert_element(ir.Constant(VD, ir.Undefined), pin, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
        start = builder.shuffle_vector(one, ir.Constant(VD, ir.Undefined), zeros)

        def body(index: Value, state: list[Value]) -> list[Value]:
            total, left = state
            for a, b in zip(kind.load(e, x, index)[1], kind.load(e, y, index)[1], strict=True):
                term = builder.fmul(a, b)
                following = builder.fadd(total, term)
                left = builder.fadd(left, builder.fsub(term, builder.fsub(following, total)))
                total = following
            return [total, left]

        total, left = e.loop(count, kind.step, [start, e.constant(VD, 0.0)], body)
        e.store(e.add_lanes(builder.fsub(total, start)), out, 0)
        e.store(e.add_lanes(left), out, 1)
        return context.get_dummy_value()

    return types.void(scratch, types.int64, types.int64, types.int64, types.float64, types.int64), codegen


@intrinsic
def count_nonfinite(typingctx: Any, scratch: Any, x: Any, count: Any) -> Any:
    """How many of the `count` elements at x are NaN or infinite, as float64."""
    kind = _working_type(scratch)
    ints = kind.integers
    infinity, magnitude = (0x7F800000, 0x7FFFFFFF) if kind is _Float32 else (0x7FF0 << 48, (1 << 63) - 1)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, x, count = args
        e = Emitter(builder)

        def body(index: Value, state: list[Value]) -> list[Value]:
            bits = builder.bitcast(kind.load(e, x, index)[0], ints)
            size = builder.and_(bits, e.constant(ints, magnitude))
            special = builder.icmp_unsigned(">=", size, e.constant(ints, infinity))
            return [builder.add(state[0], builder.zext(special, ints))]

        (found,) = e.loop(count, kind.step, [e.constant(ints, 0)], body)
        return builder.uitofp(e.reduce(found, builder.add), F64)

    return types.float64(scratch, types.int64, types.int64), codegen
