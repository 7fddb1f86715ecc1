"""The CPU backend: tiles of N operands and P pairs, each operand's bytes read once, on any number of threads.

Operands are addresses into memory maps (or into buffers that were read), so a stack is zero-copy. A work item is one
chunk of one tensor; `tile.run` walks it in blocks that stay in the first-level cache: the operands are decoded (float32
and float64 are used where they lie), the self sums of each and the sums of every pair are taken, and the next block
follows.

After all slots are added, a tensor whose sum has cancelled so far that its error bound does not certify 1e-12 (or that
left float64's range on the way) is run again with every block compensated, and if that does not certify it either, in
exact arithmetic by `reference`. So the accuracy is certified, not hoped for, and only adversarial data pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager

import numpy as np

from . import native, reference
from .certainty import doubts
from .decoders import DECODERS
from .layout import BLOCK, PAIR_SLOTS, PAIR_SQUARE, SELF_SLOTS, TASK_WORDS, WORK_OPERAND, WORK_SLOTS
from .processors import available_threads
from .sums import CHUNK, PAIR_SUMS, SELF_SUMS
from .threads import thread_pool
from .wanted import Wanted

__all__ = [
    "SLOT_BYTES",
    "TASK_BYTES",
    "Tile",
    "available_threads",
    "chunk_items",
    "cut_tasks",
    "functions",
    "run_tasks",
    "tile_sums",
]

TASK_BYTES = 16 << 20
"""About what one thread takes at a time: long against the cost of handing it over, short against a file."""

SLOT_BYTES = 64 << 20
"""About what the slots of a tile take at a time. One pair needs 168 bytes a chunk; all pairs of 500 operands, 7 MB."""

# dtype -> what `layout.OPERAND_ROWS` says of its fixed point. The 8-bit formats without a sign, or in which the pattern
# of the sign alone is NaN, are left to floating point.
_FIXED = {
    "BF16": (1, 7, 127, 0x7F80),
    "F16": (1, 10, 15, 0x7C00),
    "F8_E4M3": (1, 3, 7, 0x7F),
    "F8_E5M2": (1, 2, 15, 0x7C),
    **{code: (2, bits, 0, 0) for code, bits in (("I8", 8), ("U8", 8), ("I16", 16), ("U16", 16), ("BOOL", 1))},
}

_NEVER = (0, 0, 0, 0)

Resolve = Callable[[np.ndarray], np.ndarray]


def tile_sums(
    addresses: np.ndarray,
    codes: Sequence[str],
    elements: np.ndarray,
    pairs: np.ndarray,
    *,
    wanted: Wanted = Wanted.ALL,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Self sums of every operand and pair sums of every listed pair, each byte read once.

    self_sums[k, n] = (E, Σ|x|, Σx, Σx², max|x|, #nonfinite)
    pair_sums[k, p] = (Σ|x-y|, Σ(x-y)², Σxy, max|x-y|, #(x≠y))

    Args:
        addresses: (K, N) int64, where operand n of tensor k begins in memory; any alignment.
        codes: N safetensors dtype names out of `DECODERS`, one per operand, the same for all K tensors.
        elements: (K,) int64, elements of each tensor.
        pairs: (P, 2) int64, rows (i, j) for x = operand i, y = operand j; P may be 0.
        wanted: the sums that are to be taken; those that are have the same bits whatever others are.
        threads: worker threads; default all processors this process may use. The result does not depend on it.
        progress: called from the calling thread with the bytes that were finished since its last call.
    Returns:
        (K, N, 6) and (K, P, 5) float64 in the order of `sums.SELF_SUMS` and `sums.PAIR_SUMS`, within 1e-12 relative of
        exact arithmetic. NaN propagates; zero elements give zeros; NaN stands for what is not wanted.
    Raises:
        KeyError: a dtype has no decoder; the engine leaves such tensors out beforehand.
    """
    threads = threads or available_threads()
    addresses = np.ascontiguousarray(addresses, np.int64)
    work = Tile(codes, elements, pairs, wanted=wanted)
    for part in work.parts(threads):
        run_tasks(work.tasks(threads, part), lambda task: work.run(task, addresses), threads, progress)
    return work.finish(lambda tensors: addresses[tensors], threads)


def run_tasks(
    tasks: Sequence[np.ndarray],
    work: Callable[[np.ndarray], int],
    threads: int,
    progress: Callable[[int], object] | None = None,
) -> None:
    """`work(task)` for every task on a pool of threads; what it returns (bytes) goes to `progress` as tasks finish.

    Raises:
        MemoryError: there is no room for so many threads, see `threads`; or whatever `work` raises.
    """
    if threads == 1 or len(tasks) <= 1:
        for task in tasks:
            done = work(task)
            if progress is not None:
                progress(done)
        return
    with thread_pool(min(threads, len(tasks))) as pool:
        running = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(running):
                done = future.result()
                if progress is not None:
                    progress(done)
        except BaseException:  # an interrupt above all: what has not begun need not begin
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class Tile:
    """K tensors with N operands each and P pairs: the work items, and the slots that fill as they are run.

    Items are run part by part, those of a part in any order, on any thread, from addresses that differ from call to
    call (so that what was read into a buffer serves as well as a map). Slots are added in their fixed order; `finish`
    makes certain of the sums.

    Args:
        codes, elements, pairs, wanted: as for `tile_sums`.
        force: take no Σxy from Σx² + Σy² - Σd² in floating point.
    """

    def __init__(
        self,
        codes: Sequence[str],
        elements: np.ndarray,
        pairs: np.ndarray,
        *,
        wanted: Wanted = Wanted.ALL,
        force: bool = False,
    ) -> None:
        self.decoders = [DECODERS[code] for code in codes]
        self.elements = np.ascontiguousarray(elements, np.int64)
        self.pairs = np.ascontiguousarray(pairs, np.int64).reshape(-1, 2)
        self.itemsizes = np.array([d.itemsize for d in self.decoders], np.int64)
        self.force = force
        walk, self.wanted = functions(codes, self.pairs, wanted)
        narrow = all(d.wide == "f32" for d in self.decoders)
        self._working = np.dtype(np.float32 if narrow else np.float64)
        direct = "F32" if narrow else "F64"
        self._run = native.function(walk, self.wanted)
        self._operands = np.array(
            [
                [d.index for d in self.decoders],
                self.itemsizes,
                [d.code == direct for d in self.decoders],
                [d.bits for d in self.decoders],
                [d.integer for d in self.decoders],
                *zip(*(_FIXED.get(d.code, _NEVER) if narrow else _NEVER for d in self.decoders), strict=True),
            ],
            np.int64,
        )
        # Pairs are run in squares of operands whose blocks stay in the second-level cache together.
        square = self.pairs // PAIR_SQUARE
        self._order = np.lexsort((self.pairs[:, 1], self.pairs[:, 0], square[:, 1], square[:, 0]))
        self._ordered = np.ascontiguousarray(self.pairs[self._order])
        self.items = chunk_items(self.elements)
        tensors, operands = len(self.elements), len(self.decoders)
        self._self_sums, self._self_bounds = (
            np.zeros((tensors, operands, len(SELF_SUMS))),
            np.zeros((tensors, operands)),
        )
        shape = tensors, len(self.pairs)
        self._pair_sums, self._pair_bounds = np.zeros((*shape, len(PAIR_SUMS))), np.zeros(shape)
        self._first = 0  # the chunk that the first slots are of
        self._self_slots = np.zeros((0, operands, SELF_SLOTS))
        self._pair_slots = np.zeros((0, len(self.pairs), PAIR_SLOTS))
        self._totals = np.empty((operands + len(self.pairs), SELF_SLOTS + 2))  # of the tensor in which a part ends

    @property
    def next_item(self) -> int:
        """The first item that was in no part yet."""
        return self._first + len(self._self_slots)

    @property
    def chunk_slot_bytes(self) -> int:
        """What the slots of one chunk take."""
        return 8 * (SELF_SLOTS * len(self.decoders) + PAIR_SLOTS * len(self.pairs))

    def parts(self, threads: int, slot_bytes: int = SLOT_BYTES) -> Iterator[np.ndarray]:
        """The items in parts whose slots take about `slot_bytes`, or as much as so many threads need.

        The items of a part are to be run before the next part is asked for: the slots are then added up and used again.
        The result does not depend on the cuts.
        """
        most = max(slot_bytes // self.chunk_slot_bytes, 2 * threads)
        for first in range(0, len(self.items), most):
            with self.part(first, first + most) as part:
                yield part

    @contextmanager
    def part(self, first: int, stop: int) -> Iterator[np.ndarray]:
        """The items from `first` to before `stop`, to be run within; they follow those of the part before.

        Their slots are added up when they are done, unless something was raised.
        """
        part = self.items[first:stop]
        self._first = first
        self._self_slots = np.zeros((len(part), len(self.decoders), SELF_SLOTS))
        self._pair_slots = np.zeros((len(part), len(self.pairs), PAIR_SLOTS))
        yield part
        if len(part):
            self._gather(part, first > 0 and bool(self.items[first - 1, 0] == part[0, 0]))

    def tasks(self, threads: int, items: np.ndarray, task_bytes: int = TASK_BYTES) -> list[np.ndarray]:
        """Items cut into runs of about `task_bytes`, at least one per thread, so that threads finish together."""
        return cut_tasks(items, int(self.itemsizes.sum()), threads, task_bytes)

    def run(self, items: np.ndarray, addresses: np.ndarray) -> int:
        """Fill the slots of some items; the interpreter lock is not held meanwhile.

        Args:
            items: rows of one part of `self.items`.
            addresses: (K, N) int64, where each operand's first element lies or would lie; only the elements of `items`
                are touched.
        Returns:
            The bytes that were read.
        """
        operands = len(self.decoders)
        # Vectors that begin at multiples of their 64 bytes lie in one line of the cache each.
        scratch = np.empty(2 * operands * BLOCK + 64 // self._working.itemsize, self._working)
        work = np.empty(WORK_SLOTS + operands * WORK_OPERAND)
        items = np.ascontiguousarray(items, np.int64)
        addresses = np.ascontiguousarray(addresses, np.int64)
        slots = items[:, 3] - self._first
        assert not len(slots) or (slots.min() >= 0 and slots.max() < len(self._self_slots)), "items of another part"
        task = [  # see `task.task_of`
            -(-scratch.ctypes.data // 64) * 64,
            work.ctypes.data,
            len(items),
            items.ctypes.data,
            len(addresses),
            addresses.ctypes.data,
            operands,
            self._operands.ctypes.data,
            len(self.pairs),
            self._ordered.ctypes.data,
            self.force,
            *self._slots_at(),
        ]
        assert len(task) == TASK_WORDS
        words = np.array(task, np.int64)
        self._run(0, words.ctypes.data)
        return int(items[:, 2].sum() * self.itemsizes.sum())

    def finish(self, resolve: Resolve, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """The sums of all tensors, certified to 1e-12.

        Args:
            resolve: tensors (Q,) -> addresses (Q, N), for the few that must be looked at again.
            threads: as for `tile_sums`.
        Returns:
            (K, N, 6) and (K, P, 5) float64.
        """
        return self.settle(*self._gathered(), resolve, threads)

    def settle(
        self,
        self_sums: np.ndarray,
        pair_sums: np.ndarray,
        self_bounds: np.ndarray,
        pair_bounds: np.ndarray,
        resolve: Resolve,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums made certain: those in doubt, by `certainty`, are taken again; Σxy compensated first, all exactly then.

        Args:
            self_sums, pair_sums: (K, N, 6) and (K, P, 5) float64, as some backend took them; changed in place.
            self_bounds, pair_bounds: (K, N) and (K, P), the errors that Σx and Σxy may have.
            resolve, threads: as for `finish`.
        Returns:
            The sums; NaN where they are not wanted.
        """
        dot = PAIR_SUMS.index("dot")
        self_doubts, pair_doubts = self._doubts(self_sums, pair_sums, self_bounds, pair_bounds)
        codes = [d.code for d in self.decoders]
        again = np.flatnonzero(pair_doubts[..., dot].any(axis=1))
        if len(again):
            addresses = resolve(again)
            work = Tile(codes, self.elements[again], self.pairs, wanted=self.wanted, force=True)
            for part in work.parts(threads):
                run_tasks(work.tasks(threads, part), lambda task: work.run(task, addresses), threads)
            gathered = work._gathered()
            # Only what is in doubt is replaced: a pair's sums are the same bits whatever shares the tile with it.
            compensated, still = gathered[1][..., dot], work._doubts(*gathered)[1][..., dot]
            pair_sums[again, :, dot] = np.where(pair_doubts[again, :, dot], compensated, pair_sums[again, :, dot])
            pair_doubts[again, :, dot] &= still
        rest = np.flatnonzero(self_doubts.any(axis=(1, 2)) | pair_doubts.any(axis=(1, 2)))
        for row, addresses in zip(rest, resolve(rest) if len(rest) else (), strict=True):
            selfs, pairs = (np.flatnonzero(found[row].any(axis=1)) for found in (self_doubts, pair_doubts))
            needed = np.union1d(selfs, self.pairs[pairs])
            operands = [
                reference.bytes_at(int(addresses[n]), int(self.elements[row] * self.itemsizes[n])) for n in needed
            ]
            exact = reference.tile_sums(
                operands, [codes[n] for n in needed], np.searchsorted(needed, self.pairs[pairs])
            )
            exact_selfs = exact[0][np.searchsorted(needed, selfs)]
            self_sums[row, selfs] = np.where(self_doubts[row, selfs], exact_selfs, self_sums[row, selfs])
            pair_sums[row, pairs] = np.where(pair_doubts[row, pairs], exact[1], pair_sums[row, pairs])
        self_sums[..., ~self.wanted.self_columns] = np.nan
        pair_sums[..., ~self.wanted.pair_columns] = np.nan
        return self_sums, pair_sums

    def _doubts(
        self, self_sums: np.ndarray, pair_sums: np.ndarray, self_bounds: np.ndarray, pair_bounds: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return doubts(self.decoders, self.pairs, self.wanted, self_sums, pair_sums, self_bounds, pair_bounds)

    def _slots_at(self) -> tuple[int, int]:
        """Where the slots of the first chunk of all would lie."""
        selfs, pairs = self._self_slots, self._pair_slots
        return (
            selfs.ctypes.data - self._first * selfs.strides[0],
            pairs.ctypes.data - self._first * pairs.strides[0],
        )

    def _gather(self, part: np.ndarray, resumed: bool) -> None:
        """Add the slots of a part to the sums of its tensors."""
        native.function("gather")(
            len(part),
            part.ctypes.data,
            resumed,
            len(self.decoders),
            len(self.pairs),
            *self._slots_at(),
            self._totals.ctypes.data,
            self._self_sums.ctypes.data,
            self._self_bounds.ctypes.data,
            self._pair_sums.ctypes.data,
            self._pair_bounds.ctypes.data,
        )

    def _gathered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The sums, and the bounds of Σx (K, N) and of Σxy (K, P)."""
        self._self_sums[..., 0] = self.elements[:, None]
        sums, bounds = self._pair_sums, self._pair_bounds
        if (back := np.argsort(self._order)).size > 1:
            sums, bounds = sums[:, back], bounds[:, back]
        return self._self_sums, sums, self._self_bounds, bounds


def functions(codes: Sequence[str], pairs: np.ndarray, wanted: Wanted) -> tuple[str, Wanted]:
    """The walk of such a tile, and the sums that it takes: what `native.function` is asked for.

    A tile of a base and others takes all sums, since whoever compares with a base wants them; one without pairs those
    of operands alone.
    """
    narrow = all(DECODERS[code].wide == "f32" for code in codes)
    star = len(codes) > 1 and np.array_equal(pairs, [(i, 0) for i in range(1, len(codes))])
    whole = Wanted.ALL if star else wanted.completed(wide=not narrow)
    if not len(pairs):
        whole &= Wanted.SQUARES | Wanted.TOTALS
    return ("star_" if star else "pairs_") + ("f32" if narrow else "f64"), whole


def cut_tasks(items: np.ndarray, width: int, threads: int, task_bytes: int = TASK_BYTES) -> list[np.ndarray]:
    """Items of `width` bytes an element cut into runs of about `task_bytes`, at least one per thread."""
    if not len(items):
        return []
    ends = np.cumsum(items[:, 2])
    count = max(threads, -(-int(ends[-1] * width) // task_bytes))
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count)
    return [task for task in np.split(items, cuts) if len(task)]


def chunk_items(elements: np.ndarray) -> np.ndarray:
    """One row (tensor, start, length, slot) per chunk of every tensor."""
    chunks = -(-elements // CHUNK)
    tensor = np.repeat(np.arange(len(elements)), chunks)
    first = np.cumsum(chunks) - chunks
    slot = np.arange(len(tensor))
    start = (slot - first[tensor]) * CHUNK
    return np.stack([tensor, start, np.minimum(elements[tensor] - start, CHUNK), slot], axis=1).astype(np.int64)
