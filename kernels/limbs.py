"""Products of limbs, the small integers that larger ones are cut up into.

A block of a narrow float dtype whose elements are whole multiples X of a unit is held in limbs, X = H 2**b + L: of 16
bits (`word_sums.py`) or of bytes (`byte_sums.py`). Its sums are sums of limbs and of products of limbs, and processors
have instructions that multiply 32 pairs of 16-bit integers, or 64 of bytes, and add neighbouring products to running
sums of 32 bits. Against int32 with products in 64 bits (`fixed.py`) that takes two thirds of the instructions per
element of bfloat16, and less of 8-bit floats. The sums are the same integers, so no result tells which loop a block
went through.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, VI16, VL, Emitter, Value

WORDS = ir.VectorType(ir.IntType(16), 32)


def _has(feature: str) -> bool:
    return bool(llvm.get_host_cpu_features().get(feature))


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


def halves(e: Emitter, v: Value, *, signed: bool) -> Value:
    """Neighbouring 32-bit integers added to one of 64 bits."""
    pairs, half = e.b.bitcast(v, VL), e.constant(VL, 32)
    if signed:
        return e.b.add(e.b.ashr(e.b.shl(pairs, half), half), e.b.ashr(pairs, half))
    return e.b.add(e.b.and_(pairs, e.constant(VL, 0xFFFFFFFF)), e.b.lshr(pairs, half))
