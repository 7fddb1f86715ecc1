"""Adding numbers to slots without losing any: the few scalar operations that all walks share."""

from __future__ import annotations

import math
from typing import Any

from numba import njit

# No reference counting: it would tie the machine code to Numba's runtime, and `native` loads it without Numba.
COMPILED: dict[str, Any] = {"error_model": "numpy", "_nrt": False}

UNIT = 2.0**-53  # half the distance between neighbouring float64 above 1


@njit(**COMPILED)
def two_sum(a: float, x: float) -> tuple[float, float]:
    """a + x as (rounded sum, its exact error); Knuth, The Art of Computer Programming 2, 4.2.2, theorem B."""
    s = a + x
    t = s - a
    return s, (a - (s - t)) + (x - t)


@njit(**COMPILED)
def larger(a: float, b: float) -> float:
    """The larger of two magnitudes; NaN wins."""
    return b if (b > a or b != b) and a == a else a


@njit(**COMPILED)
def add_compensated(slots: Any, at: int, high: float, low: float, bound: float) -> None:
    """Add high + low, known to `bound`, to the double-double at slots[at : at + 2] with its bound at slots[at + 2]."""
    total, error = two_sum(slots[at], high)
    slots[at] = total
    rest = error + low
    if rest != 0.0:  # exact sums stay exact, with a bound of zero
        slots[at + 1] += rest
        bound += 2.0 * UNIT * (abs(slots[at + 1]) + abs(error) + abs(low))
    slots[at + 2] += bound


@njit(**COMPILED)
def add_plain(whole: Any, at: int, low: int, value: float) -> None:
    """Add a value to the sum at whole[at], keeping the rounding error at whole[low]."""
    whole[at], error = two_sum(whole[at], value)
    whole[low] += error


@njit(**COMPILED)
def joined(high: float, low: float) -> float:
    """high + low where high is finite; else high, the IEEE result, beside which a compensation means nothing."""
    return high + low if math.isfinite(high) else high
