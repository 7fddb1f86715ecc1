"""A plan on a device -> sums. With `pipeline`, `lane` and `task_vectors` all that touches both bytes and kernels.

The processor works straight on memory maps, here; `pipeline` serves all other devices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..kernels import cpu
from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from ..kernels.threads import as_memory_error
from ..kernels.wanted import Wanted
from . import together
from .devices import as_bytes, choose
from .errors import ReadError
from .loading import Say, load_gpu_kernels, load_kernels
from .plan import Batch, Joined, batches
from .reading import Files, Staging
from .together import Way, bytes_of, tiles_of

__all__ = ["Sums", "execute", "execute_ways"]

_STAGED_BYTES = 96 << 20  # in buffers of all threads together, where files are read

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Sums:
    """What `execute` returns: sums in the order of the joined tensors.

    Attributes:
        selfs: (K, N, 6) float64 in the order of `kernels.sums.SELF_SUMS`.
        pairs: (K, P, 5) float64 in the order of `kernels.sums.PAIR_SUMS`.
        bytes_read: bytes of all operands, counted as they were handed to the kernel for the first time: what is
            compared in several ways is read once and counted once.
        seconds: wall time from the first mapping to the last sum.
        bytes_copied: what was sent to devices with a memory of their own, padding included.
        compile_seconds: wall time before that until the kernels were there, compiled where this machine had not yet.
    """

    selfs: np.ndarray
    pairs: np.ndarray
    bytes_read: int
    seconds: float
    bytes_copied: int = 0
    compile_seconds: float = 0.0


def execute(
    joined: Sequence[Joined] | Sequence[Batch],
    operands: int,
    pairs: Sequence[tuple[int, int]],
    *,
    wanted: Wanted = Wanted.ALL,
    threads: int | None = None,
    io: str = "auto",
    device: str = "auto",
    device_memory: str | int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Sums:
    """The self sums of every operand and the pair sums of every listed pair, each byte read once.

    Args:
        joined: K tensors with N operands each, or the batches that `plan.batches` made of them.
        operands: N (given apart, for K may be 0).
        pairs: P pairs (i, j) of operands, x = operand i, y = operand j.
        wanted: the sums that are taken, of all pairs; those that are have the same bits whatever others are.
        threads: worker threads; default all processors of this process. The result does not depend on it.
        io: how files are read, see `reading.Files`. The result does not depend on it.
        device: where sums are computed, see `devices`. Each device has its own last digits, right to 1e-12 on all.
        device_memory: the most memory used on each device, in bytes or as "8GB"; default what is free, less a margin.
            The result does not depend on it.
        progress: called with (bytes done, bytes in all) a few times a second at most, from this thread.
        say: told in a sentence when the kernels must be compiled first (that is not timed), or when another device is
            taken than was asked for.
    Returns:
        `Sums`; rows in the order of `joined`, NaN where a sum is not wanted.
    Raises:
        ReadError: a file cannot be read, is too short, or changed while it was read; or memory does not suffice.
        KernelError: the kernels cannot be compiled.
        DeviceError: the device is not there, cannot be used, or has too little memory.
        OptionError: there is no such device or way of reading.
    """
    way = Way(tuple(range(operands)), np.array(pairs, np.int64).reshape(-1, 2))
    (sums,) = execute_ways(
        joined,
        [way],
        wanted=wanted,
        threads=threads,
        io=io,
        device=device,
        device_memory=device_memory,
        progress=progress,
        say=say,
    )
    return sums


def execute_ways(
    joined: Sequence[Joined] | Sequence[Batch],
    ways: Sequence[Way],
    *,
    wanted: Wanted = Wanted.ALL,
    threads: int | None = None,
    io: str = "auto",
    device: str = "auto",
    device_memory: str | int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> list[Sums]:
    """The sums of tensors that are compared in several ways, each byte read once for all of them.

    Args:
        joined: K tensors with all their operands, as long as the longest way, or batches of them.
        ways: at least one.
        wanted, threads, io, device, device_memory, progress, say: as for `execute`.
    Returns:
        The sums of each way; bytes and seconds of all of them stand with the first.
    Raises:
        As `execute`.
    """
    parts = [each for each in joined if isinstance(each, Batch)]
    parts += batches([each for each in joined if isinstance(each, Joined)])
    memory = as_bytes(device_memory)
    chosen = choose(device, parts, sum(len(way.pairs) for way in ways), threads, say)
    began = time.perf_counter()
    for way in ways:
        dtypes = {way.dtypes(batch) for batch in parts}
        load_kernels(dtypes, way.pairs, wanted, say)
        if chosen:
            load_gpu_kernels(chosen, dtypes, way.pairs, wanted, say)
    started = time.perf_counter()
    found: list[tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]] = []
    report = _Throttle(progress, sum(bytes_of(batch, ways) for batch in parts))
    threads = threads or cpu.available_threads()
    copied = 0
    with _as_read_error(), Files(io) as files:
        if chosen:
            from .pipeline import Limits, Pipeline

            line = Pipeline(chosen, ways, threads, Limits(memory), files, report.add, wanted)
            found += [(part.rows, sums) for part, sums in line.run(parts)]
            copied = line.bytes_copied
        else:
            found += [(part.rows, _on_cpu(part, ways, files, wanted, threads, report)) for part in parts]
        files.check_unchanged()
    assert report.done == report.total, "bytes are counted where they are read, and must agree with what was planned"
    counted: tuple[int, float, int, float] = (report.done, time.perf_counter() - started, copied, started - began)
    out = []
    for number, way in enumerate(ways):
        here = [(rows, *sums[number]) for rows, sums in found]
        out.append(Sums(*_in_order(here, len(way.operands), len(way.pairs)), *(counted if number == 0 else (0, 0.0))))
    return out


def _in_order(
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], operands: int, pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """The sums of all batches, each with its places, in the order of the joined tensors."""
    tensors = sum(len(rows) for rows, _, _ in found)
    if len(found) == 1 and np.array_equal(found[0][0], np.arange(tensors)):
        return found[0][1:]  # as they stand: 20,000 small tensors take 0.6 ms to copy and 8 ms to compare
    selfs = np.zeros((tensors, operands, len(SELF_SUMS)))
    between = np.zeros((tensors, pairs, len(PAIR_SUMS)))
    for rows, *sums in found:
        selfs[rows], between[rows] = sums
    return selfs, between


@contextmanager
def _as_read_error() -> Iterator[None]:
    try:
        with as_memory_error():
            yield
    except MemoryError as error:
        raise ReadError(
            "memory does not suffice to read the checkpoints; allow more (ulimit -v), or use fewer --threads."
        ) from error


def _on_cpu(
    batch: Batch, ways: Sequence[Way], files: Files, wanted: Wanted, threads: int, report: _Throttle
) -> list[tuple[np.ndarray, np.ndarray]]:
    tiles = tiles_of(batch, ways, partial(cpu.Tile, wanted=wanted), together.PIECE_BYTES)
    staging = Staging(files, batch.placed, tiles.sizes, tiles.itemsizes)

    def run(items: np.ndarray, addresses: list[np.ndarray]) -> int:
        done = tiles.run(items, addresses)
        files.check_mapped()  # 16 MB at a time: what follows a page that is missing is not worth computing
        return done

    # More threads than processors where files are read: some wait for the device while others compute.
    workers, computing, task_bytes = threads, threading.Semaphore(threads), cpu.TASK_BYTES
    if staging.needed:
        workers += 2
        task_bytes = min(task_bytes, _STAGED_BYTES // workers)
    mapped = [] if staging.needed else tiles.spread(staging.addresses)

    def read_and_run(task: np.ndarray) -> int:
        if not staging.needed:
            return run(task, mapped)
        items, addresses = staging.read(task)
        with computing:
            return run(items, tiles.spread(addresses))

    for part in tiles.parts(threads):
        cpu.run_tasks(tiles.tasks(threads, part, task_bytes), read_and_run, workers, report.add)

    def resolve(tensors: np.ndarray) -> np.ndarray:
        columns = batch.placed.columns
        return np.array(
            [[files.address(column[k], int(tiles.sizes[k, n])) for n, column in enumerate(columns)] for k in tensors],
            np.int64,
        )

    return tiles.finish(resolve, threads)


class _Throttle:
    """Counts bytes and passes them on to a progress function at most ten times a second."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done, self._next = progress, total, 0, 0.0

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self.progress is not None and (time.monotonic() >= self._next or self.done >= self.total):
            self._next = time.monotonic() + 0.1
            self.progress(self.done, self.total)
