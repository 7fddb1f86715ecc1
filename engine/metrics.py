"""Sums -> what people read. Pure arithmetic on arrays of any leading shape.

With x the other, y the base, d = x - y, n elements, xx = Σx², yy = Σy², dd = Σd²:

    delta            Σ|d| / n
    cosine           Σxy / sqrt(xx yy), in [-1, 1]; NaN where x or y has no direction
    cosine_distance  1 - cosine = (dd - ((xx - yy) / (|x| + |y|))²) / (2 |x| |y|), free of cancellation near 0
    mean_abs         Σ|x| / n              base_mean_abs  Σ|y| / n
    l2               sqrt(xx)              base_l2        sqrt(yy)            l2_delta  sqrt(dd)
    relative_delta   l2_delta / base_l2; NaN where both are 0
    max_delta        max|d|
    changed          #(x ≠ y) / n
    nonfinite        #(x not finite)       base_nonfinite #(y not finite)

The cosine distance follows from |x - y|² = (|x| - |y|)² + 2 |x| |y| (1 - cos).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..kernels.wanted import Wanted

__all__ = ["METRICS", "METRIC_VERSION", "compute", "needed", "pooled"]

METRIC_VERSION = 2
"""Raised when a sum or metric changes its meaning or its bits, so that what is kept of before is not taken for new."""

METRICS = (
    "delta",
    "cosine",
    "cosine_distance",
    "mean_abs",
    "base_mean_abs",
    "l2",
    "base_l2",
    "l2_delta",
    "relative_delta",
    "max_delta",
    "changed",
    "nonfinite",
    "base_nonfinite",
)

# metric -> the sums that it is computed from; all others may be NaN. Counts and max|x| are always there.
_NEEDS = {
    "delta": Wanted.ABS_DIFF,
    "cosine": Wanted.DOT | Wanted.SQ_DIFF | Wanted.SQUARES,
    "cosine_distance": Wanted.DOT | Wanted.SQ_DIFF | Wanted.SQUARES,
    "mean_abs": Wanted.TOTALS,
    "base_mean_abs": Wanted.TOTALS,
    "l2": Wanted.SQUARES,
    "base_l2": Wanted.SQUARES,
    "l2_delta": Wanted.SQ_DIFF,
    "relative_delta": Wanted.SQ_DIFF | Wanted.SQUARES,
    "max_delta": Wanted.MAX_DIFF,
    "changed": Wanted.DIFFERING,
}

_SMALLEST = float(np.finfo(np.float64).tiny)


def needed(metrics: Iterable[str]) -> Wanted:
    """The sums that some of `METRICS` are computed from."""
    found = Wanted(0)
    for metric in metrics:
        found |= _NEEDS.get(metric, Wanted(0))
    return found


def compute(
    other_self: np.ndarray, base_self: np.ndarray, pair: np.ndarray, *, metrics: Sequence[str] = METRICS
) -> dict[str, np.ndarray]:
    """The metrics of every row.

    Args:
        other_self, base_self: (..., 6) self sums of x and y in the order of `kernels.sums.SELF_SUMS`.
        pair: (..., 5) pair sums of (x, y) in the order of `kernels.sums.PAIR_SUMS`.
        metrics: which ones. Sums that none of them is computed from may be NaN.
    Returns:
        metric -> (...) float64. Zero elements give NaN wherever a mean or a direction is asked for, and so do norms
        whose square float64 does not hold (elements of 1e200, or none above 1e-160), and means whose sum it does not:
        neither inf nor 0 is true of them.
    """
    n = other_self[..., 0]
    sum_abs_x, xx, bad_x = other_self[..., 1], other_self[..., 3], other_self[..., 5]
    sum_abs_y, yy, bad_y = base_self[..., 1], base_self[..., 3], base_self[..., 5]
    sum_abs_d, dd, _, max_delta, differing = (pair[..., k] for k in range(5))
    with np.errstate(all="ignore"):
        norm_x, norm_y = _norm(xx, other_self[..., 4]), _norm(yy, base_self[..., 4])
        norm_d = _norm(dd, max_delta)
        formulas: dict[str, Callable[[], np.ndarray]] = {
            "delta": lambda: _mean(sum_abs_d, max_delta, n),
            "cosine": lambda: _cosine(norm_x * norm_y, pair),
            "cosine_distance": lambda: _cosine_distance((xx - yy) / (norm_x + norm_y), norm_x * norm_y, pair),
            "mean_abs": lambda: _mean(sum_abs_x, other_self[..., 4], n),
            "base_mean_abs": lambda: _mean(sum_abs_y, base_self[..., 4], n),
            "l2": lambda: norm_x,
            "base_l2": lambda: norm_y,
            "l2_delta": lambda: norm_d,
            "relative_delta": lambda: norm_d / norm_y,
            "max_delta": lambda: max_delta,
            "changed": lambda: differing / n,
            "nonfinite": lambda: bad_x,
            "base_nonfinite": lambda: bad_y,
        }
        return {metric: formulas[metric]() for metric in metrics}


def _cosine(scale: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """`cosine`, given |x| |y|."""
    return np.where(_equal(scale, pair), 1.0, np.clip(pair[..., 2] / scale, -1.0, 1.0))


def _cosine_distance(lengths: np.ndarray, scale: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """`cosine_distance`, given |x| - |y| and |x| |y|."""
    dd = pair[..., 1]
    distance = np.where(_equal(scale, pair), 0.0, np.maximum((dd - lengths * lengths) / (2.0 * scale), 0.0))
    # That is off by rounding in units of dd / |x||y|. Where those are large, as they are far from 0 and where one
    # is many times longer than the other, the plain difference is the better conditioned of the two.
    distance = np.where(dd > scale, 1.0 - _cosine(scale, pair), distance)
    return np.where(scale > 0, distance, np.nan)


def _equal(scale: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Bit-equal operands have a direction exactly equal: 1 and 0, whatever the rounding of the norms.

    Where Σd² can be 0 for any other reason, max|d| is there. NaN was not computed, and says nothing.
    """
    dd, max_delta, differing = pair[..., 1], pair[..., 3], pair[..., 4]
    return (dd == 0) & ~(max_delta > 0) & ~(differing > 0) & (scale > 0) & np.isfinite(scale)


def _mean(total: np.ndarray, largest: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Σ|x|/n, NaN where Σ|x| of finite elements has left the range of float64."""
    return np.where(np.isinf(total) & np.isfinite(largest), np.nan, total) / n


def _norm(squares: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """√Σx², NaN where Σx² of finite elements that are not all zero has left the range of normal float64."""
    lost = (largest > 0) & np.isfinite(largest) & ~((squares >= _SMALLEST) & np.isfinite(squares))
    return np.sqrt(np.where(lost, np.nan, squares))


def pooled(other_self: np.ndarray, base_self: np.ndarray, pair: np.ndarray) -> dict[str, float]:
    """The metrics of all rows taken as one vector: sums are added, maxima taken, then `compute`.

    Args:
        other_self, base_self, pair: (R, 6), (R, 6), (R, 5) as for `compute`.
    """
    joined = [_total(other_self, maximum=4), _total(base_self, maximum=4), _total(pair, maximum=3)]
    return {name: float(value) for name, value in compute(*joined).items()}


def _total(sums: np.ndarray, maximum: int) -> np.ndarray:
    """Rows added up, the column `maximum` by its largest."""
    with np.errstate(all="ignore"):
        total = sums.sum(axis=0)
        total[maximum] = sums[:, maximum].max(initial=0.0)
    return total
