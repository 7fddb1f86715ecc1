"""Cosines of task vectors t = x - b, what training added to a base, from differences alone.

With D_ib = Σ(x_i - b)², D_jb = Σ(x_j - b)², D_ij = Σ(x_i - x_j)², all sums of squared differences:

    Σ t_i t_j = (D_ib + D_jb - D_ij) / 2          cosine = Σ t_i t_j / (|t_i| |t_j|)

That is the law of cosines in the triangle of b, x_i and x_j. No product Σxy of weights is subtracted from another: that
would lose the square of what the two differ by. Each D is within 1e-12 of exact, so with r = |t_i| / |t_j|

    error of the cosine <= 1e-12 / 2 * (D_ib + D_jb + D_ij) / sqrt(D_ib D_jb) <= 1.5e-12 (r + 1 / r)

for D_ij <= 2 (D_ib + D_jb): certain to 1e-9 while one vector is not 600 times as long as the other. The same holds
pooled over tensors, by Cauchy and Schwarz. Where the bound, computed from the sums at hand, says more than 1e-9, or the
three sums are not over the same elements, the tensor is read again and the product is taken from the differences
themselves, in float64: within 2e-11 of |t_i| |t_j|, by the length of a chunk times 2**-53, twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import reference
from ..kernels.decoders import DECODERS
from ..kernels.sums import CHUNK
from .all_pairs import AllPairs
from .checkpoint import TensorRef
from .reading import Files

__all__ = ["TaskVectors", "certainty", "moved_tensors", "task_vectors"]

_SURE = 1e-9
_SUM_ERROR = 1e-12  # of every sum, relative: the kernels' contract

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """Products of the task vectors of all pairs.

    Attributes:
        tensors: of T tensors that the base has, the numbers of their parts in the ledger.
        products: (T, P, 3) float64: Σ t_i t_j, Σ t_i², Σ t_j²; NaN where `compared` is not.
        compared: (T, P) whether all three have the tensor; never with the base as one of the two.
        bytes_read: the bytes that were read again.
        reread: how many pairs of tensors that was for.
    """

    tensors: tuple[tuple[int, ...], ...]
    products: Floats
    compared: NDArray[np.bool_]
    bytes_read: int
    reread: int

    def cosines(self, tensors: NDArray[np.intp], count: int) -> tuple[Floats, Floats]:
        """(N, N) mean over tensors and pooled cosine of a group of tensors; 1 on the diagonal.

        A tensor that one of the two left as it was has no direction, and is left out of the mean.
        """
        wanted = set(tensors.tolist())
        rows = [t for t, numbers in enumerate(self.tensors) if wanted & set(numbers)]
        chosen, compared = self.products[rows], self.compared[rows]
        with np.errstate(all="ignore"):
            each = _cosine(chosen)
            counted = compared & ~((chosen[..., 1] == 0) | (chosen[..., 2] == 0))
            mean = np.where(counted, each, 0.0).sum(axis=0) / counted.sum(axis=0)
            pooled = _cosine(np.where(compared[..., None], chosen, 0.0).sum(axis=0))
        first, second = np.triu_indices(count, 1)
        moved = np.zeros(count, bool)
        out = []
        for values in (mean, pooled):
            matrix = np.full((count, count), np.nan)
            matrix[first, second] = matrix[second, first] = values
            moved |= ~np.isnan(matrix).all(axis=1)
            out.append(matrix)
        for matrix in out:
            matrix[moved, moved] = 1.0
        return out[0], out[1]


def _cosine(products: Floats) -> Floats:
    """(..., 3) -> cosine; NaN where a vector is zero."""
    dot, xx, yy = (products[..., k] for k in range(3))
    scale = np.sqrt(xx) * np.sqrt(yy)
    cosine = np.where((dot == xx) & (dot == yy), 1.0, np.clip(dot / scale, -1.0, 1.0))  # 1 whatever the rounding
    return np.where(scale > 0, cosine, np.nan)


def certainty(d_ib: Floats, d_jb: Floats, d_ij: Floats) -> Floats:
    """The bound on the error of a cosine that comes from three sums of squared differences."""
    with np.errstate(all="ignore"):
        bound: Floats = 0.5 * _SUM_ERROR * (d_ib + d_jb + d_ij) / (np.sqrt(d_ib) * np.sqrt(d_jb))
    return bound


def task_vectors(found: AllPairs, base: int, *, io: str = "auto") -> TaskVectors:
    """The products of all task vectors; reads tensors again only where their sums do not tell enough.

    Args:
        found: the raw sums, the base among the checkpoints.
        base: its number.
        io: as for `execute`.
    Raises:
        ReadError: a file that must be read again cannot be, or changed.
    """
    count = len(found.labels)
    first, second = found.pairs.T
    place = np.full((count, count), -1)
    place[first, second] = place[second, first] = np.arange(len(first))
    to_base = place[:, base]
    of_i, of_j = to_base[first], to_base[second]  # -1 where that is the base itself
    neither = (first != base) & (second != base)

    tensors = moved_tensors(found, base)
    products = np.full((len(tensors), len(first), 3), np.nan)
    compared = np.zeros(products.shape[:2], bool)
    read = reread = 0
    with Files(io) as files:
        for t, numbers in enumerate(tensors):
            squares, elements = np.full(len(first), np.nan), np.full(len(first), -1)
            refs: dict[int, TensorRef] = {}
            for k in numbers:
                tensor = found.tensors[k]
                squares[tensor.pairs], elements[tensor.pairs] = found.sums[k, tensor.pairs, 1], tensor.elements
                refs |= tensor.refs
            three = neither & (elements >= 0) & (elements[of_i] >= 0) & (elements[of_j] >= 0)
            d_ib, d_jb = squares[of_i], squares[of_j]
            equal = (elements == elements[of_i]) & (elements == elements[of_j])
            with np.errstate(all="ignore"):
                dot = np.where(squares == 0, d_ib, (d_ib + d_jb - squares) / 2)
            compared[t] = three
            products[t, three] = np.stack([dot, d_ib, d_jb], axis=-1)[three]
            sure = certainty(d_ib, d_jb, squares) <= _SURE
            nothing = (d_ib == 0) | (d_jb == 0) | ~np.isfinite(d_ib + d_jb + squares)
            again = np.flatnonzero(three & ~(equal & (sure | nothing)))
            reread += len(again)
            shortest = np.minimum(np.minimum(elements[of_i], elements[of_j]), elements)
            for length in np.unique(shortest[again]).tolist():
                here = again[shortest[again] == length]
                members = np.union1d(first[here], second[here]).tolist()
                gram, nbytes = _differences(files, refs[base], [refs[n] for n in members], length)
                a, b = np.searchsorted(members, first[here]), np.searchsorted(members, second[here])
                products[t, here] = np.stack([gram[a, b], gram[a, a], gram[b, b]], axis=-1)
                read += nbytes
        files.check_unchanged()
    return TaskVectors(tensors, products, compared, read, reread)


def moved_tensors(found: AllPairs, base: int) -> tuple[tuple[int, ...], ...]:
    """Of every tensor that the base shares, the numbers of its parts in the ledger."""
    parts: dict[int, list[int]] = {}
    for k, tensor in enumerate(found.tensors):
        parts.setdefault(tensor.whole, []).append(k)
    return tuple(tuple(ks) for ks in parts.values() if any(base in found.tensors[k].refs for k in ks))


def _differences(files: Files, base: TensorRef, refs: list[TensorRef], elements: int) -> tuple[Floats, int]:
    """(M, M) Σ t_i t_j over the first `elements`, and the bytes read. Products of differences: nothing cancels."""
    total = np.zeros((len(refs), len(refs)))
    operands = [base, *refs]
    sizes = [DECODERS[ref.dtype].itemsize for ref in operands]
    addresses = [files.address(ref, elements * size) for ref, size in zip(operands, sizes, strict=True)]
    for start in range(0, elements, CHUNK):
        count = min(CHUNK, elements - start)
        raw = [
            reference.decode(reference.bytes_at(address + start * size, count * size), ref.dtype)
            for ref, size, address in zip(operands, sizes, addresses, strict=True)
        ]
        whole = any(values.dtype.kind in "iu" for values in raw)  # 64-bit integers: float64 does not hold them all
        exact: list[NDArray[Any]] = [values.astype(np.longdouble if whole else np.float64) for values in raw]
        with np.errstate(all="ignore"):
            vectors = np.stack([(values - exact[0]).astype(np.float64) for values in exact[1:]])
            total += vectors @ vectors.T
    return total, elements * sum(sizes)
