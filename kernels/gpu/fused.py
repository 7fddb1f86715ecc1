"""The tile kernel: self sums of A + B operands and pair sums of A x B pairs over a strip, each byte loaded once.

    selfs: Σ|x|, Σx², Σx, max|x|, #nonfinite          pairs: Σ|x-y|, Σ(x-y)², Σxy, max|x-y|, #(x ≠ y)

A program walks one strip (32,768 elements of a chunk, or all of it where Σx, Σx² and Σxy are exact, see
`dtypes.strip_of`) of the operands of one cell: A operands x and B operands y of one dtype each, a pair, a base and four
others, or a square; or the kernel is told at run time which dtypes of their sizes they have. A thread loads 16 bytes of
every operand at a time and owns one lane of every sum; the lanes are added at the end and the strip's sums go to its
own slots. Shapes: operands are [A, 1, THREADS] and [1, B, THREADS], pairs [A, B, THREADS]. Accumulators are float64,
one a lane, and a lane's sum is over 256 elements in the order of memory: its rounding error is below 256 units of
2**-53, and a pair's or an operand's sums are the same bits whatever else the cell holds. A multiplication is fused with
an addition where `fma` stands and nowhere else: the launcher switches contraction off.

The strip is walked fast, and once more with care if anything is in doubt after that; the second-level cache still has
it then. Where the GPU can, F8_E4M3 beside itself is walked as `packed` says, and F8_E5M2 if the first step's magnitudes
have room there. If all have, nothing is in doubt, and the strip is closed at once; if a later one's have not, or the
end of the strip is a piece of a step, it is walked as the others.

The walk with care carries the rounding errors of Σx and Σxy along (two-sums), counts what is not finite, and takes
every maximum in float64. The end of a strip, where loads have masks, is always walked so. In doubt are

- a Σx that may cancel: unless a lane's Σ|x| has no bits below those of its smallest element, an integer minimum. Then
  the lane is exact. Of weights, one strip of float32 in 100 is in doubt, none of float16 and 8-bit floats (`dtypes`).
- a Σxy of bfloat16 or 8-bit values, unless for the like reason it is exact, or it is so far from cancelling that plain
  sums are good (`closing.positive`), as of checkpoints that have to do with each other: of bfloat16 drawn from a normal
  distribution, 25 strips of 100 would be walked again otherwise beside what is a thousandth away, and 70 beside what is
  equal; of strangers 7 are. Wider products carry two-sums all the time.
- a maximum that may have been rounded: |x-y| of bfloat16 and 8-bit values is fast in float32, or in the upper half of
  float64.
- whatever is not finite; the fast way to read F8_E4M3 takes NaN for 480, which is no value of it.

Where a lane is exact, two-sums add nothing, and where it is far from cancelling the walk with care has the plain sum as
well; so the same bits come out of both walks. Of narrow dtypes (F8_E4M3 and I8) no self sum of a strip rounds and no
Σxy, and Σ(x-y)² is Σx² + Σy² - 2 Σxy, rounded once if at all: two instructions in float64 less.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import constants
from .closing import (
    DOT,
    close_pairs,
    close_self,
    ends,
    exact_dots,
    exact_self,
    of_strip,
    positive,
    self_bound,
    settled,
)
from .dtypes import (
    always_fixed,
    bits_in,
    derives_squares,
    differences_up_to,
    exact_differences,
    exact_strip,
    fixed_point,
    halves_in,
    largest_fast,
    parts_of,
    plain_products,
    scale_of,
    size_of,
    upper_differences,
)
from .exact import bits_of
from .loads import columns_of, place
from .packed import fitted, may_fit, packed_walk
from .walk import no_pairs, no_self, single_pairs, single_self, vector

__all__ = ["tile_kernel"]

THREADS = tl.constexpr(constants.THREADS)
LANE = tl.constexpr(constants.LANE)


@triton.jit
def _exact_dots_by_squares(
    xs, ys, CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr
):
    """The same, found more often: |Σxy| is at most the root of Σx² Σy² (Cauchy and Schwarz), where those are taken."""
    BITS: tl.constexpr = bits_in(CODE_X) + bits_in(CODE_Y)
    x_largest, x_smallest = ends(xs)
    y_largest, y_smallest = ends(ys)
    x_squares = xs[1] if SELF_X else LANE * x_largest * x_largest
    y_squares = ys[1] if SELF_Y else LANE * y_largest * y_largest
    unit = x_smallest * y_smallest * 2.0 ** (53 - BITS)
    return ~(1.001 * x_squares * y_squares > unit * unit)


@triton.jit
def _in_doubt(
    xs, ys, pairs, ended,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    SCALED: tl.constexpr, MIXED: tl.constexpr, PACKED: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """Whether a fast walk must be made again, for any of the reasons above.

    Args:
        ended: whether that was all of the strip.
        SCALED: sums are in the units of the dtypes.
        MIXED: the lanes of pairs are not those of both operands.
    """
    x_largest, x_smallest = ends(xs)
    sound = x_largest <= largest_fast(CODE_X, SCALED)  # [A, 1, THREADS], False for NaN
    if SELF_X and bits_in(CODE_X) <= 24:
        sound &= exact_self(xs, CODE_X)
    if PAIRS:
        y_largest, y_smallest = ends(ys)
        y_sound = y_largest <= largest_fast(CODE_Y, SCALED)
        if SELF_Y and bits_in(CODE_Y) <= 24:
            y_sound &= exact_self(ys, CODE_Y)
        sound = sound & y_sound  # [A, B, THREADS]
        if plain_products(CODE_X, CODE_Y) and DOT & WANTED:
            if MIXED:
                good = exact_dots(of_strip(xs), of_strip(ys), CODE_X, CODE_Y)
            else:
                good = _exact_dots_by_squares(xs, ys, CODE_X, SELF_X, CODE_Y, SELF_Y)
            sound &= good | (positive(pairs[1], pairs[2]) & ended)  # what is behind might turn it
        largest = pairs[4]
        if largest.dtype == tl.float32 and not exact_differences(CODE_X, CODE_Y):
            # Rounding keeps the order, so only the lanes with the largest matter.
            if MIXED:
                x_smallest, y_smallest = ends(of_strip(xs))[1], ends(of_strip(ys))[1]
            EXACT_UP_TO: tl.constexpr = differences_up_to(CODE_X, CODE_Y, PACKED)
            wide = largest.to(tl.float64)
            least = tl.minimum(x_smallest, y_smallest)
            most = tl.max(bits_of(wide), axis=2, keep_dims=True)
            sound &= (bits_of(wide) != most) | (wide <= EXACT_UP_TO * least)
    return tl.min(tl.ravel(sound.to(tl.int32)), axis=0) == 0


@triton.jit
def _walk(
    arena, x_at, y_at, steps, length, x_dtype, y_dtype,
    A: tl.constexpr, B: tl.constexpr,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    WIDTH: tl.constexpr, STAGES: tl.constexpr, UNROLL: tl.constexpr, SCALED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """The sums of so many steps, fast: by `walk`, or by `packed` where that has room for all there is."""
    if PACKED and fixed_point(CODE_X, CODE_Y) and always_fixed(CODE_X):
        return packed_walk(arena, x_at, y_at, steps, A, B, CODE_X, SELF_X, SELF_Y, PAIRS, STAGES, UNROLL)
    HALVES_X: tl.constexpr = halves_in(CODE_X) if PACKED else ""
    HALVES_Y: tl.constexpr = halves_in(CODE_Y) if PACKED else ""
    BESIDE: tl.constexpr = HALVES_X != "" and HALVES_X == HALVES_Y and size_of(CODE_X) == size_of(CODE_Y)
    SHORT: tl.constexpr = bits_in(CODE_X) + bits_in(CODE_Y) <= 16
    xs, ys = no_self(A, 1, CODE_X, HALVES_X != ""), no_self(1, B, CODE_Y, HALVES_Y != "")
    pairs = no_pairs(A, B, SHORT, BESIDE)
    for step in tl.range(0, steps, num_stages=STAGES, loop_unroll_factor=UNROLL):
        xs, ys, pairs = vector(
            arena, x_at, y_at, step * (THREADS * WIDTH), 0, length, x_dtype, y_dtype, xs, ys, pairs,
            CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH, 1, SCALED, PACKED, False,
        )  # fmt: skip
    pairs = single_pairs(pairs, HALVES_X, upper_differences(CODE_X, CODE_Y, PACKED))
    return single_self(xs, HALVES_X), single_self(ys, HALVES_Y), pairs


@triton.jit
def _close(
    slots, cell, xs, ys, pairs,
    A: tl.constexpr, B: tl.constexpr,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    SCALED: tl.constexpr, FITTED: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """The sums of a strip stored. FITTED: `packed` had room for all of it, so no Σxy of a lane rounds."""
    SCALE: tl.constexpr = scale_of(CODE_X) if SCALED else 1.0
    x_column, y_column, column = columns_of(cell, A, B)
    if SELF_X:
        close_self(slots, x_column, xs, self_bound(xs, CODE_X), None, exact_strip(CODE_X, None), SCALE)
    if SELF_Y:
        close_self(slots, y_column, ys, self_bound(ys, CODE_Y), None, exact_strip(CODE_Y, None), SCALE)
    if PAIRS:
        if FITTED:
            sums, bound = pairs[:6], tl.zeros(column.shape, tl.float64)
        else:
            sums, bound = settled(xs, ys, pairs, CODE_X, CODE_Y, size_of(CODE_X) != size_of(CODE_Y), SCALE)
        close_pairs(
            slots, column, sums, xs[1], ys[1], bound, None,
            exact_strip(CODE_X, CODE_Y), derives_squares(CODE_X, CODE_Y), SCALE, WANTED,
        )  # fmt: skip


@triton.jit
def _as_with_care(pairs, CODE_X: tl.constexpr, CODE_Y: tl.constexpr):
    """Pair sums of a fast walk as the walk with care has them: the maximum as bits of a float64, and a plain Σxy."""
    sum_abs, squares, dot, low, largest, differing, plain = pairs
    if largest.dtype == tl.float32:
        if plain_products(CODE_X, CODE_Y):
            plain = dot
        return sum_abs, squares, dot, low, bits_of(largest.to(tl.float64)), differing, plain
    else:
        return pairs


@triton.jit
def _walk_and_close(
    arena, x_at, y_at, length, slots, cell, x_dtype, y_dtype,
    A: tl.constexpr, B: tl.constexpr,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    STAGES: tl.constexpr, UNROLL: tl.constexpr, SCALED: tl.constexpr, PACKED: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """The strip walked fast, its end with care, or all of it where something is in doubt; and its sums stored."""
    WIDTH: tl.constexpr = 16 // min(size_of(CODE_X), size_of(CODE_Y))
    STEP: tl.constexpr = THREADS * WIDTH
    whole = length // STEP
    xs, ys, pairs = _walk(
        arena, x_at, y_at, whole, length, x_dtype, y_dtype,
        A, B, CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH, STAGES, UNROLL, SCALED, PACKED,
    )  # fmt: skip
    again = _in_doubt(
        xs, ys, pairs, whole * STEP == length, CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, SCALED,
        size_of(CODE_X) != size_of(CODE_Y), PACKED, WANTED,
    )  # fmt: skip
    pairs = _as_with_care(pairs, CODE_X, CODE_Y)
    if again:
        xs, ys, pairs = no_self(A, 1, CODE_X, False), no_self(1, B, CODE_Y, False), no_pairs(A, B, False, False)
        whole = 0
    PARTS: tl.constexpr = parts_of(CODE_X, CODE_Y)  # few elements at a time: more would take the registers
    for part in range(whole * PARTS, tl.cdiv(length, STEP) * PARTS):
        xs, ys, pairs = vector(
            arena, x_at, y_at, part // PARTS * STEP, part % PARTS, length, x_dtype, y_dtype, xs, ys, pairs,
            CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, WIDTH, PARTS, SCALED, False, True,
        )  # fmt: skip
    _close(slots, cell, xs, ys, pairs, A, B, CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, SCALED, False, WANTED)


# A compilation takes seconds: one serves all numbers.
@triton.jit(do_not_specialize=["operands", "cell_count", "log2_strips", "columns", "x_dtype", "y_dtype"])
def tile_kernel(
    arena,  # int32: the bytes of all operands
    items,  # (items, 2 + N) int64: slot, elements, then where each operand begins, in 16 bytes from the arena's start
    cells,  # (cells, 2 * (A + B) + A * B) int64: operands, their columns of slots or -1, the pairs' columns or -1
    slots,  # (strips, columns, SLOTS) float64
    operands,
    cell_count,
    log2_strips,
    columns,
    x_dtype,  # `Decoder.index` of both, for where CODE says no more than a size
    y_dtype,
    A: tl.constexpr, B: tl.constexpr,
    CODE_X: tl.constexpr, SELF_X: tl.constexpr, CODE_Y: tl.constexpr, SELF_Y: tl.constexpr, PAIRS: tl.constexpr,
    STAGES: tl.constexpr, UNROLL: tl.constexpr, PACKED: tl.constexpr, WANTED: tl.constexpr,
):  # fmt: skip
    """One program per (item, strip of its chunk, cell), the cells of a strip side by side: they share what L2 holds.

    2**log2_strips: at least as many as the longest item has; those behind the end are walked as strips of nothing.
    PACKED: the GPU has the instructions of `halves`, for `packed` and what `walk` says.
    WANTED: the sums of pairs that are taken, see `kernels.wanted`.
    """
    length, x_at, y_at, slots, cell = place(
        items, cells, slots, operands, cell_count, log2_strips, columns, A, B, CODE_X, CODE_Y
    )
    SCALED: tl.constexpr = CODE_X == CODE_Y and not (PACKED and always_fixed(CODE_X))
    if PACKED and fixed_point(CODE_X, CODE_Y) and not always_fixed(CODE_X):
        STEP: tl.constexpr = THREADS * (16 // size_of(CODE_X))
        steps = length // STEP
        fits = False
        if steps > 0 and steps * STEP == length:
            fits = may_fit(arena, x_at, CODE_X)
            if PAIRS:
                fits &= may_fit(arena, y_at, CODE_Y)
        xs, ys, pairs = packed_walk(
            arena, x_at, y_at, tl.where(fits, steps, 0), A, B, CODE_X, SELF_X, SELF_Y, PAIRS, STAGES, UNROLL
        )  # fmt: skip
        if fits and fitted(xs, CODE_X) and fitted(ys, CODE_Y):
            _close(
                slots, cell, xs, ys, _as_with_care(pairs, CODE_X, CODE_Y),
                A, B, CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, SCALED, True, WANTED,
            )  # fmt: skip
        else:
            _walk_and_close(
                arena, x_at, y_at, length, slots, cell, x_dtype, y_dtype,
                A, B, CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, STAGES, 1, SCALED, PACKED, WANTED,
            )  # fmt: skip
    else:
        _walk_and_close(
            arena, x_at, y_at, length, slots, cell, x_dtype, y_dtype,
            A, B, CODE_X, SELF_X, CODE_Y, SELF_Y, PAIRS, STAGES, UNROLL, SCALED, PACKED, WANTED,
        )  # fmt: skip
