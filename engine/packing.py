"""How the bytes of a task come into a buffer of the ring: one after the other, each where a device wants it.

On the CPU a tile walks the maps where they lie. A device has a memory of its own, and what goes there is packed: each
run (the part of one operand that a task takes) begins at a multiple of 16 bytes, so that kernels load 16 at a time
whatever the alignment in the file.

How a file is read follows from `reading.Files`. What is in the page cache of a local file system is copied from the
map: one thread moved 20 GB/s that way and 8.6 with pread (Zen 4, 16 MiB at a time). All else is read by preadv, which
scatters what lies together in the file over the places of its runs in one call.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

import numpy as np

from .errors import ReadError
from .plan import Placed
from .reading import Files, Staging

__all__ = ["ALIGNMENT", "Packed", "Packing", "packed_bytes"]

ALIGNMENT = 16
"""Bytes; the widest load that a GPU has."""

_GAP_BYTES = 64 << 10  # runs nearer than this in a file are read in one call
_PARTS = 512  # of one call; systems take 1024


@dataclass(frozen=True)
class Packed:
    """What `Packing.fill` put into a buffer.

    Attributes:
        items: the items of the task, their tensors renumbered as the rows of `places`.
        places: (K', N) int64, the bytes from the buffer's beginning to where each operand's first element lies or would
            lie.
        nbytes: how much of the buffer is filled.
    """

    items: np.ndarray
    places: np.ndarray
    nbytes: int


def packed_bytes(items: np.ndarray, itemsizes: np.ndarray) -> np.ndarray:
    """(W,) the most bytes that each item takes in a buffer."""
    sizes = items[:, 2, None] * itemsizes
    return (-(-sizes // ALIGNMENT) * ALIGNMENT).sum(axis=1)  # type: ignore[no-any-return]


class Packing(Staging):
    """The tensors of a batch, packed task by task.

    Two operands of a tensor that are the very same bytes (the base of a sweep where an other links to it)
    share a place, and are read and sent once.

    Args:
        files, placed, sizes, itemsizes: as for `Staging`.
    Raises:
        ReadError: a file cannot be opened, or is shorter than its header promised.
    """

    def __init__(self, files: Files, placed: Placed, sizes: np.ndarray, itemsizes: np.ndarray) -> None:
        super().__init__(files, placed, sizes, itemsizes)
        self._first = _first_of_equals(self._file, self._base, sizes, np.broadcast_to(itemsizes, sizes.shape))

    def fill(self, items: np.ndarray, target: np.ndarray) -> Packed:
        """Put the elements of some items into a buffer, of each operand what there is of it.

        Args:
            items: consecutive rows (tensor, start, length, slot) of a tile.
            target: (bytes,) uint8, contiguous, at least `packed_bytes(items, …).sum()`.
        Raises:
            ReadError: the device failed, or the file is shorter than it was.
        """
        begins = np.flatnonzero(np.r_[True, items[1:, 0] != items[:-1, 0]])
        tensors, start = items[begins, 0], items[begins, 1]
        lengths = np.add.reduceat(items[:, 2], begins)
        first = self._first[tensors]
        own = first == np.arange(first.shape[1])
        sizes = np.clip(self._sizes[tensors] - start[:, None] * self._itemsizes, 0, lengths[:, None] * self._itemsizes)
        rounded = np.where(own, -(-sizes // ALIGNMENT) * ALIGNMENT, 0)
        # Operand by operand: tensors follow each other in a file, operands lie in different ones.
        ends = np.cumsum(rounded.T.ravel())
        at = (ends - rounded.T.ravel()).reshape(rounded.T.shape).T
        source = self._base[tensors] + start[:, None] * self._itemsizes
        for n in range(first.shape[1]):
            rows = np.flatnonzero(own[:, n] & (sizes[:, n] > 0))
            self._bring(self._file[tensors[rows], n], source[rows, n], sizes[rows, n], at[rows, n], target)
        places = np.take_along_axis(at, first, axis=1) - start[:, None] * self._itemsizes
        renumbered = items.copy()
        renumbered[:, 0] = np.searchsorted(begins, np.arange(len(items)), "right") - 1
        return Packed(renumbered, places, int(ends[-1]) if len(ends) else 0)

    def _bring(
        self, files: np.ndarray, source: np.ndarray, sizes: np.ndarray, at: np.ndarray, target: np.ndarray
    ) -> None:
        """Runs of one operand: from addresses where the file is -1, else from places in files.

        What follows each other here and there is one run: of tensors of multiples of 16 bytes all that lie together.
        """
        if len(sizes) > 1:
            behind = (source[1:] == (source + sizes)[:-1]) & (at[1:] == (at + sizes)[:-1]) & (files[1:] == files[:-1])
            firsts = np.flatnonzero(np.r_[True, ~behind])
            files, source, at = files[firsts], source[firsts], at[firsts]
            sizes = np.add.reduceat(sizes, firsts)
        mapped = files < 0
        for to, begin, size in zip(
            (target.ctypes.data + at[mapped]).tolist(), source[mapped].tolist(), sizes[mapped].tolist(), strict=True
        ):
            ctypes.memmove(to, begin, size)  # without the interpreter's lock, so that several threads copy at once
        staged = np.flatnonzero(~mapped)
        if not len(staged):
            return
        files, source, sizes, at = files[staged], source[staged], sizes[staged], at[staged]
        gap = source[1:] - (source + sizes)[:-1]
        apart = (files[1:] != files[:-1]) | (gap < 0) | (gap > _GAP_BYTES)
        apart |= np.arange(1, len(staged)) % (_PARTS // 2) == 0
        for run in np.split(np.arange(len(staged)), np.flatnonzero(apart) + 1):
            parts = []
            for k in run.tolist():
                if k > run[0] and gap[k - 1]:
                    parts.append(np.empty(gap[k - 1], np.uint8))
                parts.append(target[at[k] : at[k] + sizes[k]])
            self._scatter(int(files[run[0]]), int(source[run[0]]), parts)

    def _scatter(self, number: int, offset: int, parts: list[np.ndarray]) -> None:
        """Read consecutive bytes of a file into parts."""
        file = self._open[number]
        views = [part.data for part in parts if part.size]
        begin = offset
        try:
            while views:
                got = os.preadv(file.descriptor, views, offset)
                if got == 0:
                    raise ReadError(
                        f"{file.path} ends at byte {offset:,} where {file.size:,} were there when it was opened; it "
                        "was cut short while it was being read."
                    )
                offset += got
                while views and got >= len(views[0]):
                    got -= len(views.pop(0))
                if got:
                    views[0] = views[0][got:]
            if self._drop and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.descriptor, begin, offset - begin, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise ReadError(f"{file.path} cannot be read at byte {offset:,}: {error.strerror or error}.") from error


def _first_of_equals(*keys: np.ndarray) -> np.ndarray:
    """(K, N) the least n' of each row that has the keys of n."""
    tensors, operands = keys[0].shape
    row = np.repeat(np.arange(tensors), operands)
    column = np.tile(np.arange(operands), tensors)
    flat = [np.ascontiguousarray(key).ravel() for key in keys]
    order = np.lexsort((column, *flat, row))
    columns = [key[order] for key in (row, *flat)]
    fresh = np.ones(len(order), bool)
    if len(order):
        fresh[1:] = np.any([key[1:] != key[:-1] for key in columns], axis=0)
    leader = np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    first = np.empty(len(order), np.int64)
    first[order] = column[order][leader]
    return first.reshape(tensors, operands)
