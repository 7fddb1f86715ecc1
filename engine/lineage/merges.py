"""Averages of two checkpoints, found by the geometry of squared distances.

x = w a + (1 - w) b lies on the straight line from a to b. For any x, with D = |a - b|², A = |x - a|², B = |x - b|²,

    w = 1/2 + (B - A) / (2 D)                              where on the line x is nearest
    r² = w A + (1 - w) B - w (1 - w) D                     how far from it, squared (Stewart's theorem)

No run of training stays on a line: in a space of millions of dimensions two steps are nearly at right angles. A merge
is as near to it as its dtype can store it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .family import Family

__all__ = ["APART", "LEAST", "SLACK", "Merge", "find_merges", "rounding_of", "without_circles"]

_UNIT = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
_EIGHT_BITS = 2.0**-3

# How many times the rounding of the storage a residual may be, squared: a merge computed in a few operations rounds in
# each. Eight merges of MiniLM in float32 have 0.4 to 1.0, a moving average of three checkpoints has 3.5.
SLACK = 8.0
# A merge must lie this many times farther from both parents than rounding takes it, or rounding explains everything.
APART = 100.0
# Lines at least this long beside the longest that fits are weighed by their residuals: a parent's next of kin fits too.
_WIDEST = 0.8
# The least share of a parent: below it a merge is not told from a checkpoint beside one.
LEAST = 0.01


@dataclass(frozen=True)
class Merge:
    """x = weights[0] * parents[0] + weights[1] * parents[1] + ..., the heaviest first; two or more, with sum 1.

    Attributes:
        residual: the distance of x from that point, relative to that of its parents.
    """

    parents: tuple[int, ...]
    weights: tuple[float, ...]
    residual: float


def find_merges(family: Family, members: list[int], closed: dict[int, int]) -> dict[int, Merge]:
    """Which members are averages of two others.

    Where several lines fit (two merges of the same parents lie on one line), a long one counts: its ends are the
    parents.

    Args:
        members: those that take part, without doublets.
        closed: checkpoint -> what it is a rounded copy of; they are no merges.
    """
    index = np.array(members, np.intp)
    squared = family.total[np.ix_(index, index)]
    # All of them must have the same tensors, or distances are not over the same space.
    alike = family.alike[np.ix_(index, index)]
    first, second = np.triu_indices(len(index), 1)
    found = {}
    for x, number in enumerate(members):
        if number in closed:
            continue
        rounding = rounding_of(family, number)
        base, a, b = squared[first, second], squared[x, first], squared[x, second]
        with np.errstate(all="ignore"):
            share = 0.5 + (b - a) / (2.0 * base)
            residual = share * a + (1.0 - share) * b - share * (1.0 - share) * base
            # Squared distances are right to about 1e-12 of themselves.
            fits = residual <= SLACK * rounding + 1e-11 * base
            fits &= (share >= LEAST) & (share <= 1.0 - LEAST) & (np.minimum(a, b) > APART * rounding)
        fits &= (first != x) & (second != x) & alike[x, first] & alike[x, second]
        if not fits.any():
            continue
        fits &= base >= _WIDEST * base[fits].max()
        best = int(np.argmin(np.where(fits, residual, np.inf)))
        w = float(share[best])
        ends, weights = (members[first[best]], members[second[best]]), (w, 1.0 - w)
        if w < 0.5:
            ends, weights = ends[::-1], weights[::-1]
        found[number] = Merge(ends, weights, float(np.sqrt(max(residual[best], 0.0) / base[best])))
    return found


def rounding_of(family: Family, number: int) -> float:
    """The squared distance that storing a checkpoint in its dtypes can put between it and what was computed."""
    present = family.present[:, number]
    units = np.array([_UNIT.get(str(dtype), _EIGHT_BITS) for dtype in family.dtypes[present, number]])
    squares = np.nan_to_num(family.selfs[present, number, 3], nan=0.0, posinf=0.0)
    return float((units**2 * squares).sum() / 3.0)


def without_circles(found: dict[int, Merge]) -> dict[int, Merge]:
    """Those in which no merge descends from itself; the one that fits worst gives way."""

    def ancestors(number: int, path: frozenset[int]) -> bool:
        if number in path:
            return True
        merge = kept.get(number)
        return merge is not None and any(ancestors(parent, path | {number}) for parent in merge.parents)

    kept = dict(found)
    for number in sorted(found, key=lambda number: -found[number].residual):
        if ancestors(number, frozenset()):
            del kept[number]
    return kept
