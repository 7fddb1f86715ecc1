"""The sums of two blocks of an 8-bit float dtype from products of bytes, but for the few elements that do not fit.

Of the elements that are whole multiples X of a unit with |X| < 2**BYTE_WINDOW, the magnitude is held in two limbs,
|X| = B 2**BYTE_LIMB + C, of 7 bits each. They are looked up in a table of 128 entries, 64 elements at once (AVX-512
VBMI), and multiplied as bytes, one without a sign and one with, the products added four by four to sums of 32 bits in
one instruction (vpdpbusd, AVX-512 VNNI). A pair of elements of which one is too large, or no multiple, is left out of
all sums here; where such pairs stand is noted, and `byte_walk.py` adds them one by one. Of normally distributed weights
that fill the range of their dtype, some four pairs in a thousand are left out.

What fits where, of a block of 2048 elements: the products that come to one 32-bit lane, 4 of each of 32 steps, are
below 2**21 together, two such sums in one lane below 2**22; the words B 2**7 + C and their differences fit 16 bits.

The pace is set by the two of Zen 4's four pipes that multiply, compare, and take magnitudes (measured: one 512-bit
instruction of that kind a cycle; shifts go to the other two, additions, maxima and logic to any). So limbs of two steps
are added before they are multiplied by weights, and the magnitude of a difference is a maximum. With what is left out,
a block takes 0.78 (E4M3) and 0.63 (E5M2) of the time that limbs of 16 bits took.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types

from .emitter import I64, VI16, VL, Emitter, Value, intrinsic
from .layout import BLOCK, BYTE_LIMB, FIXED_GROUP, LANES
from .limbs import WORDS, dot, halves

_BYTES = ir.VectorType(ir.IntType(8), 64)
_STEP = _BYTES.count

_FEATURES = llvm.get_host_cpu_features()
HAS_BYTE_LIMBS = all(_FEATURES.get(feature) for feature in ("avx512bw", "avx512vbmi", "avx512vnni"))


def _call(e: Emitter, name: str, result: Any, *values: Value) -> Value:
    of = ir.FunctionType(result, [value.type for value in values])
    return e.b.call(cgutils.get_or_insert_function(e.b.module, of, f"llvm.x86.avx512.{name}"), values)


def _dot(e: Emitter, total: Value, *factors: tuple[Value, Value]) -> Value:
    """total[i] + p[4i + j] q[4i + j] for j < 4 of every pair (p, q) of factors; the p are without a sign."""
    for p, q in factors:
        total = _call(e, "vpdpbusd.512", VI16, total, e.b.bitcast(p, VI16), e.b.bitcast(q, VI16))
    return total


def _interleaved(e: Emitter, p: Value, q: Value) -> list[Value]:
    """Elements of p and q in turn, as two vectors. Each takes half of every 128 bits: that is one instruction."""
    starts = [[16 * lane + 8 * half for lane in range(4)] for half in (0, 1)]
    return [e.picked(p, q, [at + i + n for at in of for i in range(8) for n in (0, _STEP)]) for of in starts]


def _words(e: Emitter, c: Value, b: Value) -> list[Value]:
    """B 2**7 + C of limbs with or without a sign, in 16 bits."""
    weights = ir.Constant(_BYTES, [1, -(1 << BYTE_LIMB)] * (_STEP // 2))  # 128, as they are without a sign
    return [_call(e, "pmaddubs.w.512", WORDS, weights, each) for each in _interleaved(e, c, b)]


def _added(e: Emitter, v: Value, bits: int = 0) -> Value:
    """The sum of all lanes, of 32 bits with a sign, times 2**bits, as int64."""
    return e.b.shl(e.reduce(halves(e, v, signed=True), e.b.add), ir.Constant(I64, bits))


def _square(e: Emitter, cc: Value, bc: Value, bb: Value) -> Value:
    """Σ(B 2**7 + C)(B' 2**7 + C') from ΣCC', ΣBC' + ΣCB' and ΣBB'."""
    low = e.b.add(cc, e.b.shl(bc, e.constant(VI16, BYTE_LIMB)))
    return e.b.add(_added(e, low), _added(e, bb, 2 * BYTE_LIMB))


def _occupied(e: Emitter, words: Value, count: Value) -> Value:
    """A bit for every one of so many int64, BLOCK / 64 at most, that is not 0; without a branch for each."""
    found = ir.Constant(I64, 0)
    for first in range(0, BLOCK // 64, LANES):
        word = e.load_elements(VL, words, ir.Constant(I64, first))
        mask = e.b.bitcast(e.b.icmp_unsigned("!=", word, e.constant(VL, 0)), ir.IntType(LANES))
        found = e.b.or_(found, e.b.shl(e.b.zext(mask, I64), ir.Constant(I64, first)))
    there = e.b.sub(e.b.shl(ir.Constant(I64, 1), count), ir.Constant(I64, 1))
    return e.b.and_(found, there)  # behind them stands what other blocks left


class _Self:
    """The running sums of one operand.

    -Σ|X|; 2**7 times -ΣC and -ΣB of its negative elements; ΣCC, ΣBC, ΣBB; the largest pattern of a magnitude.
    """

    def __init__(self, e: Emitter, state: list[Value]) -> None:
        self.e = e
        self.size, *self.negative, self.cc, self.bc, self.bb, self.largest = state
        self.steps: list[tuple[Value, Value]] = []

    @staticmethod
    def start(e: Emitter) -> list[Value]:
        return [e.constant(VI16, 0)] * 6 + [e.constant(_BYTES, 0)]

    def step(self, raw: Value, c: Value, b: Value) -> None:
        e = self.e
        sign = e.b.and_(raw, e.constant(_BYTES, 0x80))  # as a factor, -128 or 0
        self.negative = [_dot(e, total, (limb, sign)) for total, limb in zip(self.negative, (c, b), strict=True)]
        self.cc, self.bc, self.bb = _dot(e, self.cc, (c, c)), _dot(e, self.bc, (b, c)), _dot(e, self.bb, (b, b))
        self.largest = e.larger(e.b.and_(raw, e.constant(_BYTES, 0x7F)), self.largest)
        self.steps.append((c, b))

    def finish(self) -> list[Value]:
        """The state after two steps. Their limbs are added first: twice 127 is a byte still."""
        e = self.e
        # The sum comes out negative: 128 is no byte with a sign, but -128 is.
        weights = [e.constant(_BYTES, -1), e.constant(_BYTES, -(1 << BYTE_LIMB))]
        limbs = [e.b.add(*both) for both in zip(*self.steps, strict=True)]
        size = _dot(e, self.size, *zip(limbs, weights, strict=True))
        return [size, *self.negative, self.cc, self.bc, self.bb, self.largest]

    def sums(self) -> list[Value]:
        """Σ|X|, ΣX, ΣX², the largest pattern."""
        e = self.e
        size = e.b.neg(_added(e, self.size))
        c, b = (_added(e, total) for total in self.negative)
        less = e.b.add(e.b.ashr(c, ir.Constant(I64, BYTE_LIMB - 1)), e.b.shl(b, ir.Constant(I64, 1)))
        squares = _square(e, self.cc, e.b.shl(self.bc, e.constant(VI16, 1)), self.bb)
        largest = e.b.zext(e.reduce(self.largest, e.larger), I64)
        return [size, e.b.add(size, less), squares, largest]


@intrinsic
def limbs_of_bytes(typingctx: Any, x: Any, y: Any, table: Any, count: Any, out: Any, left_out: Any) -> Any:
    """BYTE_OUT int64 at `out`, of the `count` elements (a multiple of FIXED_GROUP) at x and y.

    Σ|X|, ΣX, ΣX² and the largest pattern of x (of all its elements), the same of y; Σ|X-Y|, ΣXY, max|X-Y|, #(X ≠ Y).
    `table` is where C and B of the 128 magnitudes stand, 128 bytes each; the uppermost bit of B says that the magnitude
    does not fit. At `left_out` are count / 64 int64 afterwards, a bit for every pair that was left out; the last of the
    sums has a bit for every one of those int64 that is not 0.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y, table, count, out, left_out = args
        if not HAS_BYTE_LIMBS:
            return context.get_dummy_value()  # never called
        e = Emitter(builder)
        zero = e.constant(_BYTES, 0)
        lines = [e.load(_BYTES, table, ir.Constant(I64, _STEP * n)) for n in range(4)]
        width = len(_Self.start(e))
        # 0, but LLVM must not know it, or it makes of max(d, 0 - d) the slower instruction: of no address in user space
        # is the uppermost bit set.
        zeros = e.splat(builder.trunc(builder.lshr(x, ir.Constant(I64, 63)), WORDS.element), WORDS)

        def body(index: Value, state: list[Value]) -> list[Value]:
            selfs = [_Self(e, state[n * width : (n + 1) * width]) for n in range(2)]
            cc, bc, bb, size, largest, differing = state[2 * width :]
            for step in range(0, FIXED_GROUP, _STEP):
                at = builder.add(index, ir.Constant(I64, step))
                raws = [e.load_elements(_BYTES, source, at) for source in (x, y)]
                (c, b), (r, q) = (
                    [_call(e, "vpermi2var.qi.512", _BYTES, low, raw, high) for low, high in (lines[:2], lines[2:])]
                    for raw in raws
                )
                misfit = builder.icmp_signed("<", builder.or_(b, q), zero)
                place = builder.add(left_out, builder.lshr(at, ir.Constant(I64, 3)))
                e.store(builder.bitcast(misfit, I64), place, 0)
                c, b, r, q = (builder.select(misfit, zero, limb) for limb in (c, b, r, q))
                selfs[0].step(raws[0], c, b)
                selfs[1].step(raws[1], r, q)
                # The limbs of y get the sign that makes X - Y of |X| and them: + where the signs differ.
                alike = builder.icmp_signed(">=", builder.xor(*raws), zero)
                r, q = (builder.select(alike, builder.neg(limb), limb) for limb in (r, q))
                cc, bc, bb = _dot(e, cc, (c, r)), _dot(e, bc, (b, r), (c, q)), _dot(e, bb, (b, q))
                for d in (builder.add(*both) for both in zip(_words(e, c, b), _words(e, r, q), strict=True)):
                    differing = builder.add(
                        differing, e.count_true(builder.icmp_unsigned("!=", d, e.constant(WORDS, 0)))
                    )
                    d = e.larger_signed(d, builder.sub(zeros, d))
                    largest = e.larger(d, largest)
                    size = dot(e, size, d, e.constant(WORDS, 1))
            return [*selfs[0].finish(), *selfs[1].finish(), cc, bc, bb, size, largest, differing]

        pair = [*[e.constant(VI16, 0)] * 4, e.constant(WORDS, 0), ir.Constant(I64, 0)]
        state = e.loop(count, FIXED_GROUP, [*_Self.start(e) * 2, *pair], body)
        found = [each for n in range(2) for each in _Self(e, state[n * width : (n + 1) * width]).sums()]
        cc, bc, bb, size, largest, differing = state[2 * width :]
        found += [_added(e, size), builder.neg(_square(e, cc, bc, bb))]  # the products were those of -XY
        found += [builder.zext(e.reduce(largest, e.larger), I64), differing]
        found += [_occupied(e, left_out, builder.lshr(count, ir.Constant(I64, 6)))]
        for slot, value in enumerate(found):
            e.store(value, out, slot)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen
