"""Which sums of a tile are not certain to 1e-12, each by itself: a sum has the same bits whatever else is wanted.

Sums of magnitudes and of squares are right while they stay within the range of float64, maxima and counts always, but
for 64-bit integers that float64 does not hold. Σx and Σxy can cancel: their bounds tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .decoders import Decoder
from .sums import PAIR_SUMS, SELF_SUMS
from .wanted import Wanted

__all__ = ["doubts"]

_CERTIFIED = 5e-13
_TINY, _HUGE = 1e-290, 1e290  # outside, squares of float64 may have under- or overflowed


def doubts(
    decoders: Sequence[Decoder],
    pairs: np.ndarray,
    wanted: Wanted,
    self_sums: np.ndarray,
    pair_sums: np.ndarray,
    total_bounds: np.ndarray,
    dot_bounds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Which wanted sums of finite elements must be taken again.

    Args:
        decoders: those of the N operands.
        pairs: (P, 2).
        wanted: completed; of all other sums nothing is looked at.
        self_sums, pair_sums: (K, N, 6) and (K, P, 5).
        total_bounds, dot_bounds: (K, N) and (K, P), the errors that Σx and Σxy may have.
    Returns:
        (K, N, 6) and (K, P, 5) bool.
    """
    first, second = pairs.T
    selfs, between = np.zeros(self_sums.shape, bool), np.zeros(pair_sums.shape, bool)
    _, sum_abs, total, squares, largest, nonfinite = (self_sums[..., k] for k in range(len(SELF_SUMS)))
    sum_abs_d, squares_d, dot, largest_d, _ = (pair_sums[..., k] for k in range(len(PAIR_SUMS)))
    with np.errstate(invalid="ignore", over="ignore"):
        finite = nonfinite == 0
        both = finite[:, first] & finite[:, second]
        if wanted & Wanted.TOTALS:
            selfs[..., 2] = finite & ~(total_bounds <= _CERTIFIED * np.abs(total))
        if wanted & Wanted.DOT:
            between[..., 2] = both & ~(dot_bounds <= _CERTIFIED * np.abs(dot))
        if all(d.wide == "f32" for d in decoders):
            return selfs, between
        if wanted & Wanted.SQUARES:
            outside = finite & _outside(largest, squares)
            selfs[..., 3] = outside
            selfs[..., 1:3] |= (outside | finite & np.isinf(sum_abs))[..., None]
        if wanted & Wanted.SQ_DIFF:
            between[..., 1] = both & _outside(largest_d, squares_d)
        if wanted & Wanted.DOT:
            between[..., 2] |= both & (between[..., 1] | (np.abs(dot) < _TINY) & (dot_bounds > 0))
            between[..., 2] |= both & (outside[:, first] | outside[:, second])
        if wanted & Wanted.ABS_DIFF:
            between[..., 0] = both & np.isinf(sum_abs_d)
        # 64-bit integers: not one of the numbers is certain.
        beyond = np.array([d.bits > 53 for d in decoders]) & (largest >= 2.0**53)
        selfs |= beyond[..., None]
        between |= (beyond[:, first] | beyond[:, second])[..., None]
    return selfs & wanted.self_columns, between & wanted.pair_columns


def _outside(largest: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Where squares of elements that are not all zero may have left the range of float64."""
    return (largest > 0) & ~((squares >= _TINY) & (squares <= _HUGE))
