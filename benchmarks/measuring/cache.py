"""What is in the page cache, and how to have it there or not. No root is needed; the files must be one's own."""

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

_PAGE = mmap.PAGESIZE
_TRIES = 3
_libc = ctypes.CDLL(None, use_errno=True)


def resident(path: Path) -> float:
    """The share of a file's pages that are in the page cache, by mincore: looking at them does not bring them in."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = np.frombuffer(data, np.uint8)
        pages = np.zeros(-(-len(view) // _PAGE), np.uint8)
        arguments = (ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view)), ctypes.c_void_p(pages.ctypes.data))
        failed = _libc.mincore(*arguments)
        del view  # a map cannot be closed while something looks at it
        if failed:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
    return float((pages & 1).mean())


def drop(*paths: Path) -> None:
    """Takes files out of the page cache; an error if they stay, so that a warm file is never timed as a cold one."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # only what is on the disk can be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        left = resident(path)
        if left > 0.01:
            raise RuntimeError(f"{path} is still to {left:.0%} in the page cache after it was dropped")


def warm(*paths: Path) -> bool:
    """Reads what is not in the page cache of some files; whether all of them are there then.

    Called before every run, too: some systems (virtual machines above all) take idle pages back within seconds.
    """
    buffer = bytearray(16 << 20)
    for _ in range(_TRIES):
        cold = [path for path in paths if resident(path) < 1]
        if not cold:
            return True
        for path in cold:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    return all(resident(path) == 1 for path in paths)


def kept_warm(*paths: Path) -> Callable[[], None]:
    """What `in_turn` is to do before every run: have the files in the page cache, or stop."""

    def run() -> None:
        if not warm(*paths):
            raise RuntimeError(f"the page cache does not keep {', '.join(map(str, paths))}")

    return run
