"""Which checkpoints are the same weights: equal in every element, or one the other rounded to fewer bits."""

from __future__ import annotations

import numpy as np

from .family import Family

__all__ = ["equal_groups", "grown_from_rounded", "is_rounded", "narrow"]

# dtype -> (the largest relative error of rounding to nearest, the same below its normal range, absolute).
_ROUNDING = {
    "BF16": (2.0**-8, 0.0),
    "F16": (2.0**-11, 2.0**-25),
    "F8_E4M3": (2.0**-4, 2.0**-10),
    "F8_E5M2": (2.0**-3, 2.0**-17),
}

# The mean square of rounding errors over that of their bounds. An error is evenly spread up to half a unit, a third of
# its bound squared; the bound is taken for the value itself, which is 1 to 2 times the power of two that sets the unit,
# 7/3 on average when squared: 1/7 to 1/6 for any smooth spread of values. A step of training in few bits moves an
# element by a whole unit at least, and soon exceeds it.
_MEAN_SQUARE = 0.25

# A float32 weight has a value of float16 by chance once in 2^13, of bfloat16 once in 2^16: where one element in twenty
# is the same, it was not rounded but taken over.
_TAKEN_OVER = 0.05


def equal_groups(family: Family, base: int | None = None) -> list[list[int]]:
    """The checkpoints in groups of equal ones, each led by the base, else the narrowest dtype, else the first."""
    width = np.where(family.present, family.bits, 0).max(axis=0, initial=0)
    groups: list[list[int]] = []
    left = list(range(len(family)))
    while left:
        same = [number for number in left if family.equal[left[0], number]]
        left = [number for number in left if number not in same]
        lead = base if base in same else min(same, key=lambda number: (width[number], number))
        groups.append([lead, *(number for number in same if number != lead)])
    return groups


def narrow(family: Family, number: int, other: int) -> np.ndarray:
    """(K,) in which tensors, measured in both, the first of two checkpoints has fewer bits than the second."""
    fewer: np.ndarray = family.bits[:, number] < family.bits[:, other]
    return fewer & family.measured[:, family.place[number, other]]


def is_rounded(family: Family, number: int, source: int) -> str | None:
    """The dtype to which a checkpoint is its source rounded, or None.

    It is, as far as sums can tell, when every tensor with fewer bits is nowhere farther from the source's than rounding
    to nearest can take it, max|d| <= u max|x| and Σd² <= u² Σx² / 4 + tiny² elements, and all others are equal.
    """
    fewer = narrow(family, number, source)
    if not fewer.any():
        return None
    place = family.place[number, source]
    if np.any(family.pairs[family.compared[:, place] & ~fewer, place, 4] != 0):
        return None
    bound = 0.0
    for k in np.flatnonzero(fewer):
        if (dtype := str(family.dtypes[k, number])) not in _ROUNDING:
            return None
        relative, least = _ROUNDING[dtype]
        elements, square, largest = family.selfs[k, source, [0, 3, 4]]
        bound += _MEAN_SQUARE * relative**2 * square + least**2 * elements
        if family.pairs[k, place, 3] > relative * largest + least:
            return None
    if family.pairs[fewer, place, 1].sum() > bound:
        return None
    kinds = np.unique(family.dtypes[fewer, number])
    return "/".join(str(kind) for kind in kinds)


def grown_from_rounded(family: Family, number: int, other: int) -> bool:
    """Whether the second checkpoint, of more bits, holds values of the first, of fewer: it cannot be the older."""
    fewer = narrow(family, number, other)
    if not fewer.any() or is_rounded(family, number, other):
        return False
    place = family.place[number, other]
    # Zeros are values of every dtype: a tensor that is mostly zeros would tell nothing.
    dense = fewer & (family.selfs[:, other, 1] > 0)
    elements = family.elements[dense].sum()
    return bool(elements and 1.0 - family.pairs[dense, place, 4].sum() / elements > _TAKEN_OVER)
