"""Blocks of two narrow float operands in limbs: exact sums from products of 16-bit integers.

A block whose elements are whole multiples X of a unit is held as X = H * 2**b + L, with H and L in 16 bits. Its sums
are sums of limbs and of products of limbs, and processors have an instruction that multiplies 32 pairs of 16-bit
integers and adds neighbouring products to running sums of 32 bits (pmaddwd; with VNNI, all in one). Against int32 with
products in 64 bits (`fixed.py`) that takes two thirds of the instructions per element. The sums are the same integers,
so no result tells which loop a block went through.

bfloat16 and float16 are scaled in float32 and converted; H and L are then the halves of a shifted X in 32 bits, rounded
down.

What fits where: differences of limbs are below 2**12 in magnitude when |X| < 2**23 and b = 12. The 128 products of a
lane in a block are then below 2**31. The wide form, |X| < 2**27 and b = 14, has differences below 2**14 and adds the 8
products of a group to 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, VF16, VI16, Emitter, Value
from .layout import FIXED_GROUP

_I16 = ir.IntType(16)
WORDS = ir.VectorType(_I16, 32)
_HALVES = ir.VectorType(ir.HalfType(), 16)


def _has(feature: str) -> bool:
    return bool(llvm.get_host_cpu_features().get(feature))


@dataclass(frozen=True)
class Step:
    """32 elements of two operands: limbs and signs (0 or -1) of each, limbs of the differences, and their magnitudes.

    Attributes:
        x, y: (H, L, sign), 32 int16 each.
        difference: (H, L), 32 int16, of X - Y.
        sizes: |X - Y|, 2 times 16 int32.
        raw: patterns of x and of y as they are stored; or none.
    """

    x: Sequence[Value]
    y: Sequence[Value]
    difference: Sequence[Value]
    sizes: Sequence[Value]
    raw: Sequence[Value] = ()


def dot(e: Emitter, total: Value, a: Value, b: Value) -> Value:
    """total[i] + a[2i] b[2i] + a[2i + 1] b[2i + 1], of 16-bit integers in 32 bits."""
    if _has("avx512bw"):
        of = ir.FunctionType(VI16, [WORDS, WORDS])
        function = cgutils.get_or_insert_function(e.b.module, of, "llvm.x86.avx512.pmaddw.d.512")
        return e.b.add(total, e.b.call(function, [a, b]))
    wide = ir.VectorType(I32, WORDS.count)
    products = e.b.mul(e.b.sext(a, wide), e.b.sext(b, wide))
    even, odd = (e.picked(products, products, range(start, WORDS.count, 2)) for start in (0, 1))
    return e.b.add(total, e.b.add(even, odd))


def _scaled_bf16(e: Emitter, source: Value, index: Value, exponent: Value) -> list[Value]:
    """32 bfloat16 as 2 times 16 int32, times the power of two whose exponent is added to theirs.

    Two neighbours are one int32, which is split without a widening load. Zero becomes a number below 1, so it stays.
    """
    raw = e.load_elements(WORDS, source, index)
    pairs = e.b.bitcast(e.b.add(raw, exponent), VI16)
    even, odd = e.b.shl(pairs, e.constant(VI16, 16)), e.b.and_(pairs, e.constant(VI16, 0xFFFF0000))
    return [e.b.fptosi(e.b.bitcast(bits, VF16), VI16) for bits in (even, odd)]


def _scaled_f16(e: Emitter, source: Value, index: Value, exponent: Value) -> list[Value]:
    """The same of 32 float16; their own exponents are too short to be added to."""
    result = []
    for at in (index, e.b.add(index, ir.Constant(I64, _HALVES.count))):
        raw = e.b.bitcast(e.load_elements(ir.VectorType(_I16, _HALVES.count), source, at), _HALVES)
        bits = e.b.add(e.b.bitcast(e.b.fpext(raw, VF16), VI16), exponent)
        result.append(e.b.fptosi(e.b.bitcast(bits, VF16), VI16))
    return result


def steps_of_words(
    e: Emitter, code: str, low_bits: int, ranged: bool, x: Value, y: Value, scale: Value
) -> Callable[[Value], Iterator[Step]]:
    """The steps of a group of 16-bit floats, given the exponent of the power of two that makes them integers."""
    scaled, element, mantissa = {"BF16": (_scaled_bf16, WORDS, 7), "F16": (_scaled_f16, VI16, 23)}[code]
    fraction = 16 - low_bits  # X is shifted up by that, for H to be the upper half of 32 bits
    shift = e.b.shl(e.b.add(scale, ir.Constant(I64, fraction)), ir.Constant(I64, mantissa))
    exponent = e.splat(e.b.trunc(shift, element.element), element)

    def limbs(wide: Sequence[Value]) -> tuple[Value, Value, Value]:
        p, q = (e.b.bitcast(each, WORDS) for each in wide)
        high, low = (e.picked(p, q, range(start, 2 * WORDS.count, 2)) for start in (1, 0))
        return high, e.b.lshr(low, e.constant(WORDS, fraction)), e.b.ashr(high, e.constant(WORDS, 15))

    def steps(start: Value) -> Iterator[Step]:
        for first in range(0, FIXED_GROUP, WORDS.count):
            index = e.b.add(start, ir.Constant(I64, first))
            wide_x, wide_y = (scaled(e, source, index, exponent) for source in (x, y))
            of_x, of_y = limbs(wide_x), limbs(wide_y)
            difference = [e.b.sub(p, q) for p, q in zip(of_x[:2], of_y[:2], strict=True)]
            sizes = [e.size(e.b.sub(p, q)) for p, q in zip(wide_x, wide_y, strict=True)]
            raw = [e.load_elements(WORDS, source, index) for source in (x, y)] if ranged else []
            yield Step(of_x, of_y, difference, [e.b.lshr(d, e.constant(VI16, fraction)) for d in sizes], raw)

    return steps
