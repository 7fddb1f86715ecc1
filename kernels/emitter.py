"""Vector instructions written by hand: a thin layer over llvmlite's builder that all block loops share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils

from .layout import LANES

I32, I64 = ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()
VD = ir.VectorType(F64, LANES)
VF16 = ir.VectorType(F32, 2 * LANES)
VI16 = ir.VectorType(I32, 2 * LANES)
VL = ir.VectorType(I64, LANES)

Value = Any  # an llvmlite value: llvmlite ships no types
intrinsic: Any = extending.intrinsic  # jitted code calls it without the typing context, which mypy cannot know


class Emitter:
    """The few vector operations that the loops need, on one builder.

    Args:
        builder: where instructions go.
        address: any, as int64; `add_by_multiplier` needs it.
    """

    def __init__(self, builder: Any, address: Value | None = None) -> None:
        self.b = builder
        if address is not None:
            # 1.0, but LLVM must not know it: of no address in user space is the uppermost bit set.
            bits = builder.add(builder.lshr(address, ir.Constant(I64, 63)), ir.Constant(I64, 0x3FF << 52))
            self._one = self.splat(builder.bitcast(bits, F64), VD)

    def add_by_multiplier(self, a: Value, x: Value) -> Value:
        """a + x as x * 1 + a, the same bits, for where the adders have more to do than the multipliers."""
        return self.fma(x, self._one, a)

    def constant(self, vector: ir.VectorType, value: float | int) -> Value:
        return ir.Constant(vector, [value] * vector.count)

    def load(self, vector: ir.VectorType, address: Value, byte: Value) -> Value:
        pointer = self.b.inttoptr(self.b.add(address, byte), vector.as_pointer())
        value = self.b.load(pointer)
        value.align = 1  # nothing guarantees the alignment of a tensor within a file
        return value

    def load_elements(self, vector: ir.VectorType, address: Value, index: Value) -> Value:
        """The elements from `index` on of the array of integers at an address."""
        return self.load(vector, address, self.b.mul(index, ir.Constant(I64, vector.element.width // 8)))

    def prefetch(self, address: Value) -> None:
        """Ask for the cache line at an address, which need not be there."""
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        function = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0")
        to_read_to_all_levels_of_data = [ir.Constant(I32, value) for value in (0, 3, 1)]
        self.b.call(function, [self.b.inttoptr(address, pointer), *to_read_to_all_levels_of_data])

    def store(self, value: Value, address: Value, slot: int) -> None:
        self.store_at(value, address, ir.Constant(I64, 8 * slot))

    def store_at(self, value: Value, address: Value, byte: Value) -> None:
        pointer = self.b.inttoptr(self.b.add(address, byte), value.type.as_pointer())
        self.b.store(value, pointer).align = 8

    def intrinsic(self, name: str, *values: Value) -> Value:
        of = ir.FunctionType(values[0].type, [v.type for v in values])
        function = cgutils.get_or_insert_function(self.b.module, of, f"llvm.{name}.v{LANES}f64")
        return self.b.call(function, values)

    def magnitude(self, v: Value) -> Value:
        return self.intrinsic("fabs", v)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        return self.intrinsic("fma", x, y, z)

    def maximum(self, size: Value, best: Value) -> Value:
        """The larger of magnitudes, `best` kept as bits.

        They order as numbers do, and NaN sorts above infinity, while the floating-point instruction loses it.
        """
        bits = self.b.bitcast(size, best.type)
        return self.b.select(self.b.icmp_signed(">", bits, best), bits, best)

    def largest_lane(self, best: Value) -> Value:
        top = self.reduce(best, lambda p, q: self.b.select(self.b.icmp_signed(">", p, q), p, q))
        return self.b.bitcast(top, F64)

    def halves(self, v: Value) -> list[Value]:
        """The two runs of LANES elements of a double-length vector."""
        return [self.picked(v, v, range(h * LANES, (h + 1) * LANES)) for h in (0, 1)]

    def widened(self, v: Value) -> list[Value]:
        """A float32 vector as two float64 vectors (exact)."""
        return [self.b.fpext(h, VD) for h in self.halves(v)]

    def picked(self, p: Value, q: Value, lanes: Sequence[int]) -> Value:
        """Lanes of p and, counted on from there, of q."""
        return self.b.shuffle_vector(p, q, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))

    def splat(self, value: Value, vector: ir.VectorType) -> Value:
        """A vector with the same value in every lane."""
        none = ir.Constant(vector, ir.Undefined)
        return self.picked(self.b.insert_element(none, value, ir.Constant(I32, 0)), none, [0] * vector.count)

    def size(self, v: Value) -> Value:
        """Magnitudes of signed integers."""
        return self.b.select(self.b.icmp_signed("<", v, self.constant(v.type, 0)), self.b.neg(v), v)

    def larger(self, p: Value, q: Value) -> Value:
        """The larger of unsigned integers."""
        return self.b.select(self.b.icmp_unsigned(">", p, q), p, q)

    def larger_signed(self, p: Value, q: Value) -> Value:
        """The larger of signed integers."""
        return self.b.select(self.b.icmp_signed(">", p, q), p, q)

    def smaller(self, p: Value, q: Value) -> Value:
        """The smaller of unsigned integers."""
        return self.b.select(self.b.icmp_unsigned("<", p, q), p, q)

    def count_true(self, mask: Value) -> Value:
        """How many lanes of a comparison hold, as int64: counting in a general register costs no vector instruction."""
        bits = self.b.bitcast(mask, ir.IntType(mask.type.count))
        return self.b.zext(self.b.ctpop(bits), I64)

    def fold(self, parts: list[Value]) -> Value:
        """The sum of the lanes of each of LANES vectors of int64, in their order, in one vector.

        All are folded at once: two halves of two vectors make one, so it takes 21 instructions and not 48.
        """
        width = LANES
        while width > 1:
            # Each part holds runs of `width` lanes to be added up: its first halves and its second halves are brought
            # beside those of the next part and added.
            runs = [range(start, start + width // 2) for start in range(0, 2 * LANES, width)]
            first = [lane for run in runs for lane in run]
            second = [lane + width // 2 for lane in first]
            parts = [
                self.b.add(self.picked(p, q, first), self.picked(p, q, second))
                for p, q in zip(parts[::2], parts[1::2], strict=True)
            ]
            width //= 2
        return parts[0]

    def reduce(self, v: Value, combine: Callable[[Value, Value], Value]) -> Value:
        """Lanes combined as a fixed tree: i with i + n/2, then i with i + n/4, ..."""
        count = v.type.count
        while count > 1:
            count //= 2
            v = combine(v, self.picked(v, v, [*range(count, 2 * count), *[0] * (v.type.count - count)]))
        return self.b.extract_element(v, ir.Constant(I32, 0))

    def add_lanes(self, v: Value) -> Value:
        return self.reduce(v, self.b.fadd)

    def two_sum(self, a: Value, x: Value) -> tuple[Value, Value]:
        """a + x as (rounded sum, its exact error); Knuth, The Art of Computer Programming 2, 4.2.2, theorem B."""
        s = self.b.fadd(a, x)
        t = self.b.fsub(s, a)
        return s, self.b.fadd(self.b.fsub(a, self.b.fsub(s, t)), self.b.fsub(x, t))

    def loop(
        self, count: Value, step: int, start: list[Value], body: Callable[[Value, list[Value]], list[Value]]
    ) -> list[Value]:
        """`state = body(i, state)` for i = 0, step, ... < count (a multiple of step); the final state."""
        b = self.b
        before = b.block
        head = b.append_basic_block("block.head")
        inside = b.append_basic_block("block.body")
        after = b.append_basic_block("block.after")
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(ir.Constant(I64, 0), before)
        state = [b.phi(v.type) for v in start]
        for phi, value in zip(state, start, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", index, count), inside, after)
        b.position_at_end(inside)
        following = body(index, state)
        index.add_incoming(b.add(index, ir.Constant(I64, step)), b.block)
        for phi, value in zip(state, following, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return state
