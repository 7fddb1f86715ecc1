"""Two numbers of 16 bits in a 32-bit word: what a GPU computes of both in one instruction, and sums by tensor cores.

Words are int32 tensors. Triton itself packs nothing into them, so these are lines of PTX, for compute capability 9.0
and more. Its interpreter has none: the walks do without them there (`available.packs_halves`), and tests bring their
own (`support.ptx`). Source: NVIDIA, Parallel Thread Execution ISA, "Half Precision Floating-Point Instructions", "cvt",
"min", "max", and "Matrix Fragments for mma.m16n8k16 with floating point type".
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "added_up",
    "count_differing",
    "differ",
    "halves_of",
    "larger",
    "larger_magnitude",
    "largest_half",
    "magnitude_ends",
    "magnitudes",
    "offset_of",
    "pattern",
    "wide",
]


@triton.constexpr_function
def _pin(log2_unit: int) -> float:
    """The middle of the float32 whose last bit is a unit."""
    return 1.5 * 2.0 ** (23 + log2_unit)


@triton.constexpr_function
def offset_of(log2_unit: int) -> int:
    """What `added_up` adds besides: the bits of that float32 four times, modulo 2**32."""
    return 4 * ((127 + 23 + log2_unit) << 23 | 1 << 22) % (1 << 32)


@triton.jit
def halves_of(word, CODE: tl.constexpr):
    """The four F8_E4M3 or F8_E5M2 of a word as two words of float16, which holds them, infinities and NaN."""
    if CODE == "F8_E4M3":
        return tl.inline_asm_elementwise(
            "{ .reg .b16 lower, upper; mov.b32 {lower, upper}, $2;"
            " cvt.rn.f16x2.e4m3x2 $0, lower; cvt.rn.f16x2.e4m3x2 $1, upper; }",
            "=r,=r,r", [word], dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
        )  # fmt: skip
    else:  # the upper bytes of float16
        return tl.inline_asm_elementwise(
            "prmt.b32 $0, $2, 0, 0x1404; prmt.b32 $1, $2, 0, 0x3424;",
            "=&r,=r,r", [word], dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
        )  # fmt: skip


@triton.jit
def wide(word, UPPER: tl.constexpr):
    """One of two float16 as float64."""
    HALF: tl.constexpr = "upper" if UPPER else "lower"
    return tl.inline_asm_elementwise(
        "{ .reg .b16 lower, upper; mov.b32 {lower, upper}, $1; cvt.f64.f16 $0, " + HALF + "; }",
        "=d,r", [word], dtype=tl.float64, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def magnitudes(word):
    """Two float16 without their signs; by the pipe of float16, as that of integers is slower and has more to do."""
    return tl.inline_asm_elementwise("abs.f16x2 $0, $1;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def largest_half(largest, first, second):
    """The largest of three float16, of both halves; NaN wins."""
    return tl.inline_asm_elementwise(
        "{ .reg .b32 most; max.NaN.f16x2 most, $1, $2; max.NaN.f16x2 $0, most, $3; }",
        "=r,r,r,r", [largest, first, second], dtype=tl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def larger(x, y):
    """The larger of two float16, of both halves."""
    return tl.inline_asm_elementwise("max.f16x2 $0, $1, $2;", "=r,r,r", [x, y], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def larger_magnitude(largest, x):
    """The larger of a float32 and the magnitude of another; one instruction, of which Triton 3.6 makes two."""
    return tl.inline_asm_elementwise(
        "{ .reg .f32 size; abs.f32 size, $2; max.f32 $0, $1, size; }",
        "=f,f,f", [largest, x], dtype=tl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def differ(x, y):
    """1 where two float16 differ and 0 elsewhere, in float16, of both halves."""
    return tl.inline_asm_elementwise(
        "set.neu.f16x2.f16x2 $0, $1, $2;", "=r,r,r", [x, y], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def count_differing(count, x, y, KIND: tl.constexpr):
    """Counts of both halves with 1 added where two numbers of KIND differ; of that KIND themselves, exact up to 256."""
    return tl.inline_asm_elementwise(
        "{ .reg .b32 one; set.neu." + KIND + "x2." + KIND + "x2 one, $2, $3; add.rn." + KIND + "x2 $0, $1, one; }",
        "=r,r,r,r", [count, x, y], dtype=tl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def magnitude_ends(largest, smallest, word):
    """Largest magnitude of bfloat16 or float16, of both halves, and the smallest less 1; as integers without a sign.

    So NaN is above all others, and zero, less 1, too.
    """
    return tl.inline_asm_elementwise(
        "{ .reg .b32 size, less; and.b32 size, $4, 0x7fff7fff; max.u16x2 $0, $2, size;"
        " mov.b32 less, 0xffffffff; add.u16x2 less, size, less; min.u16x2 $1, $3, less; }",
        "=&r,=r,r,r,r", [largest, smallest, word], dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def pattern(SHAPE: tl.constexpr):
    """What `added_up` multiplies with: float16 (16, 8) of zeros, with a one in each row and two in each column.

    Thread 4 n + t of a warp holds of column n the rows 2 t and 2 t + 1 in the first word, 2 t + 8 and 2 t + 9 in the
    second. So the first words are ones where n = t, and the second ones where n = t + 4.
    """
    return tl.inline_asm_elementwise(
        "{ .reg .b32 lane, column, row; .reg .pred here; mov.u32 lane, %laneid;"
        " shr.u32 column, lane, 2; and.b32 row, lane, 3;"
        " setp.eq.u32 here, column, row; selp.b32 $0, 0x3c003c00, $2, here; add.u32 row, row, 4;"
        " setp.eq.u32 here, column, row; selp.b32 $1, 0x3c003c00, $2, here; }",
        "=&r,=r,r", [tl.zeros(SHAPE, tl.int32)], dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _multiplied(c, w0, w1, w2, w3, ones):
    """c + words @ ones: four float32 a thread of (16, 8), four words of (16, 16) float16."""
    return tl.inline_asm_elementwise(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
        " {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
        "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", [w0, w1, w2, w3, ones[0], ones[1], c[0], c[1], c[2], c[3]],
        dtype=(tl.float32, tl.float32, tl.float32, tl.float32), is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def added_up(total, words, ones, LOG2_UNIT: tl.constexpr):
    """An int32 sum in units of 2**LOG2_UNIT, with eight words of float16 that are multiples of it, and `offset_of` it.

    That holds of all threads of a warp together; which of them gets what is not said. So what a warp's threads hold at
    a time must be of one sum, which it is where threads lie along the last axis.

    Each float32 of the product takes up four values, two of a multiplication. Of 2**20 units at most that is exact
    beside a pin, in whatever order it is added, and the bits of the float32 count units.

    Args:
        ones: `pattern` of the sum's shape.
    """
    pin = tl.full(total.shape, _pin(LOG2_UNIT), tl.float32)
    c = _multiplied((pin, pin, pin, pin), words[0], words[1], words[2], words[3], ones)
    c = _multiplied(c, words[4], words[5], words[6], words[7], ones)
    for k in tl.static_range(4):
        total += c[k].to(tl.int32, bitcast=True)
    return total
