"""Blocks of two narrow float operands in limbs: exact sums from products of 16-bit integers.

A block whose elements are whole multiples X of a unit is held as X = H * 2**b + L, with H and L in 16 bits. Its sums
are sums of limbs and of products of limbs, and processors have an instruction that multiplies 32 pairs of 16-bit
integers and adds neighbouring products to running sums of 32 bits (pmaddwd; with VNNI, all in one). Against int32 with
products in 64 bits (`fixed.py`) that takes two thirds of the instructions per element for bfloat16 and half of them for
8-bit floats. The sums are the same integers, so no result tells which loop a block went through.

How 16-bit floats come to limbs, `word_sums.py` says. Of 8-bit floats, the limbs of a magnitude are looked up in a table
of 128 entries, one byte at a time, 64 at once; where the processor cannot (AVX-512 VBMI), they have no loop here. As
the limbs of magnitudes are added where signs differ, differences of limbs are below 2**12 in magnitude when
|X| < 2**22 and b = 11; the 128 products of a lane in a block are then below 2**31.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, VI16, VL, Emitter, Value
from .layout import FIXED_GROUP

_I8, _I16 = ir.IntType(8), ir.IntType(16)
BYTES = ir.VectorType(_I8, 64)
WORDS = ir.VectorType(_I16, 32)


def _has(feature: str) -> bool:
    return bool(llvm.get_host_cpu_features().get(feature))


HAS_LOOKUPS = _has("avx512vbmi")


@dataclass(frozen=True)
class Step:
    """32 elements of two operands: limbs and signs (0 or -1) of each, limbs of the differences, and their magnitudes.

    Attributes:
        x, y: (H, L, sign), 32 int16 each; of X itself, or of |X|.
        difference: (H, L), 32 int16, of X - Y or of Y - X.
        sizes: |X - Y|, 2 times 16 int32.
        raw: patterns of x and of y as they are stored, of these elements or of these and those that follow; or none.
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


def _interleaved(e: Emitter, p: Value, q: Value) -> list[Value]:
    """Elements of p and q in turn, as two vectors. Each takes half of every 128 bits: that is one instruction."""
    count = p.type.count
    half = count // 8
    return [
        e.picked(
            p,
            q,
            [2 * half * lane + part * half + i + n for lane in range(4) for i in range(half) for n in (0, count)],
        )
        for part in (0, 1)
    ]


def halves(e: Emitter, v: Value, *, signed: bool) -> Value:
    """Neighbouring 32-bit integers added to one of 64 bits."""
    pairs, half = e.b.bitcast(v, VL), e.constant(VL, 32)
    if signed:
        return e.b.add(e.b.ashr(e.b.shl(pairs, half), half), e.b.ashr(pairs, half))
    return e.b.add(e.b.and_(pairs, e.constant(VL, 0xFFFFFFFF)), e.b.lshr(pairs, half))


def steps_of_bytes(
    e: Emitter, lookups: int, low_bits: int, ranged: bool, x: Value, y: Value, table: Value
) -> Callable[[Value], Iterator[Step]]:
    """The steps of a group of 8-bit floats, given where the table of the limbs' bytes stands.

    The limbs are those of magnitudes. Where signs differ, the difference's magnitude is the sum of theirs.
    """
    lines = [e.load(BYTES, table, ir.Constant(I64, 64 * n)) for n in range(2 * lookups)]
    of = ir.FunctionType(BYTES, [BYTES] * 3)
    look_up = cgutils.get_or_insert_function(e.b.module, of, "llvm.x86.avx512.vpermi2var.qi.512")
    weights = ir.Constant(WORDS, [1, 1 << low_bits] * (WORDS.count // 2))

    def words(p: Value, q: Value) -> list[Value]:
        return [e.b.bitcast(each, WORDS) for each in _interleaved(e, p, q)]

    def limbs(raw: Value) -> list[tuple[Value, Value, Value]]:
        found = [e.b.call(look_up, [lines[2 * n], raw, lines[2 * n + 1]]) for n in range(lookups)]
        found += [e.constant(BYTES, 0)] * (4 - lookups)
        signs = [e.b.ashr(each, e.constant(WORDS, 15)) for each in words(raw, raw)]
        return list(zip(words(*found[2:]), words(*found[:2]), signs, strict=True))

    def steps(start: Value) -> Iterator[Step]:
        for first in range(0, FIXED_GROUP, BYTES.count):
            index = e.b.add(start, ir.Constant(I64, first))
            raw = [e.load_elements(BYTES, source, index) for source in (x, y)]
            for half, (of_x, of_y) in enumerate(zip(*(limbs(each) for each in raw), strict=True)):
                opposite = e.b.xor(of_x[2], of_y[2])  # -1: p - (-q), as (p - 1) - ~q
                high, low = (
                    e.b.sub(e.b.add(p, opposite), e.b.xor(q, opposite)) for p, q in zip(of_x[:2], of_y[:2], strict=True)
                )
                wide = [
                    dot(e, e.constant(VI16, 0), e.b.bitcast(each, WORDS), weights)
                    for each in _interleaved(e, low, high)
                ]
                yield Step(of_x, of_y, (high, low), [e.size(d) for d in wide], raw if ranged and not half else [])

    return steps
