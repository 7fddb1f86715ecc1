"""What `compensated` has no room for: operands and pairs that it marks, by the float64 walk with care.

These are few, so one kernel for each two sizes serves all dtypes and cells, and a program looks after all cells of a
strip, one after the other. Had the kernels in float32 this walk each, they would take half as long again to compile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..wanted import Wanted
from . import constants
from .closing import close_pairs, close_self, self_bound, settled
from .dtypes import parts_of, size_of
from .loads import begins_of, columns_of, strip_at
from .single import loaded
from .walk import no_pairs, no_self, vector

__all__ = ["again_kernel"]

THREADS = tl.constexpr(constants.THREADS)
STRIP = tl.constexpr(constants.STRIP)
SLOTS = tl.constexpr(constants.SLOTS)
PAIRS = tl.constexpr(int(Wanted.PAIRS))


@triton.jit
def _any_marked(slots, columns):
    """Whether anything of a strip is."""
    least = tl.zeros([THREADS], tl.float64)
    for first in range(0, columns, THREADS):
        column = first + tl.arange(0, THREADS)
        least = tl.minimum(least, tl.load(slots + column * SLOTS + (SLOTS - 1), mask=column < columns, other=0))
    return tl.min(least, axis=0) < 0


@triton.jit
def _marked(slots, column):
    """The columns of those that are marked, -1 for the others."""
    counts = loaded(slots + tl.maximum(column, 0) * SLOTS + (SLOTS - 1))
    return tl.where(counts < 0, column, -1)


# A compilation takes seconds: one serves all numbers.
@triton.jit(do_not_specialize=["operands", "cell_count", "log2_strips", "columns", "x_dtype", "y_dtype"])
def again_kernel(
    arena, items, cells, slots, operands, cell_count, log2_strips, columns, x_dtype, y_dtype,
    CODE_X: tl.constexpr, CODE_Y: tl.constexpr,
):  # fmt: skip
    """One program per item and strip of its chunk. As for `fused.tile_kernel`, with cells of one x and one y."""
    length, item, strip, slots = strip_at(items, slots, operands, columns, tl.program_id(0), log2_strips, STRIP)
    WIDTH: tl.constexpr = 16 // min(size_of(CODE_X), size_of(CODE_Y))
    STEP: tl.constexpr = THREADS * WIDTH
    PARTS: tl.constexpr = parts_of(CODE_X, CODE_Y)
    if _any_marked(slots, columns):
        for number in range(cell_count):
            cell = cells + number * 5
            x_column, y_column, column = columns_of(cell, 1, 1)
            x_column, y_column = _marked(slots, x_column), _marked(slots, y_column)
            column = _marked(slots, column)
            if tl.maximum(tl.maximum(x_column, y_column), column).item() >= 0:
                x_at, y_at = begins_of(item, cell, strip, 1, 1, CODE_X, CODE_Y, STRIP)
                xs, ys = no_self(1, 1, CODE_X, False), no_self(1, 1, CODE_Y, False)
                pairs = no_pairs(1, 1, False, False)
                for part in range(tl.cdiv(length, STEP) * PARTS):
                    xs, ys, pairs = vector(
                        arena, x_at, y_at, part // PARTS * STEP, part % PARTS, length, x_dtype, y_dtype,
                        xs, ys, pairs, CODE_X, True, CODE_Y, True, True, WIDTH, PARTS, False, False, True,
                    )  # fmt: skip
                close_self(slots, x_column, xs, self_bound(xs, CODE_X), None, False, 1.0)
                close_self(slots, y_column, ys, self_bound(ys, CODE_Y), None, False, 1.0)
                pairs, bound = settled(xs, ys, pairs, CODE_X, CODE_Y, size_of(CODE_X) != size_of(CODE_Y), 1.0)
                close_pairs(slots, column, pairs, xs[1], ys[1], bound, None, False, False, 1.0, PAIRS)
