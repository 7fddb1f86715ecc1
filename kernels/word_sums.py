"""Exact sums of two blocks of 16-bit floats, in limbs (`limbs.py`).

A block is scaled in float32 and converted to integers X = H * 2**b + L, shifted up so that H is the upper half of 32
bits, rounded down: two neighbours' halves are one permutation away from 32 limbs. Processors begin two instructions of
512 bits a cycle, whichever they are, and all running sums, constants and intermediate values share 32 registers. So
what is chosen takes few of both:

- Σ(X-Y)² comes from ΣX², ΣY² and ΣXY: four products of limbs, where differences would need two subtractions and three,
  and would have a bit more.
- ΣX, Σ|X-Y| and max|X-Y| are taken before X is split, and shifted down as seldom as can be.
- Σ|X| - ΣX is twice what negative elements contribute, the products of limbs and of signs that are 0 or -1.

What fits where: with |X| < 2**24, b = 12 and the significands of these dtypes, X is at most 2**24 - 2**13 in magnitude.
So limbs are below 2**12, and 128 products of a lane in a block below 2**31; so are the lanes of ΣX, while 128 of |X-Y|
are below 2**32. The wide form, |X| < 2**27 and b = 14, adds what a group of 8 products or elements a lane makes to 64
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from .emitter import I32, I64, VF16, VI16, VL, Emitter, Value, intrinsic
from .layout import BLOCK, FIXED_BITS, FIXED_GROUP, LANES, LIMB_BITS, LIMB_LOW_BITS, WIDE_LOW_BITS
from .limbs import WORDS, dot, halves

_HALVES = ir.VectorType(ir.HalfType(), 16)

_AHEAD = 3 * BLOCK // 2  # elements: measured best of 1 to 3 blocks, on one thread and on two

_SIGNED = 2  # running sums of an operand: of its upper and of its lower limbs where it is negative
_SQUARE = 3  # ... of the products HH, HL, LL of an operand
_DOT = 4  # ... of two operands: HH, HL, LH, LL


def _scaled_bf16(e: Emitter, raw: Value, exponent: Value) -> list[Value]:
    """32 bfloat16 as 2 times 16 int32, times the power of two whose exponent is added to theirs.

    Two neighbours are one int32, which is split without a widening load. Zero becomes a number below 1, so it stays.
    """
    pairs = e.b.bitcast(e.b.add(raw, exponent), VI16)
    even, odd = e.b.shl(pairs, e.constant(VI16, 16)), e.b.and_(pairs, e.constant(VI16, 0xFFFF0000))
    return [e.b.fptosi(e.b.bitcast(bits, VF16), VI16) for bits in (even, odd)]


def _scaled_f16(e: Emitter, raw: Value, exponent: Value) -> list[Value]:
    """The same of 32 float16; their own exponents are too short to be added to."""
    result = []
    for first in range(0, WORDS.count, _HALVES.count):
        half = e.b.bitcast(e.picked(raw, raw, range(first, first + _HALVES.count)), _HALVES)
        bits = e.b.add(e.b.bitcast(e.b.fpext(half, VF16), VI16), exponent)
        result.append(e.b.fptosi(e.b.bitcast(bits, VF16), VI16))
    return result


_SCALED: dict[str, tuple[Callable[..., list[Value]], ir.VectorType, int]] = {
    "BF16": (_scaled_bf16, WORDS, 7),
    "F16": (_scaled_f16, VI16, 23),
}  # what converts, the elements whose exponent it adds to, and the bits of their mantissa


class _Shifted:
    """A sum of vectors that are shifted up, shifted down as seldom as 32 bits allow: once in `room` of them."""

    def __init__(self, e: Emitter, room: int, fraction: int, shift: Callable[..., Value]) -> None:
        self.e, self.room, self.fraction, self.shift = e, room, fraction, shift
        self.done: Value | None = None
        self.count, self.sum = 0, e.constant(VI16, 0)

    def add(self, value: Value) -> None:
        if self.count == self.room:
            self.done, self.count, self.sum = self.total, 0, self.e.constant(VI16, 0)
        self.count, self.sum = self.count + 1, self.e.b.add(self.sum, value)

    @property
    def total(self) -> Value:
        down = self.shift(self.sum, self.e.constant(VI16, self.fraction))
        return down if self.done is None else self.e.b.add(self.done, down)


class _Sums:
    """The running sums of a pair of blocks.

    Attributes:
        totals, signed, squares: of x and of y: ΣX; its negative elements' share; ΣX².
        size, largest: Σ|X-Y| and max|X-Y|, the latter shifted up.
        differing: #(X ≠ Y).
        dot: ΣXY.
        ranges: the largest patterns of x and of y without their signs, where they are looked for.
    """

    def __init__(self, e: Emitter, bits: int, low_bits: int, *, ranged: bool) -> None:
        self.e, self.low_bits, self.wide = e, low_bits, bits > LIMB_BITS
        self.fraction = 16 - low_bits  # X is shifted up by that, for H to be the upper half of 32 bits
        self.room = 1 << (31 - bits - self.fraction)  # how many shifted X or |X-Y| add up to 32 bits
        zero, long = e.constant(VI16, 0), e.constant(VL, 0)
        of_block = long if self.wide else zero
        self.totals = [of_block] * 2
        self.signed = [[zero] * _SIGNED] * 2
        self.size, self.largest, self.differing = of_block, zero, ir.Constant(I64, 0)
        self.squares = [long if self.wide else [zero] * _SQUARE] * 2
        self.dot = long if self.wide else [zero] * _DOT
        self.ranges = [e.constant(WORDS, 0)] * (2 if ranged else 0)

    @property
    def state(self) -> list[Value]:
        products = [*self.squares, self.dot] if self.wide else [*self.squares[0], *self.squares[1], *self.dot]
        last = [self.size, self.largest, self.differing, *self.ranges]
        return [*self.totals, *self.signed[0], *self.signed[1], *products, *last]

    @state.setter
    def state(self, values: Sequence[Value]) -> None:
        left = iter(values)

        def taken(count: int) -> list[Value]:
            return [next(left) for _ in range(count)]

        self.totals, self.signed = taken(2), [taken(_SIGNED), taken(_SIGNED)]
        self.squares = taken(2) if self.wide else [taken(_SQUARE), taken(_SQUARE)]
        self.dot = next(left) if self.wide else taken(_DOT)
        self.size, self.largest, self.differing, *self.ranges = left

    def add(self, steps: Sequence[Sequence[Sequence[Value]]]) -> None:
        """Add the steps of one group: shifted X and Y of 32 elements, 2 times 16 int32 each, and their patterns."""
        e, zero = self.e, self.e.constant(VI16, 0)
        kept_squares, kept_dot = self.squares, self.dot
        squares, product = [*kept_squares], kept_dot
        if self.wide:
            squares, product = [[zero] * _SQUARE] * 2, [zero] * _DOT
        totals = [_Shifted(e, self.room, self.fraction, e.b.ashr) for _ in range(2)]
        size = _Shifted(e, self.room, self.fraction, e.b.lshr)
        for x, y, raw in steps:
            for p, q in zip(x, y, strict=True):
                self.differing = e.b.add(self.differing, e.count_true(e.b.icmp_unsigned("!=", p, q)))
                difference = e.size(e.b.sub(p, q))
                self.largest = e.larger(difference, self.largest)
                size.add(difference)
                totals[0].add(p)
                totals[1].add(q)
            self.ranges = [
                e.larger(e.b.and_(each, e.constant(WORDS, 0x7FFF)), most)
                for each, most in zip(raw, self.ranges, strict=True)
            ]
            limbs = [self._limbs(wide) for wide in (x, y)]
            for n, (high, low) in enumerate(limbs):
                sign = e.b.ashr(high, e.constant(WORDS, 15))
                self.signed[n] = self._dots(self.signed[n], [(high, sign), (low, sign)])
                squares[n] = self._dots(squares[n], [(high, high), (high, low), (low, low)])
            (high_x, low_x), (high_y, low_y) = limbs
            product = self._dots(product, [(high_x, high_y), (high_x, low_y), (low_x, high_y), (low_x, low_y)])
        self.squares, self.dot = squares, product
        found = [each.total for each in (*totals, size)]
        if self.wide:
            found = [halves(e, each, signed=n < 2) for n, each in enumerate(found)]
            self.squares = [e.b.add(of, self._square(each)) for of, each in zip(kept_squares, squares, strict=True)]
            self.dot = e.b.add(kept_dot, self._product(product))
        *self.totals, self.size = [e.b.add(*each) for each in zip((*self.totals, self.size), found, strict=True)]

    def _limbs(self, wide: Sequence[Value]) -> tuple[Value, Value]:
        e = self.e
        p, q = (e.b.bitcast(each, WORDS) for each in wide)
        high, low = (e.picked(p, q, range(start, 2 * WORDS.count, 2)) for start in (1, 0))
        return high, e.b.lshr(low, e.constant(WORDS, self.fraction))

    def _dots(self, totals: Sequence[Value], factors: Sequence[tuple[Value, Value]]) -> list[Value]:
        return [dot(self.e, total, *pair) for total, pair in zip(totals, factors, strict=True)]

    def _joined(self, high: Value, low: Value, bits: int) -> Value:
        return self.e.b.add(self.e.b.shl(high, self.e.constant(VL, bits)), low)

    def _square(self, products: Sequence[Value]) -> Value:
        """Σ(H 2**b + L)² from ΣHH, ΣHL and ΣLL."""
        high, cross, low = (halves(self.e, each, signed=n == 1) for n, each in enumerate(products))
        return self._joined(self._joined(high, cross, self.low_bits - 1), low, self.low_bits + 1)

    def _product(self, products: Sequence[Value]) -> Value:
        """ΣXY from the products of limbs."""
        high, *cross, low = (halves(self.e, each, signed=n < _DOT - 1) for n, each in enumerate(products))
        return self._joined(self._joined(high, self.e.b.add(*cross), self.low_bits), low, self.low_bits)

    def store(self, out: Value) -> None:
        """LIMB_OUT int64: upper and lower halves of sums, max|X-Y|, #(X ≠ Y), the largest patterns of x and of y.

        The sums are Σ|X|, ΣX, ΣX² of x and of y, Σ|X-Y|, Σ(X-Y)²: high * 2**32 + low, all high ones first.
        """
        e, sums = self.e, []
        totals, size, squares, product = self.totals, self.size, self.squares, self.dot
        if not self.wide:
            totals, size = [halves(e, each, signed=True) for each in totals], halves(e, size, signed=False)
            squares, product = [self._square(each) for each in squares], self._product(product)
        one = e.constant(VL, 1)
        for total, signed, square in zip(totals, self.signed, squares, strict=True):
            high, low = (halves(e, each, signed=True) for each in signed)
            negative = self._joined(high, low, self.low_bits)
            sums += [e.b.add(total, e.b.shl(negative, one)), total, square]
        sums += [size, e.b.sub(e.b.add(*squares), e.b.shl(product, one))]
        half, low = e.constant(VL, 32), e.constant(VL, 0xFFFFFFFF)
        if self.wide:  # all lanes together do not fit 64 bits
            total_at = (0, 1, 3, 4)  # of sums that may be negative, or are far below 2**63
            highs = [e.b.ashr(v, half) if n in total_at else e.b.lshr(v, half) for n, v in enumerate(sums)]
            high, low = e.fold(highs), e.fold([e.b.and_(v, low) for v in sums])
        else:
            folded = e.fold(sums)
            high, low = e.b.ashr(folded, half), e.b.and_(folded, low)
        e.store(high, out, 0)
        e.store(low, out, LANES)
        largest = e.b.lshr(e.reduce(self.largest, e.larger), ir.Constant(I32, self.fraction))
        e.store(e.b.zext(largest, I64), out, 2 * LANES)
        e.store(self.differing, out, 2 * LANES + 1)
        for n, lanes in enumerate(self.ranges):
            e.store(e.b.zext(e.reduce(lanes, e.larger), I64), out, 2 * LANES + 2 + n)


def both_words(code: str, bits: int, low_bits: int, *, ranged: bool) -> Any:
    """The intrinsic for two blocks, each at an address: sums of `count` elements, a multiple of FIXED_GROUP, at `out`.

    `scale` is the exponent of the power of two that makes the elements integers, below 2**bits in magnitude. Where
    `ranged`, the largest patterns are found on the way, and tell afterwards whether the elements fit.
    """
    scaled, element, mantissa = _SCALED[code]

    def typed(typingctx: Any, x: Any, y: Any, scale: Any, count: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, y, scale, count, out = args
            e = Emitter(builder)
            sums = _Sums(e, bits, low_bits, ranged=ranged)
            shift = builder.shl(builder.add(scale, ir.Constant(I64, sums.fraction)), ir.Constant(I64, mantissa))
            exponent = e.splat(builder.trunc(shift, element.element), element)

            def group(index: Value, state: list[Value]) -> list[Value]:
                # A block that was scanned is in the cache: memory would be idle, so what will be scanned next is asked
                # for. Where blocks are not scanned, elements come in at an even pace, which processors foresee: asking
                # for any gains nothing.
                for source in () if ranged else (x, y):
                    for byte in range(0, FIXED_GROUP * 2, 64):
                        at = builder.mul(builder.add(index, ir.Constant(I64, _AHEAD)), ir.Constant(I64, 2))
                        e.prefetch(builder.add(source, builder.add(at, ir.Constant(I64, byte))))
                steps: list[list[list[Value]]] = []
                for first in range(0, FIXED_GROUP, WORDS.count):
                    at = builder.add(index, ir.Constant(I64, first))
                    raw = [e.load_elements(WORDS, source, at) for source in (x, y)]
                    steps.append([*(scaled(e, each, exponent) for each in raw), raw if ranged else []])
                sums.state = state
                sums.add(steps)
                return sums.state

            sums.state = e.loop(count, FIXED_GROUP, sums.state, group)
            sums.store(out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return intrinsic(typed)


words_bf16 = both_words("BF16", LIMB_BITS, LIMB_LOW_BITS, ranged=False)
words_f16 = both_words("F16", LIMB_BITS, LIMB_LOW_BITS, ranged=True)
wide_bf16, wide_f16 = (both_words(code, FIXED_BITS, WIDE_LOW_BITS, ranged=False) for code in ("BF16", "F16"))
