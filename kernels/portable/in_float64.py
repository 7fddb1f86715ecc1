"""Sums of rows of float64.

Sums are taken by halving: the second half of a row is added to the first until one number is left. That is elementwise
arithmetic only, so it gives the same bits on every device, whatever the number of rows, and its rounding error grows
with log2 of the length (16 units for a chunk). Zeros behind a row do not change it. Σx and Σxy carry their rounding
errors along (two-sum; Knuth, The Art of Computer Programming 2, 4.2.2, theorem B), and products of wide numbers theirs
(Dekker, Numerische Mathematik 18, 1971). Where all terms are multiples of a unit that the errors do not go below, the
result is exact and its bound zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..decoders import Decoder
from ..layout import PAIR_SLOTS, SELF_SLOTS
from ..wanted import Wanted
from . import decode
from .exact import product_error, two_sum_error

if TYPE_CHECKING:
    import torch

__all__ = [
    "DTYPE",
    "Operand",
    "PAIR_NUMBERS",
    "SELF_NUMBERS",
    "operand",
    "pair_slots",
    "pair_sums",
    "self_slots",
    "table",
]

DTYPE = "float64"
SELF_NUMBERS, PAIR_NUMBERS = SELF_SLOTS, PAIR_SLOTS
"""What the device keeps of a chunk of an operand and of a pair: the slots themselves."""

_COMPENSATED = 2e-27  # error of a compensated sum of a chunk, in units of the sum of its terms' magnitudes
_TINIEST = 5e-324  # least bound of a sum of products that are not all zero: its own product may underflow


class Operand(NamedTuple):
    """Rows of one operand.

    Attributes:
        values: (rows, width) float64.
        smallest: (rows,) the smallest magnitude above zero, else infinity.
        bits: significant bits of a value.
    """

    values: torch.Tensor
    smallest: torch.Tensor
    bits: int


def table(code: str) -> torch.Tensor | None:
    """What `operand` looks up of a dtype, in the memory of the host; None: nothing."""
    import torch

    return decode.table_of(code, torch.float64) if code.startswith("F8") else None


def operand(
    raw: torch.Tensor, decoder: Decoder, table: torch.Tensor | None, inside: torch.Tensor | None, wanted: Wanted
) -> tuple[Operand, torch.Tensor]:
    """Rows decoded, and their (rows, SELF_NUMBERS) sums.

    Args:
        raw: (rows, width * itemsize) uint8.
        decoder: of their dtype.
        table: as `table` makes it, on the device.
        inside: (rows, width) bool, which elements there are; None: all.
        wanted: what is not wanted is 0.
    """
    import torch

    x = decode.in_float64(raw, decoder, table)
    if inside is not None:  # of what lies behind the end, not every dtype reads a zero as zero
        x = torch.where(inside, x, 0.0)
    size = x.abs()
    smallest = torch.where(size > 0, size, torch.inf).amin(dim=1)
    sum_abs = high = low = bound = squares = torch.zeros_like(smallest)
    if wanted & Wanted.TOTALS:
        sum_abs = _halved(size)
        high, low = _compensated(x, None)
        # All elements are multiples of q = smallest * 2**(1 - bits). The errors of 16 halvings are at most 16 units of
        # 2**-53 of Σ|x|: while that is below 2**52 q they are added without loss.
        exact = sum_abs <= smallest * 2.0 ** (100 - decoder.bits)
        bound = torch.where(exact | ~sum_abs.isfinite(), 0.0, _COMPENSATED * sum_abs)
    if wanted & Wanted.SQUARES:
        squares = _halved(x * x)
    nonfinite = (~x.isfinite()).sum(dim=1).to(torch.float64)
    sums = torch.stack([sum_abs, high, low, bound, squares, size.amax(dim=1), nonfinite], dim=1)
    return Operand(x, smallest, decoder.bits), sums


def pair_sums(of_x: Operand, of_y: Operand, wanted: Wanted) -> torch.Tensor:
    """(rows, PAIR_NUMBERS) of two operands; what is not wanted is 0."""
    import torch

    x, y, bits, smallest = of_x.values, of_y.values, of_x.bits + of_y.bits, of_x.smallest * of_y.smallest
    sum_abs = squares = dot = rest = bound = largest = differing = torch.zeros_like(smallest)
    if wanted & (Wanted.ABS_DIFF | Wanted.SQ_DIFF | Wanted.MAX_DIFF):
        d = x - y
        size = d.abs()
        sum_abs = _halved(size) if wanted & Wanted.ABS_DIFF else sum_abs
        squares = _halved(d * d) if wanted & Wanted.SQ_DIFF else squares
        largest = size.amax(dim=1) if wanted & Wanted.MAX_DIFF else largest
    if wanted & Wanted.DOT:
        product = x * y
        low = None if bits <= 53 else product_error(x, y, product)
        dot, rest = _compensated(product, low)
        terms = _halved(product.abs())
        bound = _COMPENSATED * terms + terms.clamp(max=_TINIEST)
        if bits <= 53:  # products are exact, and multiples of smallest * 2**(2 - bits)
            bound = torch.where(terms <= smallest * 2.0 ** (101 - bits), 0.0, bound)
        bound = torch.where(terms.isfinite(), bound, 0.0)
    if wanted & Wanted.DIFFERING:
        differing = (x != y).sum(dim=1).to(torch.float64)
    return torch.stack([sum_abs, squares, dot, rest, bound, largest, differing], dim=1)


def self_slots(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The slots of chunks from what the device kept of them, and which of them the processor is to fill: none."""
    return numbers, None


def pair_slots(numbers: np.ndarray) -> np.ndarray:
    """The slots of pairs likewise."""
    return numbers


def _halved(terms: torch.Tensor) -> torch.Tensor:
    """(rows,) sums of (rows, width); the width is a power of two."""
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        terms = terms[:, :half] + terms[:, half:]
    return terms[:, 0] + 0.0  # not -0.0, which would tell whether the row was padded


def _compensated(high: torch.Tensor, low: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows,) sums of high + low as rounded sum and what it lacks; what it lacks is 0 where the sum is not finite."""
    import torch

    while high.shape[1] > 1:
        half = high.shape[1] // 2
        a, b = high[:, :half], high[:, half:]
        high = a + b
        error = two_sum_error(a, b, high)
        low = error if low is None else error + (low[:, :half] + low[:, half:])
    total = high[:, 0] + 0.0
    rest = torch.zeros_like(total) if low is None else low[:, 0]
    return total, torch.where(total.isfinite(), rest, 0.0)
