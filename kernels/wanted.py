"""Which sums of the contract a tile takes: what is not wanted comes back as NaN, and seldom is computed.

The processor computes none of it; GPUs do where that saves a kernel.

The number of elements, max|x| and the count of non-finite elements of an operand are always taken: they cost next to
nothing, and tell whether other sums are certain. A sum that is wanted has the same bits whatever else is.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np

from .sums import PAIR_SUMS, SELF_SUMS

__all__ = ["Wanted"]


class Wanted(IntFlag):
    """A set of sums, as a bit mask that compiled code is made for."""

    ABS_DIFF = 1  # Σ|x-y|
    SQ_DIFF = 2  # Σ(x-y)²
    DOT = 4  # Σxy
    MAX_DIFF = 8  # max|x-y|
    DIFFERING = 16  # #(x≠y)
    SQUARES = 32  # Σx²
    TOTALS = 64  # Σ|x| and Σx
    PAIRS = 31
    ALL = 127

    def completed(self, *, wide: bool) -> Wanted:
        """These sums and those that they are taken from, or that tell whether they are certain.

        Σxy comes from Σx², Σy² and Σ(x-y)². In float64, whose range sums of finite elements can leave, max|x-y| tells
        of Σ|x-y| and Σ(x-y)² that they did not, and Σx² whether Σ|x| and Σx are to be taken again.

        Args:
            wide: whether the tile is computed in float64.
        """
        whole = self
        if whole & Wanted.DOT:
            whole |= Wanted.SQ_DIFF | Wanted.SQUARES
        if whole & Wanted.TOTALS:
            whole |= Wanted.SQUARES
        if wide and whole & (Wanted.ABS_DIFF | Wanted.SQ_DIFF):
            whole |= Wanted.MAX_DIFF
        return whole

    @property
    def self_columns(self) -> np.ndarray:
        """(6,) bool, which of `sums.SELF_SUMS` are taken."""
        squares, totals = bool(self & Wanted.SQUARES), bool(self & Wanted.TOTALS)
        return np.array([True, totals, totals, squares, True, True])

    @property
    def pair_columns(self) -> np.ndarray:
        """(5,) bool, which of `sums.PAIR_SUMS` are taken."""
        return np.array([bool(self & flag) for flag in _PAIR_FLAGS])

    @property
    def names(self) -> list[str]:
        """The names of these sums, in the order of `sums.SELF_SUMS` and `sums.PAIR_SUMS`."""
        columns = zip((*SELF_SUMS, *PAIR_SUMS), (*self.self_columns, *self.pair_columns), strict=True)
        return [name for name, taken in columns if taken]

    @classmethod
    def named(cls, names: list[str]) -> Wanted:
        """The opposite of `names`."""
        flags = dict(zip(PAIR_SUMS, _PAIR_FLAGS, strict=True)) | {"sum_sq": cls.SQUARES, "sum_abs": cls.TOTALS}
        found = cls(0)
        for name in names:
            found |= flags.get(name, cls(0))
        return found


_PAIR_FLAGS = (Wanted.ABS_DIFF, Wanted.SQ_DIFF, Wanted.DOT, Wanted.MAX_DIFF, Wanted.DIFFERING)
