"""Tiles over the same bytes: joined tensors that are compared in several ways are read once for all of them.

A pair's sums depend on how many leading elements take part, and on whether one of the two needs float64. So a tensor
whose pairs differ in that is several tiles, one for each way, and an operand may be in more than one of them. Chunks
begin at the same elements whatever the length, so the tiles are run side by side: on the processor piece by piece, of
about `PIECE_BYTES` that tiles have in common, by the thread that read the piece or touches it in the map, so that the
first tile has it from memory and the others from the caches; on a device task by task, from its memory, to which a task
is brought once. Each tile has slots of its own, so its sums are the bits that it has alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import cpu
from ..kernels.cpu import Resolve
from ..kernels.layout import BLOCK
from ..kernels.sums import CHUNK
from .plan import Batch

__all__ = ["PIECE_BYTES", "Way", "bytes_of", "lengths", "tiles_of"]

PIECE_BYTES = 1 << 20
"""What one tile is run over before the next, of the operands that tiles have in common: a common second-level cache.

Of many operands one block may take more. Of a base and others in two ways the base alone is common; counting all
operands instead, each run so short that calling it shows, took 20 % longer.
"""


@dataclass(frozen=True, eq=False)
class Way:
    """One of the ways in which joined tensors are compared: a tile of some of their operands.

    Attributes:
        operands: the places of its N operands among the joined ones; one may be there twice.
        pairs: (P, 2) int64, rows (i, j) of places in `operands`.
        elements: (K,) int64, how many leading elements of each joined tensor take part; None: all that are joined.
    """

    operands: tuple[int, ...]
    pairs: NDArray[np.int64]
    elements: NDArray[np.int64] | None = None

    def of(self, batch: Batch) -> NDArray[np.int64]:
        """(K',) the elements of the tensors of a batch that take part."""
        return batch.elements if self.elements is None else self.elements[batch.rows]

    def dtypes(self, batch: Batch) -> tuple[str, ...]:
        """The dtypes of its operands in a batch."""
        return tuple(batch.dtypes[n] for n in self.operands)


def lengths(batch: Batch, ways: Sequence[Way]) -> NDArray[np.int64]:
    """(K, N) how many leading elements of each joined operand take part in the longest of its ways."""
    shape = len(batch.members), len(batch.dtypes)
    if len(ways) == 1:
        return np.broadcast_to(ways[0].of(batch)[:, None], shape)
    out = np.zeros(shape, np.int64)
    for way in ways:
        columns = list(way.operands)
        out[:, columns] = np.maximum(out[:, columns], way.of(batch)[:, None])
    return out


def bytes_of(batch: Batch, ways: Sequence[Way]) -> int:
    """The bytes of a batch that take part, those that several ways have in common once."""
    return int((lengths(batch, ways).sum(axis=0) * batch.itemsizes).sum())


def tiles_of(
    batch: Batch,
    ways: Sequence[Way],
    tile: Callable[..., Any],
    piece_bytes: int | None = None,
    chunks: range | None = None,
) -> One | Together:
    """The tiles of a batch, one for each way, run as one tile over all joined operands would be.

    Args:
        batch: the K tensors.
        ways: at least one.
        tile: makes a tile of a backend from dtypes, elements and pairs.
        piece_bytes: what one tile is run over before the next, of common operands; None: all that it is given, as on a
            device, to whose memory that was brought already.
        chunks: those of the only tensor that tiles of a device are to hold; None: all of all tensors.
    """
    made = []
    for way in ways:
        elements, held = way.of(batch), {}
        if chunks is not None:
            end = -(-int(elements[0]) // CHUNK)
            held = {"held": range(min(chunks.start, end), min(chunks.stop, end))}
        made.append(tile(way.dtypes(batch), elements, way.pairs, **held))
    sizes = lengths(batch, ways)
    if len(ways) == 1 and ways[0].operands == tuple(range(len(batch.dtypes))):
        return One(batch, made[0], sizes)
    return Together(batch, ways, made, sizes, piece_bytes)


class One:
    """The only tile of a batch, of all joined operands as they stand, in the words of `Together`, whose attributes and
    methods these are.
    """

    def __init__(self, batch: Batch, tile: Any, lengths: NDArray[np.int64]) -> None:
        self._tile = tile
        self.itemsizes = batch.itemsizes
        self.sizes = lengths * self.itemsizes
        self.items: np.ndarray = tile.items

    def parts(self, threads: int) -> Iterator[np.ndarray]:
        yield from self._tile.parts(threads)

    def tasks(self, threads: int, part: np.ndarray, task_bytes: int) -> list[np.ndarray]:
        return list(self._tile.tasks(threads, part, task_bytes))

    def spread(self, addresses: np.ndarray) -> list[np.ndarray]:
        return [addresses]

    def run(self, task: np.ndarray, addresses: Sequence[np.ndarray], *arena: Any) -> int:
        return int(self._tile.run(task, addresses[0], *arena))

    def slots(self, first: int, last: int) -> list[Any]:
        return [self._tile.slots(first, last)]

    def fold(
        self, folded: Sequence[Any] | None, slots: Sequence[Sequence[Any]], resolve: Resolve, threads: int
    ) -> list[Any]:
        return [self._tile.fold(None if folded is None else folded[0], [each for (each,) in slots], resolve, threads)]

    def finish(
        self, resolve: Resolve, threads: int, folded: Sequence[Any] | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self._tile.finish(resolve, threads, *folded or ())]


class Together:
    """Tiles over the same bytes.

    Attributes:
        itemsizes: (N,) int64, of the joined operands.
        sizes: (K, N) int64, the bytes of each that take part in any way.
        items: one row (tensor, start, length, slot) per chunk of every tensor, as long as its longest way.
    """

    def __init__(
        self,
        batch: Batch,
        ways: Sequence[Way],
        tiles: Sequence[Any],
        lengths: NDArray[np.int64],
        piece_bytes: int | None,
    ) -> None:
        self._tiles = tiles
        self._columns = [list(way.operands) for way in ways]
        self.itemsizes = batch.itemsizes
        self._lengths = lengths
        self.sizes = self._lengths * self.itemsizes
        self._width = int(self.itemsizes.sum())
        readers = np.bincount(np.concatenate([np.unique(way.operands) for way in ways]), minlength=len(self.itemsizes))
        common = int(self.itemsizes[readers > 1].sum())
        # How many elements one tile is run over before the next; None: all that it is given.
        self._most = max(piece_bytes // common // BLOCK, 1) * BLOCK if piece_bytes and common else None
        self.items = cpu.chunk_items(self._lengths.max(axis=1, initial=0))
        # Of each tile: the first of its items of every tensor, and how many of its items come before one of ours.
        self._first = [np.searchsorted(tile.items[:, 0], np.arange(len(batch.members))) for tile in self._tiles]
        tensor, start = self.items[:, 0], self.items[:, 1]
        self._before = [np.r_[0, np.cumsum(start < tile.elements[tensor])] for tile in self._tiles]

    def parts(self, threads: int) -> Iterator[np.ndarray]:
        """The items in parts whose slots take about `cpu.SLOT_BYTES` in all tiles together, as `cpu.Tile.parts`."""
        most = max(cpu.SLOT_BYTES // sum(tile.chunk_slot_bytes for tile in self._tiles), 2 * threads)
        for first in range(0, len(self.items), most):
            part = self.items[first : first + most]
            with ExitStack() as stack:
                for tile, before in zip(self._tiles, self._before, strict=True):
                    stack.enter_context(tile.part(int(before[first]), int(before[first + len(part)])))
                yield part

    def tasks(self, threads: int, part: np.ndarray, task_bytes: int) -> list[np.ndarray]:
        """Items of a part cut into runs of about `task_bytes`, at least one per thread."""
        return cpu.cut_tasks(part, self._width, threads, task_bytes)

    def spread(self, addresses: np.ndarray) -> list[np.ndarray]:
        """Addresses (K, N) of the joined operands as those of each tile's own."""
        return [np.ascontiguousarray(addresses[:, columns]) for columns in self._columns]

    def run(self, task: np.ndarray, addresses: Sequence[np.ndarray], *arena: Any) -> int:
        """Fill the slots of all tiles for some items; the interpreter lock is not held while one of them is run.

        Args:
            task: rows of one part of `items`, their tensors numbered as the rows of `addresses`.
            addresses: what `spread` made of those of the joined operands.
            arena: as tiles of the backend take it.
        Returns:
            The bytes that were read, those that several tiles have in common once.
        """
        pieces, ends = self._pieces(task)
        tensors = self.items[pieces[:, 3], 0]
        runs = []
        for tile, first in zip(self._tiles, self._first, strict=True):
            items = pieces.copy()
            items[:, 2] = np.minimum(tile.elements[tensors] - items[:, 1], items[:, 2])
            items[:, 3] = first[tensors] + items[:, 1] // CHUNK
            inside = items[:, 2] > 0
            runs.append((tile, items[inside], np.r_[0, np.cumsum(inside)][ends]))
        for begin in range(len(ends) - 1):
            for (tile, items, at), where in zip(runs, addresses, strict=True):
                if at[begin] < at[begin + 1]:
                    tile.run(items[at[begin] : at[begin + 1]], where, *arena)
        left = self._lengths[self.items[task[:, 3], 0]] - task[:, 1, None]
        return int((np.clip(left, 0, task[:, 2, None]) * self.itemsizes).sum())

    def _pieces(self, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items cut at blocks into pieces of at most as many elements as one tile is run over before the next.

        Returns:
            The pieces as items, and where each run of pieces of about so many elements together begins, with their
            number as the last.
        """
        if self._most is None:
            return task, np.array([0, len(task)])
        step = min(self._most, CHUNK)
        counts = -(-task[:, 2] // step)
        of = np.repeat(np.arange(len(task)), counts)
        skipped = (np.arange(len(of)) - (np.cumsum(counts) - counts)[of]) * step
        pieces = task[of]
        pieces[:, 1] += skipped
        pieces[:, 2] = np.minimum(pieces[:, 2] - skipped, step)
        run = (np.cumsum(pieces[:, 2]) - 1) // self._most
        return pieces, np.r_[np.flatnonzero(np.diff(run, prepend=-1)), len(pieces)]

    def slots(self, first: int, last: int) -> list[Any]:
        """What `run` has left of the items from `first` to before `last`, of each tile, in the memory of the host.

        None stands for a tile that has none of them.
        """
        ends = [(int(before[first]), int(before[last])) for before in self._before]
        return [
            tile.slots(begin, end) if begin < end else None
            for tile, (begin, end) in zip(self._tiles, ends, strict=True)
        ]

    def fold(
        self, folded: Sequence[Any] | None, slots: Sequence[Sequence[Any]], resolve: Resolve, threads: int
    ) -> list[Any]:
        """As a device's tile, of each tile; None of one that has no chunks yet. A shorter way has fewer."""
        made = []
        for tile, before, column, own in zip(
            self._tiles,
            folded or [None] * len(self._tiles),
            zip(*slots, strict=True),
            self._resolving(resolve),
            strict=True,
        ):
            some = [each for each in column if each is not None]
            made.append(tile.fold(before, some, own, threads) if some else before)
        return made

    def finish(
        self, resolve: Resolve, threads: int, folded: Sequence[Any] | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The sums of every way, as `cpu.Tile.finish`; `resolve` gives the addresses of all joined operands."""
        more = [()] * len(self._tiles) if folded is None else [(each,) for each in folded]
        return [
            tile.finish(own, threads, *each)
            for tile, own, each in zip(self._tiles, self._resolving(resolve), more, strict=True)
        ]

    def _resolving(self, resolve: Resolve) -> list[Resolve]:
        """`resolve` of all joined operands as that of each tile's own."""
        return [lambda tensors, columns=columns: resolve(tensors)[:, columns] for columns in self._columns]  # type: ignore[misc]
