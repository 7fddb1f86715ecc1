"""Averages of three or more checkpoints: soups, and moving averages of a run whose checkpoints are there.

x = Σ w y over checkpoints y, w >= 0 and Σ w = 1. With D_i = |x - y_i|² and D_ij = |y_i - y_j|² the squared distance of
x from the point with weights w is Σ w_i D_i - 1/2 Σ w_i w_j D_ij, and the scalar products (D_i + D_j - D_ij) / 2 of
y_i - x are all that least squares need to find w. Only the average has no negative weight: each of its parents is a
combination too, of the average and of the other parents taken away from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .family import Family
from .merges import APART, LEAST, SLACK, Merge, rounding_of

__all__ = ["find_soups"]

_CONSIDERED = 64  # parents looked for among so many, the nearest
_REACH = 1e4  # and not at more than 100 times the distance of the nearest: float64 has no more to tell


def find_soups(family: Family, members: list[int], closed: set[int]) -> dict[int, Merge]:
    """Which members are averages of three or more others.

    Args:
        members: those that take part, without doublets.
        closed: those that are something else: rounded copies, averages of two, the base.
    """
    found = {}
    for number in members:
        if number in closed:
            continue
        rounding = rounding_of(family, number)
        away = family.total[number]
        near = [
            other
            for other in sorted(members, key=lambda other: float(away[other]))
            if other != number and family.alike[number, other] and away[other] > APART * rounding
        ]
        near = [other for other in near if away[other] <= _REACH * away[near[0]]][:_CONSIDERED]
        merge = _average(family, number, near, rounding) if len(near) > 2 else None
        if merge is not None:
            found[number] = merge
    return found


def _average(family: Family, number: int, others: list[int], rounding: float) -> Merge | None:
    from scipy.optimize import nnls

    index = np.array(others, np.intp)
    away, apart = family.total[number, index], family.total[np.ix_(index, index)]
    values, vectors = np.linalg.eigh((away[:, None] + away - apart) / 2.0)
    # |rows w|² is the squared length of Σ w (y - x); the last row asks for Σ w = 1.
    rows = np.vstack([np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T, np.full(len(index), away.max() ** 0.5)])
    weights = nnls(rows, np.append(np.zeros(len(index)), rows[-1, 0]))[0]
    used = weights > LEAST
    if used.sum() < 3:
        return None
    weights = _nearest_point(away[used], apart[np.ix_(used, used)])
    residual = float(weights @ away[used] - weights @ apart[np.ix_(used, used)] @ weights / 2.0)
    if weights.min() < LEAST or residual > SLACK * rounding + 1e-11 * float(away[used].max()):
        return None
    order = np.argsort(-weights, kind="stable")
    parents = tuple(int(other) for other in index[used][order])
    relative = float(np.sqrt(max(residual, 0.0) / away[used].max()))
    return Merge(parents, tuple(float(weight) for weight in weights[order]), relative)


def _nearest_point(away: NDArray[np.float64], apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights, with sum 1, of the point nearest to x (Lagrange's equations)."""
    count = len(away)
    system = np.ones((count + 1, count + 1))
    # In units of the largest, so that the row of ones is of the size of the others.
    scale = float(apart.max())
    system[:count, :count], system[count, count] = apart / scale, 0.0
    return np.linalg.lstsq(system, np.append(away / scale, 1.0), rcond=None)[0][:count]
