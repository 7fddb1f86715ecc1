"""Running sums of two blocks of narrow floats in limbs (`limbs.py`), and the loops that take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from .emitter import I64, VI16, VL, Emitter, Value, intrinsic
from .layout import BLOCK, FIXED_GROUP, LANES, LIMB_LOW_BITS, WIDE_LOW_BITS
from .limbs import WORDS, Step, dot, steps_of_words

_TOTALS = 4  # running sums of an operand: H, L, sign H, sign L
_PRODUCTS = 3  # ... and of an operand or a difference: HH, HL, LL


class _Sums:
    """The running sums of a pair of blocks."""

    def __init__(self, e: Emitter, low_bits: int, *, wide: bool, ranges: ir.VectorType | None) -> None:
        self.e, self.low_bits, self.wide = e, low_bits, wide
        self.ranges = [] if ranges is None else [e.constant(ranges, 0)] * 2  # the largest patterns without their signs
        zero = e.constant(VI16, 0)
        self.totals = [[zero] * _TOTALS, [zero] * _TOTALS]
        self.products = [[zero] * _PRODUCTS] * 3  # of x, of y, of their difference
        self.squares = [e.constant(VL, 0)] * 3 if wide else []
        self.size = e.constant(VL if wide else VI16, 0)
        self.largest, self.differing = zero, ir.Constant(I64, 0)

    @property
    def state(self) -> list[Value]:
        kept = self.squares if self.wide else [each for of in self.products for each in of]
        first = [*self.totals[0], *self.totals[1], *self.ranges]
        return [*first, self.size, self.largest, self.differing, *kept]

    @state.setter
    def state(self, values: Sequence[Value]) -> None:
        x, y, rest = values[:_TOTALS], values[_TOTALS : 2 * _TOTALS], values[2 * _TOTALS :]
        self.totals = [list(x), list(y)]
        self.ranges, rest = list(rest[: len(self.ranges)]), rest[len(self.ranges) :]
        self.size, self.largest, self.differing, *kept = rest
        if self.wide:
            self.squares = kept
        else:
            self.products = [kept[at : at + _PRODUCTS] for at in range(0, len(kept), _PRODUCTS)]

    def add(self, steps: Iterator[Step]) -> None:
        """Add the steps of one group."""
        e = self.e
        ones, zero = e.constant(WORDS, 1), e.constant(WORDS, 0)
        size, sums = self.size, [[zero, zero], [zero, zero]]
        if self.wide:
            size, self.products = e.constant(VI16, 0), [[e.constant(VI16, 0)] * _PRODUCTS] * 3
        for step in steps:
            for n, (high, low, sign) in enumerate((step.x, step.y)):
                if self.wide:  # 16 bits do not take the sum of four lower limbs
                    self.totals[n][:2] = self._dots(self.totals[n][:2], [(high, ones), (low, ones)])
                else:
                    sums[n] = [e.b.add(total, limb) for total, limb in zip(sums[n], (high, low), strict=True)]
                self.totals[n][2:] = self._dots(self.totals[n][2:], [(high, sign), (low, sign)])
            self.products = [
                self._dots(products, [(high, high), (high, low), (low, low)])
                for products, (high, low) in zip(self.products, (step.x[:2], step.y[:2], step.difference), strict=True)
            ]
            unequal = e.b.icmp_unsigned("!=", e.b.or_(*step.difference), zero)
            self.differing = e.b.add(self.differing, e.count_true(unequal))
            if step.raw:
                self.ranges = [
                    e.larger(e.b.and_(raw, e.constant(raw.type, (1 << (raw.type.element.width - 1)) - 1)), most)
                    for raw, most in zip(step.raw, self.ranges, strict=True)
                ]
            for each in step.sizes:
                self.largest = e.larger(each, self.largest)
                size = e.b.add(size, each)
        if self.wide:
            self.size = e.b.add(self.size, _halves(e, size, signed=False))
            self.squares = [
                e.b.add(total, self._square(products))
                for total, products in zip(self.squares, self.products, strict=True)
            ]
        else:
            self.size = size
            for n in range(2):
                self.totals[n][:2] = self._dots(self.totals[n][:2], [(total, ones) for total in sums[n]])

    def _dots(self, totals: Sequence[Value], factors: Sequence[tuple[Value, Value]]) -> list[Value]:
        return [dot(self.e, total, *pair) for total, pair in zip(totals, factors, strict=True)]

    def _joined(self, high: Value, low: Value, bits: int) -> Value:
        return self.e.b.add(self.e.b.shl(high, self.e.constant(VL, bits)), low)

    def _square(self, products: Sequence[Value]) -> Value:
        """Σ(H 2**b + L)² from ΣHH, ΣHL and ΣLL."""
        high, cross, low = (_halves(self.e, each, signed=n == 1) for n, each in enumerate(products))
        return self._joined(self._joined(high, cross, self.low_bits - 1), low, self.low_bits + 1)

    def store(self, out: Value) -> None:
        """LIMB_OUT int64: upper and lower halves of sums, max|X-Y|, #(X ≠ Y), the largest patterns of x and of y.

        The sums are Σ|X|, ΣX, ΣX² of x and of y, Σ|X-Y|, Σ(X-Y)²: high * 2**32 + low, all high ones first.
        """
        e, sums = self.e, []
        squares = self.squares if self.wide else [self._square(products) for products in self.products]
        size = self.size if self.wide else _halves(e, self.size, signed=False)
        for totals, square in zip(self.totals, squares, strict=False):
            high, low, signed_high, signed_low = (_halves(e, each, signed=True) for each in totals)
            total = self._joined(high, low, self.low_bits)
            # Σ sign X, with signs of 0 and -1, is what negative elements contribute: ΣX and Σ|X| differ by twice that.
            signed = self._joined(signed_high, signed_low, self.low_bits)
            other = e.b.add(total, e.b.shl(signed, e.constant(VL, 1)))
            sums += [other, total, square]
        sums += [size, squares[2]]
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
        e.store(e.b.zext(e.reduce(self.largest, e.larger), I64), out, 2 * LANES)
        e.store(self.differing, out, 2 * LANES + 1)
        for n, lanes in enumerate(self.ranges):
            e.store(e.b.zext(e.reduce(lanes, e.larger), I64), out, 2 * LANES + 2 + n)


def _halves(e: Emitter, v: Value, *, signed: bool) -> Value:
    """Neighbouring 32-bit integers added to one of 64 bits."""
    pairs, half = e.b.bitcast(v, VL), e.constant(VL, 32)
    if signed:
        return e.b.add(e.b.ashr(e.b.shl(pairs, half), half), e.b.ashr(pairs, half))
    return e.b.add(e.b.and_(pairs, e.constant(VL, 0xFFFFFFFF)), e.b.lshr(pairs, half))


def _both(steps_of: Callable[..., Any], kind: str | int, low_bits: int, *, ranged: bool) -> Any:
    """The intrinsic for two blocks, each at an address: sums of `count` elements, a multiple of FIXED_GROUP, at `out`.

    `key` is what the steps are given: the exponent of the scale. Where `ranged`, the largest patterns are found on the
    way, and tell afterwards whether the elements fit.
    """
    wide = low_bits == WIDE_LOW_BITS

    def typed(typingctx: Any, x: Any, y: Any, key: Any, count: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, y, key, count, out = args
            e = Emitter(builder)
            steps = steps_of(e, kind, low_bits, ranged, x, y, key)
            sums = _Sums(e, low_bits, wide=wide, ranges=WORDS if ranged else None)

            def group(index: Value, state: list[Value]) -> list[Value]:
                # What the next block will look at while memory would be idle.
                for source in (x, y):
                    for byte in range(0, FIXED_GROUP * 2, 64):
                        at = builder.mul(builder.add(index, ir.Constant(I64, BLOCK)), ir.Constant(I64, 2))
                        e.prefetch(builder.add(source, builder.add(at, ir.Constant(I64, byte))))
                sums.state = state
                sums.add(steps(index))
                return sums.state

            sums.state = e.loop(count, FIXED_GROUP, sums.state, group)
            sums.store(out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return intrinsic(typed)


limbs_bf16 = _both(steps_of_words, "BF16", LIMB_LOW_BITS, ranged=False)
limbs_f16 = _both(steps_of_words, "F16", LIMB_LOW_BITS, ranged=True)
wide_bf16, wide_f16 = (_both(steps_of_words, code, WIDE_LOW_BITS, ranged=False) for code in ("BF16", "F16"))
