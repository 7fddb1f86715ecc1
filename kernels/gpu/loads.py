"""Where a program's strip lies, and 16 bytes of every operand at a time from there: as words, and as elements.

A thread loads 16 bytes of every operand at a time. Operands x are [A, 1, THREADS] and y are [1, B, THREADS] from the
load on, so nothing has to be given another shape for a pair. Below, R and C are these A and 1, or 1 and B. Where a GPU
computes with two halves of a word, F8_E4M3 and F8_E5M2 are decoded to float16, two at a time (`in_halves`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .decode import element, elements, half
from .dtypes import is_any, scale_of, size_of, strip_of
from .halves import halves_of
from .single import loaded

__all__ = [
    "begin_of",
    "begins_of",
    "beside",
    "block_of",
    "blocks_of",
    "columns_of",
    "in_halves",
    "left_of",
    "place",
    "strip_at",
    "turned",
    "unpacked",
    "value",
    "words",
]

THREADS = tl.constexpr(constants.THREADS)
STRIPS = tl.constexpr(constants.STRIPS)
SLOTS = tl.constexpr(constants.SLOTS)


@triton.jit
def place(
    items, cells, slots, operands, cell_count, log2_strips, columns,
    A: tl.constexpr, B: tl.constexpr, CODE_X: tl.constexpr, CODE_Y: tl.constexpr,
):  # fmt: skip
    """Where this program's strip lies.

    Returns:
        elements of the strip; the words at which it begins in each, [A, 1] and [1, B] int64; its slots; its cell.
    """
    program = tl.program_id(0)
    cell = cells + (program % cell_count) * (2 * (A + B) + A * B)
    STRIP: tl.constexpr = strip_of(CODE_X, CODE_Y)
    length, item, strip, slots = strip_at(items, slots, operands, columns, program // cell_count, log2_strips, STRIP)
    x_at, y_at = begins_of(item, cell, strip, A, B, CODE_X, CODE_Y, STRIP)
    return length, x_at, y_at, slots, cell


@triton.jit
def strip_at(items, slots, operands, columns, program, log2_strips, STRIP: tl.constexpr):
    """The elements of a strip; its item; which of it, it is; its slots."""
    strip = program & ((1 << log2_strips) - 1)
    item = items + (program >> log2_strips).to(tl.int64) * (2 + operands)
    length = tl.maximum(tl.minimum(tl.load(item + 1) - strip * STRIP, STRIP), 0).to(tl.int32)
    return length, item, strip, slots + (tl.load(item) * STRIPS + strip) * columns * SLOTS


@triton.jit
def begins_of(
    item, cell, strip,
    A: tl.constexpr, B: tl.constexpr, CODE_X: tl.constexpr, CODE_Y: tl.constexpr, STRIP: tl.constexpr,
):  # fmt: skip
    """The words at which a strip begins in the operands of a cell, [A, 1] and [1, B] int64."""
    a, b = tl.arange(0, A), tl.arange(0, B)
    x_at = loaded(item + 2 + loaded(cell + a)) * 4 + strip * (STRIP * size_of(CODE_X) // 4)
    y_at = loaded(item + 2 + loaded(cell + A + b)) * 4 + strip * (STRIP * size_of(CODE_Y) // 4)
    return x_at[:, None], y_at[None, :]


@triton.jit
def columns_of(cell, A: tl.constexpr, B: tl.constexpr):
    """The columns of slots for the sums of the operands, [A, 1] and [1, B], and of the pairs, [A, B]."""
    a, b = tl.arange(0, A), tl.arange(0, B)
    return (
        loaded(cell + A + B + a)[:, None],
        loaded(cell + 2 * A + B + b)[None, :],
        loaded(cell + 2 * (A + B) + a[:, None] * B + b[None, :]),
    )


@triton.jit
def begin_of(start, part, k, OWN: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """The element of the strip with which the first thread begins a load of OWN elements; the next one OWN behind it.

    A step is THREADS * WIDTH elements: of a dtype of which a load brings WIDTH one load, of a wider one several, one
    behind the other. So a lane holds the same elements whatever its operand is paired with.

    Args:
        start: the element with which the step begins.
        part: which of PARTS of the elements of each thread this is.
        k: the element of the part.
    """
    first = part * (WIDTH // PARTS) + k
    return start + first // OWN * (THREADS * OWN) + first % OWN


@triton.jit
def block_of(arena, at, begin, length, OWN: tl.constexpr, ITEMSIZE: tl.constexpr, MASKED: tl.constexpr):
    """int32 [R, C, THREADS * 4]: 16 bytes a thread of each operand, from element `begin` of the strip on, OWN apart.

    Words are one axis, along which the threads of a warp come to lie. Had they a fourth one of their own, Triton 3.6
    would give each of four operands eight threads of a warp: operands would go through shared memory to their pairs,
    and `halves.added_up` would add up what is not of one sum.

    MASKED: those behind the end are 0, and a load need not begin a word if what is wanted ends with it.
    """
    number = tl.arange(0, THREADS * 4)
    first = begin + number // 4 * OWN
    word = first * ITEMSIZE // 4 + number % 4
    places = arena + (at[:, :, None] + word[None, None, :])
    if MASKED:  # an operand's last word may hold bytes behind its end, which belong to the arena
        block = tl.load(places, mask=word[None, None, :] < (length * ITEMSIZE + 3) // 4, other=0)
        if ITEMSIZE < 4:
            block >>= (first * ITEMSIZE % 4 * 8)[None, None, :]
        return block
    else:
        return tl.load(places)


@triton.jit
def blocks_of(arena, at, start, length, RUNS: tl.constexpr, ITEMSIZE: tl.constexpr, MASKED: tl.constexpr):
    """A tuple of the RUNS blocks of a step, by one load of the tensor, as one takes less time to compile than several.

    MASKED: 16 bytes that begin behind the end are 0, and the last ones may bring what is behind it, of the arena.
    """
    if RUNS == 1 and not MASKED:
        return (block_of(arena, at, start, length, 16 // ITEMSIZE, ITEMSIZE, False),)  # a few instructions less
    else:
        number = tl.arange(0, RUNS * THREADS * 4)
        word = start * ITEMSIZE // 4 + number
        places = arena + (at[:, :, None] + word[None, None, :])
        if MASKED:
            first = start + number // 4 * (16 // ITEMSIZE)
            return _cut(tl.load(places, mask=first[None, None, :] < length, other=0), RUNS)
        else:
            return _cut(tl.load(places), RUNS)


@triton.jit
def _cut(block, RUNS: tl.constexpr):
    if RUNS == 1:
        return (block,)
    else:
        R: tl.constexpr = block.shape[0]
        C: tl.constexpr = block.shape[1]
        first, second = tl.split(tl.permute(tl.reshape(block, R, C, 2, RUNS // 2 * THREADS * 4), 0, 1, 3, 2))
        return _cut(first, RUNS // 2) + _cut(second, RUNS // 2)


@triton.jit
def left_of(begin, length, OWN: tl.constexpr):
    """[1, 1, THREADS] int32: elements from the first of each thread's load to the end of the strip."""
    left = length - begin - tl.arange(0, THREADS) * OWN
    return left[None, None, :]


@triton.jit
def words(block):
    """A block as four int32 [R, C, THREADS]."""
    even, odd = tl.split(tl.reshape(block, block.shape[0], block.shape[1], THREADS, 2, 2))
    w0, w2 = tl.split(even)
    w1, w3 = tl.split(odd)
    return w0, w1, w2, w3


@triton.jit
def turned(block, RATIO: tl.constexpr):
    """A block of a step as the threads want it that have loaded an operand RATIO times as wide.

    Those loads bring one run of elements after the other, so each thread wants 1 / RATIO of 16 bytes of each of RATIO
    runs. It goes through shared memory.
    """
    R: tl.constexpr = block.shape[0]
    C: tl.constexpr = block.shape[1]
    if RATIO <= 4:
        runs = tl.permute(tl.reshape(block, R, C, RATIO, THREADS, 4 // RATIO), 0, 1, 3, 2, 4)
        return tl.reshape(runs, R, C, THREADS * 4)
    else:  # two bytes of eight runs
        runs = tl.reshape(tl.join(block & 0xFFFF, block >> 16), R, C, RATIO, THREADS)
        low, high = tl.split(tl.reshape(tl.permute(runs, 0, 1, 3, 2), R, C, THREADS * 4, 2))
        return (low & 0xFFFF) | (high << 16)


@triton.jit
def beside(
    arena, at, block, begin, length,
    OWN: tl.constexpr, CODE: tl.constexpr, RATIO: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The block of a narrow operand beside that of a wide one, which has OWN elements in a load.

    It is what is in the block that is loaded; MASKED, it is loaded anew.
    """
    if MASKED:
        return block_of(arena, at, begin, length, OWN, size_of(CODE), True)
    else:
        return turned(block, RATIO)


@triton.jit
def value(
    words, begin, length,
    OWN: tl.constexpr, K: tl.constexpr, CODE: tl.constexpr,
    SCALED: tl.constexpr, MASKED: tl.constexpr, CAREFUL: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """Element K of 16 bytes as working type [R, C, THREADS], in units of `scale_of` the dtype where SCALED.

    begin, OWN: as for `block_of`. MASKED: elements behind the end are 0. CAREFUL: NaN of F8_E4M3 is read as NaN.
    HALVES: words are `in_halves`. Of a dtype that is told at run time words are `unpacked`.
    """
    if HALVES == "f16":
        return half(words[K // 2], 2 * (K % 2))
    x = words[K] if is_any(CODE) else element(words[0], words[1], words[2], words[3], K, CODE, size_of(CODE), CAREFUL)
    if not CAREFUL and not SCALED and scale_of(CODE) != 1.0:
        x *= scale_of(CODE)
    if MASKED:
        first = begin + tl.arange(0, THREADS) * OWN
        x = tl.where((first + K < length)[None, None, :], x, 0.0)
    if CAREFUL and SCALED:
        x *= 1.0 / scale_of(CODE)
    return x


@triton.jit
def in_halves(words, CODE: tl.constexpr, HALVES: tl.constexpr):
    """Four words as words of two numbers of 16 bits where HALVES says so: of 8-bit floats eight."""
    if HALVES == "f16" and size_of(CODE) == 1:
        return (
            halves_of(words[0], CODE)
            + halves_of(words[1], CODE)
            + halves_of(words[2], CODE)
            + halves_of(words[3], CODE)
        )
    else:
        return words


@triton.jit
def unpacked(block, dtype, CODE: tl.constexpr, HALVES: tl.constexpr):
    """16 bytes of each operand as `value` wants them: words, `in_halves`, or decoded of a dtype told at run time."""
    if is_any(CODE):
        return elements(block, dtype, size_of(CODE))
    else:
        return in_halves(words(block), CODE, HALVES)
