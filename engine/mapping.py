"""Where files are mapped to, so that equal places of two of them do not fight for the same lines of the cache."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import weakref
from functools import cache
from typing import Any

import numpy as np

__all__ = ["Mapper"]

_STEP = 2 << 20  # disk file systems map at multiples of it, for large pages; a map is moved by whole steps
_COLOURS = 128


class Mapper:
    """Maps the files of a run, each to an address of a colour of its own where the system lets it.

    The first-level cache of Zen processors finds a line by a hash of 16 bits of its address, bits 12 to 27, and holds
    one line per hash and set (Lipp et al., "Take A Way", 2020, section 3). Maps follow each other in the address space
    and mostly begin at multiples of 2 MiB, so files of 256 MiB, 1 GiB or 2 GiB lie at addresses that agree in all of
    those bits, and equal places of both drive each other out of the cache: two int8 tensors of 1 GiB took 232 ms so
    and 127 ms with one moved by 2 MiB, float32 412 and 332 (one thread). The colour of an address is what is left of
    it modulo 256 MiB, in steps of 2 MiB.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def map(self, descriptor: int, nbytes: int, offset: int = 0) -> np.ndarray | None:
        """Map a part of a file for reading; None where the address space has no room for it.

        Args:
            descriptor: of the open file; the map outlives it.
            nbytes: more than none.
            offset: a multiple of `mmap.ALLOCATIONGRANULARITY`.
        Returns:
            (nbytes,) uint8; it is unmapped when the last array that shows it goes.
        Raises:
            OSError: the file cannot be mapped.
            ValueError: it ends before that part does.
        """
        array = _map(descriptor, nbytes, offset)
        if array is None or nbytes < _STEP:  # what fits into the second-level cache does not wait for memory
            return array
        if len(self._taken) == _COLOURS:
            self._taken.clear()
        start = int(array.ctypes.data)
        colour = start // _STEP % _COLOURS
        # Maps mostly grow downwards: what lies below is free, as is the place that this one leaves. Else it is above.
        for way in (-1, 1):
            if colour not in self._taken or sys.platform != "linux":
                break
            first = start // _STEP % _COLOURS
            steps = next(step for step in range(1, _COLOURS) if (first + way * step) % _COLOURS not in self._taken)
            del array
            array = _map_near(start + way * steps * _STEP, descriptor, nbytes, offset)
            if array is None:
                return None
            colour = int(array.ctypes.data) // _STEP % _COLOURS
        self._taken.add(colour)
        return array


def _map(descriptor: int, nbytes: int, offset: int) -> np.ndarray | None:
    """A map where the system puts it."""
    try:
        return np.frombuffer(mmap.mmap(descriptor, nbytes, access=mmap.ACCESS_READ, offset=offset), np.uint8)
    except OverflowError:
        return None
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return None
        raise


def _map_near(wish: int, descriptor: int, nbytes: int, offset: int) -> np.ndarray | None:
    """A map at an address, where that is free, else where the system puts it; `mmap.mmap` takes no wishes."""
    libc = _libc()
    start = libc.mmap(wish, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset)
    if start == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        if number == errno.ENOMEM:
            return None
        raise OSError(number, os.strerror(number))
    array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(start))
    array.flags.writeable = False
    weakref.finalize(array, libc.munmap, start, nbytes).atexit = False
    return array


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc
