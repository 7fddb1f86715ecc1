"""What is dealt out to devices: parts of batches, and runs of chunks of a tensor that is too large for one device.

A tensor's chunks have slots of their own, so any device may fill the slots of any of them. What several devices have
filled comes together on the one that is done last: it takes the slots of the others to its own, each to its place, and
adds them as if it had filled them all.
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
        shares: how many there are.
    """

    def __init__(self, shares: int) -> None:
        self._shares = shares
        self._there: dict[int, Any] = {}
        self._lock = threading.Lock()

    def bring(self, first: int, slots: Any) -> dict[int, Any] | None:
        """Leave the slots of the chunks from `first` on; those of all shares, by first chunk, where none is missing."""
        with self._lock:
            self._there[first] = slots
            return self._there if len(self._there) == self._shares else None


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

    def items(self, items: np.ndarray) -> np.ndarray:
        """Of the items of the batch's tile those that are to be done."""
        return items if self.chunks is None else items[self.chunks.start : self.chunks.stop]

    def cut(self, chunks: int) -> Iterator[Share]:
        """The share in parts of at most so many chunks; a tensor with more is a part of its own."""
        if self.chunks is not None:
            yield self
        else:
            yield from map(Share, self.batch.cut(_ENDLESS, chunks))

    def halves(self) -> list[Share]:
        """The share as two of half as many tensors; itself where it has one."""
        middle = len(self.batch.members) // 2
        if not middle:
            return [self]
        places = np.arange(len(self.batch.members))
        return [Share(self.batch.take(places[:middle])), Share(self.batch.take(places[middle:]))]

    def sums(self, tile: Any, resolve: Resolve, threads: int) -> Sums | None:
        """The sums of the batch out of a tile that was run; None where other shares of the tensor are to come.

        Args:
            tile: tiles with the slots of `items` filled.
            resolve, threads: as for `Tile.finish`.
        """
        if self.chunks is not None and self.whole is not None:
            there = self.whole.bring(self.chunks.start, tile.slots(self.chunks.start, self.chunks.stop))
            if there is None:
                return None
            for first, slots in there.items():
                if first != self.chunks.start:
                    tile.put_slots(first, slots)
        return tile.finish(resolve, threads)  # type: ignore[no-any-return]


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
            if cut_tensors and part.nbytes > most:
                shares += _pieces(part, most)
            else:
                shares.append(Share(part))
    return shares


def _pieces(tensor: Batch, most: int) -> list[Share]:
    """A batch of one tensor as shares of about so many bytes, of equal numbers of chunks as far as that goes."""
    chunks = -(-int(tensor.elements[0]) // CHUNK)
    count = min(-(-tensor.nbytes // most), chunks)
    if count == 1:
        return [Share(tensor)]
    cuts = [chunks * n // count for n in range(count + 1)]
    whole = Whole(count)
    return [Share(tensor, range(*ends), whole) for ends in itertools.pairwise(cuts)]
