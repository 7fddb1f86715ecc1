"""Every metric of one pair of tensors, from its definition, in float64 with exactly rounded sums."""

import math

import numpy as np
import torch


def metrics(other: torch.Tensor, base: torch.Tensor) -> dict[str, float]:
    """The metrics of the design's table for finite x (other) and y (base) of one shape; NaN for what is 0/0."""
    x = other.double().numpy().ravel()
    y = base.double().numpy().ravel()
    d = x - y
    xx, yy, xy, dd = (math.fsum(product) for product in (x * x, y * y, x * y, d * d))
    difference = (xx - yy) / (math.sqrt(xx) + math.sqrt(yy)) if xx + yy > 0 else 0.0
    both = xx > 0 and yy > 0  # a zero vector has no direction
    return {
        "delta": math.fsum(np.abs(d)) / x.size,
        "cosine": xy / math.sqrt(xx * yy) if both else math.nan,
        "cosine_distance": (dd - difference**2) / (2 * math.sqrt(xx) * math.sqrt(yy)) if both else math.nan,
        "mean_abs": math.fsum(np.abs(x)) / x.size,
        "base_mean_abs": math.fsum(np.abs(y)) / y.size,
        "l2": math.sqrt(xx),
        "base_l2": math.sqrt(yy),
        "l2_delta": math.sqrt(dd),
        "relative_delta": math.sqrt(dd) / math.sqrt(yy) if yy > 0 else (math.inf if dd > 0 else math.nan),
        "max_delta": float(np.abs(d).max()),
        "changed": np.count_nonzero(x != y) / x.size,
        "nonfinite": 0.0,
        "base_nonfinite": 0.0,
    }
