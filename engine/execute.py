"""A plan on a device -> sums. The only module that touches both bytes and kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..kernels import cpu
from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from .plan import Batch, Joined, batches
from .reading import Files, Staging

__all__ = ["Sums", "execute"]

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Sums:
    """What `execute` returns: sums in the order of the joined tensors.

    Attributes:
        selfs: (K, N, 6) float64 in the order of `kernels.sums.SELF_SUMS`.
        pairs: (K, P, 5) float64 in the order of `kernels.sums.PAIR_SUMS`.
        bytes_read: bytes of all operands, counted as they were handed to the kernel.
        seconds: wall time from the first mapping to the last sum.
    """

    selfs: np.ndarray
    pairs: np.ndarray
    bytes_read: int
    seconds: float


def execute(
    joined: Sequence[Joined],
    operands: int,
    pairs: Sequence[tuple[int, int]],
    *,
    threads: int | None = None,
    io: str = "auto",
    progress: Progress | None = None,
) -> Sums:
    """The self sums of every operand and the pair sums of every listed pair, each byte read once.

    Args:
        joined: K tensors with N operands each.
        operands: N (given apart, for K may be 0).
        pairs: P pairs (i, j) of operands, x = operand i, y = operand j.
        threads: worker threads; default all processors of this process. The result does not depend on it.
        io: how files are read, see `reading.Files`. The result does not depend on it.
        progress: called with (bytes done, bytes in all) a few times a second at most, from this thread.
    Returns:
        `Sums`; rows in the order of `joined`.
    Raises:
        ReadError: a file cannot be read, is too short, or changed while it was read.
    """
    started = time.perf_counter()
    total = sum(tensor.nbytes for tensor in joined)
    selfs = np.zeros((len(joined), operands, len(SELF_SUMS)))
    between = np.zeros((len(joined), len(pairs), len(PAIR_SUMS)))
    position = {tensor.index: row for row, tensor in enumerate(joined)}
    report = _Throttle(progress, total)
    with Files(io) as files:
        for batch in batches(joined):
            rows = [position[tensor.index] for tensor in batch.members]
            selfs[rows], between[rows] = _on_cpu(batch, files, np.array(pairs, np.int64), threads, report)
        files.check_unchanged()
    return Sums(selfs, between, report.done, time.perf_counter() - started)


def _on_cpu(
    batch: Batch, files: Files, pairs: np.ndarray, threads: int | None, report: _Throttle
) -> tuple[np.ndarray, np.ndarray]:
    threads = threads or cpu.available_threads()
    members = batch.members
    elements = np.array([tensor.elements for tensor in members], np.int64)
    tile = cpu.Tile(batch.dtypes, elements, pairs)
    refs = [tensor.operands for tensor in members]
    sizes = elements[:, None] * tile.itemsizes
    staging = Staging(files, refs, sizes, tile.itemsizes)
    if staging.needed:
        # More threads than processors: some wait for the device while others compute.
        cpu.run_tasks(tile.tasks(threads), lambda task: tile.run(*staging.read(task)), threads + 2, report.add)
    else:
        cpu.run_tasks(tile.tasks(threads), lambda task: tile.run(task, staging.addresses), threads, report.add)

    def resolve(tensors: np.ndarray) -> np.ndarray:
        rows = [[files.address(ref, int(n)) for ref, n in zip(refs[k], sizes[k], strict=True)] for k in tensors]
        return np.array(rows, np.int64)

    return tile.finish(resolve, threads)


class _Throttle:
    """Counts bytes and passes them on to a progress function at most ten times a second."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done, self._next = progress, total, 0, 0.0

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self.progress is not None and (time.monotonic() >= self._next or self.done >= self.total):
            self._next = time.monotonic() + 0.1
            self.progress(self.done, self.total)
