"""N checkpoints seen through their sums: what is shared, how far two are apart in each tensor, how alike in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Family"]

Floats = NDArray[np.float64]

# Bits of the significand, by which rounding from one to another goes; 4 for all others.
_BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8}

# A distance of 0 has no logarithm: a tensor in which two are equal counts as this many times closer than the closest
# two that differ. 1000 is ln 1000 = 6.9, the weight of a tensor that descended untouched.
_EQUAL_IS_CLOSER = 1e-3


@dataclass(frozen=True)
class Family:
    """The sums of N checkpoints over K tensors, and what follows from them.

    Attributes:
        labels: N names, as the user knows the checkpoints.
        selfs: (K, N, 6) float64 in the order of `kernels.sums.SELF_SUMS`; anything where a tensor is missing.
        pairs: (K, P, 5) float64 in the order of `kernels.sums.PAIR_SUMS`, pairs as `numpy.triu_indices(N, 1)` has them;
            anything where a pair is not compared. Only what `gathering.WANTED` names is looked at.
        compared: (K, P) bool, which pair is compared in which tensor.
        dtypes: (K, N) safetensors names of dtypes, "" where a tensor is missing.
        whole: (N,) elements of all tensors of each checkpoint.
    """

    labels: tuple[str, ...]
    selfs: Floats
    pairs: Floats
    compared: NDArray[np.bool_]
    dtypes: NDArray[np.str_]
    whole: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def bits(self) -> NDArray[np.int64]:
        """(K, N) bits of the significand of each tensor's dtype."""
        out = np.full(self.dtypes.shape, 4)
        for dtype, width in _BITS.items():
            out[self.dtypes == dtype] = width
        return out

    @cached_property
    def ends(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The first and second checkpoint of every pair."""
        return np.triu_indices(len(self), 1)

    @cached_property
    def place(self) -> NDArray[np.intp]:
        """(N, N) the place of a pair in arrays (..., P), either way round; P on the diagonal."""
        first, second = self.ends
        out = np.full((len(self), len(self)), len(first))
        out[first, second] = out[second, first] = np.arange(len(first))
        return out

    @cached_property
    def elements(self) -> Floats:
        """(K,) elements of each tensor."""
        counted: Floats = np.where(self.present, self.selfs[:, :, 0], 0.0).max(axis=1, initial=0.0)
        return counted

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """(K, N) which checkpoint has which tensor."""
        return np.asarray(self.dtypes != "", np.bool_)

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """(K, P) whether the distance of a pair in a tensor means something.

        It does where both have it, in floating point (position ids and step counts are no weights), with elements, and
        all of them finite.
        """
        floating = np.char.startswith(self.dtypes, "F") | np.char.startswith(self.dtypes, "BF")
        good = self.present & floating & (self.selfs[:, :, 0] > 0) & (self.selfs[:, :, 5] == 0)
        first, second = self.ends
        return self.compared & good[:, first] & good[:, second] & np.isfinite(self.pairs[:, :, 1])

    @cached_property
    def squared(self) -> Floats:
        """(K, P + 1) squared distance of every pair in each tensor, 0 where it is not measured; 0 to itself, last."""
        return _with_itself(np.where(self.measured, self.pairs[:, :, 1], 0.0))

    @cached_property
    def differing(self) -> Floats:
        """(K, P + 1) elements that differ between every pair in each tensor, as `squared`."""
        return _with_itself(np.where(self.measured, self.pairs[:, :, 4], 0.0))

    @cached_property
    def total(self) -> Floats:
        """(N, N) squared distances over all tensors that are measured."""
        return self.between(self.squared.sum(axis=0))

    @cached_property
    def alike(self) -> NDArray[np.bool_]:
        """(N, N) whether two have the same tensors: every element of both is compared."""
        first, second = self.ends
        size = np.where(self.present, self.selfs[:, :, 0], 0.0)
        covered = np.where(self.compared, np.minimum(size[:, first], size[:, second]), 0.0).sum(axis=0)
        same = (covered == self.whole[first]) & (covered == self.whole[second]) & self.compared.any(axis=0)
        return self.between(np.append(same, True))

    @cached_property
    def equal(self) -> NDArray[np.bool_]:
        """(N, N) whether two have the same tensors and no element of them differs."""
        same = np.where(self.compared, self.pairs[:, :, 4] == 0, True).all(axis=0)
        return self.alike & self.between(np.append(same, True))

    @cached_property
    def correlation(self) -> Floats:
        """(N, N) how alike two checkpoints are: the correlation of their elements in each tensor, averaged by elements.

        About 1 / sqrt(elements) for weights initialised apart, near 1 for relatives. A tensor of equal elements
        (a new layer norm: ones, zeros) has no correlation and is left out; 0 where nothing is left.
        """
        first, second = self.ends
        n, total, square = (self.selfs[:, :, column] for column in (0, 2, 3))
        with np.errstate(all="ignore"):
            spread = square - total * total / n
            # Σx² - (Σx)²/n of equal elements is rounding, some 1e-16 of Σx².
            spread = np.where(spread > 1e-9 * square, spread, 0.0)
            dot = self.pairs[:, :, 2] - total[:, first] * total[:, second] / n[:, first]
            found = dot / np.sqrt(spread[:, first] * spread[:, second])
        counts = self.measured & np.isfinite(found)
        weight = np.where(counts, self.elements[:, None], 0.0)
        whole = weight.sum(axis=0)
        mean = np.where(counts, found, 0.0) * weight
        return self.between(np.append(mean.sum(axis=0) / np.where(whole > 0, whole, 1.0), 1.0))

    @cached_property
    def logs(self) -> Floats:
        """(K, P) ln of the squared distance plus ln of the number of differing elements, less the tensor's mean.

        Not a number where a pair is not measured. Less the mean: so that a tensor which some checkpoints lack does not
        make those that have it seem closer or farther.
        """
        squared, differing = self.squared[:, :-1], self.differing[:, :-1]
        positive = np.where(self.measured & (squared > 0), squared, np.inf).min(axis=1, initial=np.inf)
        least = np.where(np.isfinite(positive), positive, 1.0) * _EQUAL_IS_CLOSER
        logs = np.where(self.measured, np.log(squared + least[:, None]) + np.log1p(differing), np.nan)
        count = self.measured.sum(axis=1)
        means = np.where(self.measured, logs, 0.0).sum(axis=1) / np.maximum(count, 1)
        return np.asarray(logs - means[:, None], np.float64)

    @cached_property
    def separation(self) -> Floats:
        """(N, N) `logs` averaged over tensors by elements: what the tree is the shortest of; infinite if unmeasured."""
        weight = np.where(self.measured, self.elements[:, None], 0.0)
        whole = weight.sum(axis=0)
        mean = (np.where(self.measured, self.logs, 0.0) * weight).sum(axis=0) / np.where(whole > 0, whole, 1.0)
        return self.between(np.append(np.where(whole > 0, mean, np.inf), np.inf))

    def between(self, values: NDArray) -> NDArray:
        """(N, N) of values (P + 1,) of pairs, the last that of a checkpoint and itself."""
        return values[self.place]

    def subset(self, chosen: Sequence[int]) -> Family:
        """The family of the chosen checkpoints, in that order."""
        index = np.asarray(chosen, np.intp)
        first, second = np.triu_indices(len(index), 1)
        # No pair sum depends on which of the two is first.
        pairs = self.pairs[:, self.place[index[first], index[second]]]
        labels = tuple(self.labels[number] for number in index)
        compared = self.compared[:, self.place[index[first], index[second]]]
        return Family(labels, self.selfs[:, index], pairs, compared, self.dtypes[:, index], self.whole[index])


def _with_itself(values: Floats) -> Floats:
    return np.concatenate([values, np.zeros((len(values), 1))], axis=1)
