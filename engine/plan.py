"""Joined tensors -> stacks of one shape and dtypes -> batches bounded in bytes.

A joined tensor is one tensor seen in N checkpoints: N operands of the same number of elements. `compare` joins two
(base, other), a sweep 1 + M, a matrix N. A batch holds its tensors as columns, so that what follows looks at arrays and
not at tensors one by one: checkpoints of tens of thousands of small tensors are common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..kernels.decoders import DECODERS
from ..kernels.sums import CHUNK
from .checkpoint import TensorRef

__all__ = ["Batch", "Joined", "Placed", "Stack", "batches", "stacks"]

BATCH_BYTES = 8 << 30
"""Default bound of a batch. On the CPU a batch holds addresses and partial sums only, about 0.3 % of its bytes."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One tensor in N checkpoints.

    Attributes:
        index: the caller's number for it.
        operands: N references; operand n is the tensor in checkpoint n.
        elements: how many leading elements of every operand take part.
    """

    index: int
    operands: tuple[TensorRef, ...]
    elements: int

    @property
    def nbytes(self) -> int:
        """The bytes that take part, all operands together."""
        return self.elements * sum(DECODERS[ref.dtype].itemsize for ref in self.operands)


@dataclass(frozen=True, slots=True)
class Stack:
    """Joined tensors with equal elements and equal dtypes, handed to a kernel together."""

    elements: int
    dtypes: tuple[str, ...]
    members: tuple[Joined, ...]


@dataclass(frozen=True)
class Placed:
    """Where K tensors of N operands lie, as arrays.

    Attributes:
        columns: N lists of K references.
        paths: the files.
        file: (K, N) int64, index into `paths`; -1 for a tensor that is in memory only.
        offset: (K, N) int64, its first byte within the file.
    """

    columns: tuple[tuple[TensorRef, ...], ...]
    paths: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Sequence[TensorRef]]) -> Placed:
        """Where the tensors given as K rows of N references lie."""
        columns = tuple(zip(*rows, strict=True))
        paths = tuple(dict.fromkeys(ref.file for column in columns for ref in column))
        number = {path: place for place, path in enumerate(paths)}
        file = [[-1 if ref.offset is None else number[ref.file] for ref in column] for column in columns]
        offset = [[ref.offset or 0 for ref in column] for column in columns]
        shape = (len(columns), -1) if columns else (0, 0)
        return cls(
            columns, paths, np.array(file, np.int64).reshape(shape).T, np.array(offset, np.int64).reshape(shape).T
        )

    def take(self, rows: np.ndarray) -> Placed:
        """Some of the tensors, in another order."""
        columns = tuple(tuple(column[k] for k in rows.tolist()) for column in self.columns)
        return Placed(columns, self.paths, self.file[rows], self.offset[rows])


@dataclass(frozen=True)
class Batch:
    """Tensors of equal dtypes that are computed in one go, in the order in which they lie in the files.

    Attributes:
        dtypes: one for each operand.
        members: the K tensors.
        rows: (K,) their places in what was planned.
        elements: (K,) int64.
        placed: where they lie.
    """

    dtypes: tuple[str, ...]
    members: tuple[Joined, ...]
    rows: np.ndarray
    elements: np.ndarray
    placed: Placed

    @property
    def itemsizes(self) -> np.ndarray:
        """(N,) int64, the bytes of an element of each operand."""
        return np.array([DECODERS[dtype].itemsize for dtype in self.dtypes], np.int64)

    @property
    def nbytes(self) -> int:
        """The bytes that take part."""
        return int(self.elements.sum() * self.itemsizes.sum())

    def take(self, some: np.ndarray) -> Batch:
        """Some of the tensors, as a batch of their own."""
        members = tuple(self.members[k] for k in some.tolist())
        return Batch(self.dtypes, members, self.rows[some], self.elements[some], self.placed.take(some))

    def cut(self, batch_bytes: int, chunks: int) -> Iterator[Batch]:
        """The batch in parts of at most so many bytes and chunks, in order; a larger tensor is a part of its own."""
        sizes = np.cumsum(self.elements * self.itemsizes.sum()), np.cumsum(-(-self.elements // CHUNK))
        start = 0
        while start < len(self.members):
            stops = [
                np.searchsorted(ends, (ends[start - 1] if start else 0) + most, "right")
                for ends, most in zip(sizes, (batch_bytes, chunks), strict=True)
            ]
            stop = max(int(min(stops)), start + 1)
            yield self.take(np.arange(start, stop))
            start = stop

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        """The members by number of elements, for backends that lay operands out anew."""
        return tuple(stacks(self.members))


def stacks(joined: Sequence[Joined]) -> list[Stack]:
    """Group tensors by number of elements and dtypes, in the order in which each group is first met."""
    groups: dict[tuple[int, tuple[str, ...]], list[Joined]] = {}
    for tensor in joined:
        key = (tensor.elements, tuple(ref.dtype for ref in tensor.operands))
        groups.setdefault(key, []).append(tensor)
    return [Stack(elements, dtypes, tuple(members)) for (elements, dtypes), members in groups.items()]


def batches(joined: Sequence[Joined], batch_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
    """Tensors of equal dtypes gathered up to `batch_bytes`, in file order; a larger tensor is a batch of its own.

    The results do not depend on the cuts.
    """
    if not joined:
        return
    placed = Placed.of([tensor.operands for tensor in joined])
    elements = np.array([tensor.elements for tensor in joined], np.int64)
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, dtypes in enumerate(zip(*[[ref.dtype for ref in column] for column in placed.columns], strict=True)):
        groups.setdefault(dtypes, []).append(row)
    # Disks read forwards: by the last operand's file, and where it lies there.
    place = np.lexsort((placed.offset[:, -1], _alphabetic(placed)[placed.file[:, -1]]))
    rank = np.empty(len(joined), np.int64)
    rank[place] = np.arange(len(joined))
    for dtypes, found in groups.items():
        rows = np.array(found)
        rows = rows[np.argsort(rank[rows])]
        ends = np.cumsum(elements[rows] * sum(DECODERS[dtype].itemsize for dtype in dtypes))
        start = 0
        while start < len(rows):
            done = ends[start - 1] if start else 0
            stop = max(int(np.searchsorted(ends, done + batch_bytes, "right")), start + 1)
            part = rows[start:stop]
            yield Batch(dtypes, tuple(joined[k] for k in part.tolist()), part, elements[part], placed.take(part))
            start = stop


def _alphabetic(placed: Placed) -> np.ndarray:
    """The rank of each path; one more, the last, for what is in memory only."""
    order = sorted(range(len(placed.paths)), key=placed.paths.__getitem__)
    rank = np.empty(len(order) + 1, np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = len(order)
    return rank
