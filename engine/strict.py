"""Values that strict JSON can hold."""

from __future__ import annotations

import math

__all__ = ["exact"]


def exact(value: float | int | None) -> float | int | None:
    """The number in full as a Python int or float; None for NaN, infinity and nothing."""
    if value is None or isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None
