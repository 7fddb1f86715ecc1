"""Running sums of two blocks of 8-bit floats in limbs (`limbs.py`), and the loops that take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from .emitter import I64, VI16, VL, Emitter, Value, intrinsic
from .layout import BLOCK, BYTE_LOW_BITS, FIXED_GROUP, LANES
from .limbs import BYTES, HAS_LOOKUPS, WORDS, Step, dot, halves, steps_of_bytes

_TOTALS = 4  # running sums of an operand: H, L, sign H, sign L
_PRODUCTS = 3  # ... and of an operand or a difference: HH, HL, LL


class _Sums:
    """The running sums of a pair of blocks."""

    def __init__(self, e: Emitter, *, ranged: bool) -> None:
        self.e = e
        self.ranges = [e.constant(BYTES, 0)] * 2 if ranged else []  # the largest patterns without their signs
        zero = e.constant(VI16, 0)
        self.totals = [[zero] * _TOTALS, [zero] * _TOTALS]
        self.products = [[zero] * _PRODUCTS] * 3  # of x, of y, of their difference
        self.size, self.largest, self.differing = zero, zero, ir.Constant(I64, 0)

    @property
    def state(self) -> list[Value]:
        first = [*self.totals[0], *self.totals[1], *self.ranges]
        return [*first, self.size, self.largest, self.differing, *(each for of in self.products for each in of)]

    @state.setter
    def state(self, values: Sequence[Value]) -> None:
        x, y, rest = values[:_TOTALS], values[_TOTALS : 2 * _TOTALS], values[2 * _TOTALS :]
        self.totals = [list(x), list(y)]
        self.ranges, rest = list(rest[: len(self.ranges)]), rest[len(self.ranges) :]
        self.size, self.largest, self.differing, *kept = rest
        self.products = [kept[at : at + _PRODUCTS] for at in range(0, len(kept), _PRODUCTS)]

    def add(self, steps: Iterator[Step]) -> None:
        """Add the steps of one group."""
        e = self.e
        ones, zero = e.constant(WORDS, 1), e.constant(WORDS, 0)
        size, sums = self.size, [[zero, zero], [zero, zero]]
        for step in steps:
            for n, (high, low, sign) in enumerate((step.x, step.y)):
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
        self.size = size
        for n in range(2):
            self.totals[n][:2] = self._dots(self.totals[n][:2], [(total, ones) for total in sums[n]])

    def _dots(self, totals: Sequence[Value], factors: Sequence[tuple[Value, Value]]) -> list[Value]:
        return [dot(self.e, total, *pair) for total, pair in zip(totals, factors, strict=True)]

    def _joined(self, high: Value, low: Value, bits: int) -> Value:
        return self.e.b.add(self.e.b.shl(high, self.e.constant(VL, bits)), low)

    def _square(self, products: Sequence[Value]) -> Value:
        """Σ(H 2**b + L)² from ΣHH, ΣHL and ΣLL."""
        high, cross, low = (halves(self.e, each, signed=n == 1) for n, each in enumerate(products))
        return self._joined(self._joined(high, cross, BYTE_LOW_BITS - 1), low, BYTE_LOW_BITS + 1)

    def store(self, out: Value) -> None:
        """LIMB_OUT int64: upper and lower halves of sums, max|X-Y|, #(X ≠ Y), the largest patterns of x and of y.

        The sums are Σ|X|, ΣX, ΣX² of x and of y, Σ|X-Y|, Σ(X-Y)²: high * 2**32 + low, all high ones first.
        """
        e, sums = self.e, []
        squares = [self._square(products) for products in self.products]
        for totals, square in zip(self.totals, squares, strict=False):
            high, low, signed_high, signed_low = (halves(e, each, signed=True) for each in totals)
            total = self._joined(high, low, BYTE_LOW_BITS)
            # Σ sign |X|, of signs that are 0 or -1, is negative elements' share: ΣX and Σ|X| differ by twice that.
            signed = self._joined(signed_high, signed_low, BYTE_LOW_BITS)
            sums += [total, e.b.add(total, e.b.shl(signed, e.constant(VL, 1))), square]
        sums += [halves(e, self.size, signed=False), squares[2]]
        half, low = e.constant(VL, 32), e.constant(VL, 0xFFFFFFFF)
        folded = e.fold(sums)
        e.store(e.b.ashr(folded, half), out, 0)
        e.store(e.b.and_(folded, low), out, LANES)
        e.store(e.b.zext(e.reduce(self.largest, e.larger), I64), out, 2 * LANES)
        e.store(self.differing, out, 2 * LANES + 1)
        for n, lanes in enumerate(self.ranges):
            e.store(e.b.zext(e.reduce(lanes, e.larger), I64), out, 2 * LANES + 2 + n)


def _both(lookups: int, *, ranged: bool) -> Any:
    """The intrinsic for two blocks, each at an address: sums of `count` elements, a multiple of FIXED_GROUP, at `out`.

    `table` is where the bytes of the limbs stand. Where `ranged`, the largest patterns are found on the way, and tell
    afterwards whether the elements fit.
    """

    def typed(typingctx: Any, x: Any, y: Any, table: Any, count: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, y, table, count, out = args
            if not HAS_LOOKUPS:
                return context.get_dummy_value()  # never called
            e = Emitter(builder)
            steps = steps_of_bytes(e, lookups, BYTE_LOW_BITS, ranged, x, y, table)
            sums = _Sums(e, ranged=ranged)

            def group(index: Value, state: list[Value]) -> list[Value]:
                # What the next block will look at while memory would be idle.
                for source in (x, y):
                    for byte in range(0, FIXED_GROUP, 64):
                        at = builder.add(index, ir.Constant(I64, BLOCK + byte))
                        e.prefetch(builder.add(source, at))
                sums.state = state
                sums.add(steps(index))
                return sums.state

            sums.state = e.loop(count, FIXED_GROUP, sums.state, group)
            sums.store(out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return intrinsic(typed)


limbs_e4m3 = _both(3, ranged=True)  # its 18 bits are three bytes of limbs
limbs_e5m2 = _both(4, ranged=False)
