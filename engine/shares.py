"""What is dealt out to devices: parts of batches, and runs of chunks of a tensor that is too large to be done at once.

It may be too large for one device to be done with it when the others are, or have more chunks than there is room for
slots of. A tensor's chunks have slots of their own, so any device may fill those of any of them, at any time. They come
together in the memory of the host, where they are folded group by group, in order, so that no more of them are kept
than have to wait for others. A group is as many chunks as the backend adds first whatever else there is: the sums are
the bits of the tensor done at once.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels.cpu import Resolve
from ..kernels.sums import CHUNK
from .plan import Batch

__all__ = ["Share", "Sums", "Whole", "deal"]

_ENDLESS = 1 << 62
_SHARES = 16  # of each device, which so end together within a sixteenth of the time

Sums = list[tuple[np.ndarray, np.ndarray]]
"""Self and pair sums of each way in which tensors are compared."""


class Whole:
    """A tensor that several shares are of: the place where their slots come together.

    Args:
        chunks: how many it has.
    """

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._there: dict[int, tuple[int, Any]] = {}  # first chunk -> the one behind the last, their slots
        self._folded: Any = None  # what the chunks before the next come to
        self._next = 0
        self._told = False
        self._lock = threading.Lock()

    def sums(self, chunks: range, tile: Any, group: int, resolve: Resolve, threads: int) -> Sums | None:
        """Take the slots of some chunks out of a tile; the sums of the tensor, once, when no chunk is missing.

        Where that fails, the chunks may be done again, also in parts.

        Args:
            chunks: those whose slots are filled.
            tile, group, resolve, threads: as for `Share.sums`.
        """
        cuts = [chunks.start, *range(chunks.start // group * group + group, chunks.stop, group), chunks.stop]
        brought = {first: (stop, tile.slots(first, stop)) for first, stop in itertools.pairwise(cuts)}
        with self._lock:
            self._there |= {first: piece for first, piece in brought.items() if first >= self._next}
            try:
                while pieces := self._next_group(group):
                    slots = [self._there[first][1] for first in pieces]
                    self._folded = tile.fold(self._folded, slots, resolve, threads)
                    self._next = self._there[pieces[-1]][0]
                    for first in pieces:
                        del self._there[first]
                if self._next < self._chunks or self._told:
                    return None
                sums: Sums = tile.finish(resolve, threads, self._folded)
            except BaseException:
                for first in brought:
                    self._there.pop(first, None)
                raise
            self._told, self._folded = True, None
            return sums

    def _next_group(self, group: int) -> list[int]:
        """The first chunks of the pieces that are to be folded next; none where any of them is missing."""
        at, stop, pieces = self._next, min(self._next + group, self._chunks), []
        while at < stop:
            if at not in self._there:
                return []
            pieces.append(at)
            at = self._there[at][0]
        return pieces


@dataclass(frozen=True, eq=False)
class Share:
    """What a device takes in one go.

    Attributes:
        batch: the tensors.
        chunks: those of the one tensor of the batch that are to be done; None where all of the batch is.
        whole: where the slots of such chunks come together.
    """

    batch: Batch
    chunks: range | None = None
    whole: Whole | None = None

    @property
    def nbytes(self) -> int:
        """The bytes that take part."""
        if self.chunks is None:
            return self.batch.nbytes
        elements = min(self.chunks.stop * CHUNK, int(self.batch.elements[0])) - self.chunks.start * CHUNK
        return int(elements * self.batch.itemsizes.sum())

    @property
    def chunk_count(self) -> int:
        """The chunks that are to be done."""
        return len(self.chunks) if self.chunks is not None else int((-(-self.batch.elements // CHUNK)).sum())

    def items(self, items: np.ndarray) -> np.ndarray:
        """Of the items of the batch's tile those that are to be done."""
        return items if self.chunks is None else items[self.chunks.start : self.chunks.stop]

    def cut(self, chunks: int) -> Iterator[Share]:
        """The share in parts of at most so many chunks."""
        for part in [self] if self.chunks is not None else map(Share, self.batch.cut(_ENDLESS, chunks)):
            yield from part.runs(-(-part.chunk_count // chunks))

    def runs(self, count: int) -> list[Share]:
        """A share of one tensor as so many of equal numbers of chunks, as far as that goes; any share as one."""
        count = min(count, self.chunk_count)
        if count <= 1:
            return [self]
        chunks = self.chunks or range(self.chunk_count)
        whole = self.whole or Whole(self.chunk_count)
        cuts = [chunks.start + len(chunks) * n // count for n in range(count + 1)]
        return [Share(self.batch, range(*ends), whole) for ends in itertools.pairwise(cuts)]

    def halves(self) -> list[Share]:
        """The share as two of half as many tensors, or chunks of one; itself where it has one chunk."""
        middle = len(self.batch.members) // 2
        if not middle:
            return self.runs(2)
        places = np.arange(len(self.batch.members))
        return [Share(self.batch.take(places[:middle])), Share(self.batch.take(places[middle:]))]

    def sums(self, tile: Any, group: int, resolve: Resolve, threads: int) -> Sums | None:
        """The sums of the batch out of a tile that was run; None where other shares of the tensor are to come.

        Args:
            tile: tiles with the slots of `items` filled.
            group: how many chunks the backend folds at a time.
            resolve, threads: as for `Tile.finish`.
        """
        if self.chunks is None or self.whole is None:
            return tile.finish(resolve, threads)  # type: ignore[no-any-return]
        return self.whole.sums(self.chunks, tile, group, resolve, threads)


def deal(batches: Sequence[Batch], devices: int, least_bytes: int, cut_tensors: bool) -> list[Share]:
    """Batches as shares, small enough that all devices end together.

    Args:
        batches: in the order in which they are to be read.
        devices: how many.
        least_bytes: shares are not made smaller than this.
        cut_tensors: whether a larger tensor is cut too.
    """
    if devices == 1:
        return [Share(batch) for batch in batches]
    most = max(sum(batch.nbytes for batch in batches) // (_SHARES * devices), least_bytes, 1)
    shares: list[Share] = []
    for batch in batches:
        for part in batch.cut(most, _ENDLESS):
            share = Share(part)
            if cut_tensors and part.nbytes > most:
                shares += share.runs(-(-part.nbytes // most))
            else:
                shares.append(share)
    return shares
