"""The machine's own ceilings: the least that can be done with some bytes, on as many threads as the subject has."""

import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from weighbridge.kernels.cpu import available_threads

_MOST_BYTES, _LEAST_BYTES = 64 << 20, 1 << 20
"""What one task of a bare sum takes: 4 MiB at a time gave 27 GB/s, 16 MiB 30, 64 MiB 31."""


class Span(NamedTuple):
    """A run of bytes in a file."""

    path: Path
    start: int
    stop: int


@njit(nogil=True, fastmath={"reassoc", "nsz", "contract"}, cache=True)
def _sum(values):
    total = np.float32(0)
    for i in range(values.size):
        total += values[i]
    return total


def bare_sum(*parts: Path | Span | np.ndarray, threads: int | None = None) -> Callable[[], None]:
    """One float32 sum over all bytes of the parts: no comparison that reads them can be faster than this.

    Files and spans of files are mapped afresh in every run, as `engine.execute` maps them, so that both pay for the
    page faults; arrays (of memory, or of a map that is held open) are taken where they lie.
    """
    threads = threads or available_threads()

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(_sum, _cut(list(_floats(parts)), threads)):
                pass

    return run


def cold_read(*paths: Path, threads: int = 8) -> Callable[[], None]:
    """Files read into a buffer by several threads, a few MiB at a time: as fast as the disk was seen to give them."""
    piece = 4 << 20

    def read(job: tuple[int, int]) -> None:
        descriptor, offset = job
        os.preadv(descriptor, [bytearray(piece)], offset)

    def run() -> None:
        descriptors = [os.open(path, os.O_RDONLY) for path in paths]
        try:
            jobs = [(each, at) for each in descriptors for at in range(0, os.fstat(each).st_size, piece)]
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(read, jobs):
                    pass
        finally:
            for each in descriptors:
                os.close(each)

    return run


def joined_spans(spans: Iterable[Span]) -> list[Span]:
    """The spans with those that touch made one, so that a bare sum is not slowed down by many small ones."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and merged[-1].path == span.path and merged[-1].stop == span.start:
            merged[-1] = merged[-1]._replace(stop=span.stop)
        else:
            merged.append(span)
    return merged


def _floats(parts: Iterable[Path | Span | np.ndarray]) -> Iterable[np.ndarray]:
    maps: dict[Path, np.ndarray] = {}
    for part in parts:
        if isinstance(part, np.ndarray):
            data = part.reshape(-1).view(np.uint8)
        else:
            path = part if isinstance(part, Path) else part.path
            if path not in maps:
                with open(path, "rb") as file:
                    maps[path] = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            data = maps[path] if isinstance(part, Path) else maps[path][part.start : part.stop]
        # Nothing aligns a tensor in a file; a few bytes less at either end do not matter here.
        data = data[-data.ctypes.data % 4 :]
        yield data[: data.size // 4 * 4].view(np.float32)


def _cut(arrays: list[np.ndarray], threads: int) -> list[np.ndarray]:
    share = sum(values.nbytes for values in arrays) // (8 * threads)
    step = min(max(share, _LEAST_BYTES), _MOST_BYTES) // 4
    return [
        values[start:stop] for values in arrays for start, stop in pairwise([*range(0, values.size, step), values.size])
    ]
