"""Which tensors are equal in which checkpoints: tied towers, frozen layers, copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.wanted import Wanted
from .all_pairs import AllPairs

__all__ = ["Identical", "identical"]


@dataclass(frozen=True)
class Identical:
    """Tensors that are equal in the same two or more checkpoints.

    Attributes:
        checkpoints: their numbers.
        tensors: the names of the tensors.
        elements: the elements of these tensors, in one of the checkpoints.
        same_file: whether each of them is one run of bytes of one file in all of these checkpoints (links, one path
            under two names), so that it was read once. Else they are equal in dtype and in every element.
    """

    checkpoints: tuple[int, ...]
    tensors: tuple[str, ...]
    elements: int
    same_file: bool

    def to_dict(self, labels: tuple[str, ...]) -> dict[str, Any]:
        """The object in the JSON's `identical`."""
        return {
            "checkpoints": [labels[number] for number in self.checkpoints],
            "tensors": list(self.tensors),
            "elements": self.elements,
            "same_file": self.same_file,
        }


def identical(found: AllPairs) -> list[Identical]:
    """Tensors by the checkpoints that they are equal in, most elements first.

    Equal are tensors of one dtype and number of elements without a differing element (NaN differs from everything,
    -0.0 equals 0.0), and those that are the very same bytes of one file. Where differing elements were not counted the
    differences tell; those of two infinities are NaN, so what holds some is equal to the same bytes alone.
    """
    groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    first, second = found.pairs.T
    for k, tensor in enumerate(found.tensors):
        codes = {dtype: number for number, dtype in enumerate(dict.fromkeys(tensor.dtypes.values()))}
        kind = np.full(len(found.labels), -1)
        whole = np.zeros(len(found.labels), bool)  # embeddings of which only the leading rows are compared are not
        for number, ref in tensor.refs.items():
            kind[number], whole[number] = codes[ref.dtype], ref.elements == tensor.elements
        one, two = first[tensor.pairs], second[tensor.pairs]
        equal = _nothing_differs(found.sums[k, tensor.pairs], found.wanted)
        equal |= found.homes[k, one] == found.homes[k, two]
        equal &= (kind[one] == kind[two]) & whole[one] & whole[two] & (tensor.elements > 0)
        for members in _classes(one[equal], two[equal], len(found.labels)):
            same_file = bool((found.homes[k, members] == found.homes[k, members[0]]).all())
            groups.setdefault((tuple(members.tolist()), same_file), []).append(k)
    out = []
    for (together, same_file), numbers in groups.items():
        chosen = [found.tensors[k] for k in numbers]
        elements = sum(tensor.elements for tensor in chosen)
        out.append(Identical(together, tuple(tensor.name for tensor in chosen), elements, same_file))
    return sorted(out, key=lambda group: (-group.elements, group.checkpoints))


def _nothing_differs(sums: NDArray[np.float64], wanted: Wanted) -> NDArray[np.bool_]:
    """(Q,) whether all elements are equal, by whichever of the pair sums (Q, 5) there are."""
    size, squares, _, largest, differing = sums.T
    if wanted & Wanted.DIFFERING:
        return np.asarray(differing == 0, np.bool_)
    # Σd² of tiny differences can be 0 in float64, but there max|d| was taken as well.
    return np.asarray((size == 0) | (largest == 0) | ((squares == 0) & ~(largest > 0)), np.bool_)


def _classes(one: NDArray[np.intp], two: NDArray[np.intp], count: int) -> list[NDArray[np.intp]]:
    """The classes of two or more of an equivalence given by all its pairs (one < two)."""
    least = np.arange(count)
    np.minimum.at(least, two, one)
    heads = np.unique(least[two])
    return [np.flatnonzero(least == head) for head in heads]
