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

import numpy as np

__all__ = ["METRICS", "compute", "pooled"]

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


_SMALLEST = float(np.finfo(np.float64).tiny)


def compute(other_self: np.ndarray, base_self: np.ndarray, pair: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of every row.

    Args:
        other_self, base_self: (..., 6) self sums of x and y in the order of `kernels.sums.SELF_SUMS`.
        pair: (..., 5) pair sums of (x, y) in the order of `kernels.sums.PAIR_SUMS`.
    Returns:
        metric -> (...) float64. Zero elements give NaN wherever a mean or a direction is asked for, and so do norms
        whose square float64 does not hold (elements of 1e200, or none above 1e-160), and means whose sum it does not:
        neither inf nor 0 is true of them.
    """
    n = other_self[..., 0]
    sum_abs_x, xx, bad_x = other_self[..., 1], other_self[..., 3], other_self[..., 5]
    sum_abs_y, yy, bad_y = base_self[..., 1], base_self[..., 3], base_self[..., 5]
    sum_abs_d, dd, dot, max_delta, differing = (pair[..., k] for k in range(5))
    with np.errstate(all="ignore"):
        norm_x, norm_y = _norm(xx, other_self[..., 4]), _norm(yy, base_self[..., 4])
        norm_d = _norm(dd, max_delta)
        scale = norm_x * norm_y
        directed = scale > 0  # also False for NaN
        # Bit-equal operands have a direction exactly equal: 1 and 0, whatever the rounding of the norms.
        equal = (differing == 0) & directed & np.isfinite(scale)
        cosine = np.where(equal, 1.0, np.clip(dot / scale, -1.0, 1.0))
        lengths = (xx - yy) / (norm_x + norm_y)
        distance = np.where(equal, 0.0, np.maximum((dd - lengths * lengths) / (2.0 * scale), 0.0))
        # That is off by rounding in units of dd / |x||y|. Where those are large, as they are far from 0 and where one
        # is many times longer than the other, the plain difference is the better conditioned of the two.
        distance = np.where(dd > scale, 1.0 - cosine, distance)
        distance = np.where(directed, distance, np.nan)
        return {
            "delta": _mean(sum_abs_d, max_delta, n),
            "cosine": cosine,
            "cosine_distance": distance,
            "mean_abs": _mean(sum_abs_x, other_self[..., 4], n),
            "base_mean_abs": _mean(sum_abs_y, base_self[..., 4], n),
            "l2": norm_x,
            "base_l2": norm_y,
            "l2_delta": norm_d,
            "relative_delta": norm_d / norm_y,
            "max_delta": max_delta,
            "changed": differing / n,
            "nonfinite": bad_x,
            "base_nonfinite": bad_y,
        }


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
