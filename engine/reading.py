"""How the bytes of tensors come into memory: mapped where they lie, or read into buffers.

Memory maps are the fastest way to bytes that are in the page cache of a local file system. They are the slowest way to
anything else: on a network file system every page is a round trip, and on a cold disk a page fault waits for one short
read at a time. There, several threads reading whole tasks keep the device busy while others compute.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import faults
from .checkpoint import Stamp, TensorRef
from .errors import OptionError, ReadError
from .mapping import Mapper
from .plan import Placed

__all__ = ["IO_MODES", "Files", "Staging"]

IO_MODES = ("auto", "map", "pread")

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "virtiofs", "fuse")

_SAMPLES = 32  # pages looked at to tell whether a file is in the page cache
_GAP_BYTES = 64 << 10  # tensors nearer than this in a file are read in one go: cheaper than a second system call
_GAPS_BYTES = 4 << 20  # but of what lies between, no more is held: tiny scales between weights would fill memory


@dataclass
class _File:
    """One file of a run: its descriptor, how it is read, and what it looked like when it was opened."""

    path: str
    descriptor: int
    stamp: Stamp
    staged: bool
    mapper: Mapper
    array: np.ndarray | None = field(default=None)
    maps: list[np.ndarray] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """In bytes, when it was opened."""
        return self.stamp.size

    def close(self) -> None:
        """Give the descriptor back; a map stays."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def let_go(self) -> None:
        """Unmap; nobody may use an address of before."""
        self.array = None
        self.maps.clear()
        self.slots.clear()

    @property
    def mapped(self) -> np.ndarray | None:
        """The whole file as (size,) uint8, mapped on first use; None where the address space does not hold it."""
        if self.array is None:
            self.array = self._map(0, self.size)
            if self.array is not None and not self.staged:
                self.close()  # the map holds a descriptor of its own, and processes have but so many
        return self.array

    def part(self, offset: int, nbytes: int) -> int | None:
        """The address of some bytes in a map of their own, for a file that is not mapped as a whole."""
        before = offset % mmap.ALLOCATIONGRANULARITY
        window = self._map(offset - before, nbytes + before)
        return None if window is None else int(window.ctypes.data) + before

    def _map(self, offset: int, nbytes: int) -> np.ndarray | None:
        if nbytes == 0:
            return np.empty(0, np.uint8)
        try:
            array = self.mapper.map(self.descriptor, nbytes, offset)
        except OSError as error:
            raise ReadError(f"{self.path} cannot be mapped: {error.strerror or error}; try --io pread.") from error
        except ValueError as error:
            raise ReadError(_changed(self, os.fstat(self.descriptor).st_size)) from error
        if array is None:
            return None
        slot = faults.guard(int(array.ctypes.data), nbytes)
        if slot is not None:
            # Guarded for as long as anybody can reach the map, a thread of an interrupted run included.
            weakref.finalize(array, faults.release, slot).atexit = False
            self.slots.append(slot)
        self.maps.append(array)
        return array

    def check_mapped(self) -> None:
        """Raise ReadError if a page of a map could not be had."""
        for slot in self.slots:
            if (place := faults.failed(slot)) is not None:
                with suppress(OSError):
                    size = os.stat(self.path).st_size
                    if size != self.size:
                        raise ReadError(_changed(self, size))
                raise ReadError(
                    f"{self.path} cannot be read at byte {place:,} of a map of it: {os.strerror(errno.EIO)}; check the "
                    "disk, and whether something writes to the file."
                )


class Files:
    """The files of a run, each opened once; closes them, and tells whether any changed meanwhile.

    Args:
        io: "map", "pread", or "auto": read what lies on a network file system or outside the page cache, map the rest.
            What is to be mapped and does not fit into the address space is read.
    Raises:
        OptionError: `io` is none of these.
    """

    def __init__(self, io: str = "auto") -> None:
        if io not in IO_MODES:
            raise OptionError(f'there is no way of reading "{io}"; choose from {", ".join(IO_MODES)}.')
        self.io = io
        self._files: dict[str, _File] = {}
        self._mapper = Mapper()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in self._files.values():
            file.close()
            if kind is None or issubclass(kind, Exception):
                file.let_go()  # after an interrupt a thread may still be at work: its maps go when it does

    def file(self, path: str, stamp: Stamp | None = None) -> _File:
        """A file of the run, opened on first use.

        Args:
            path: the file.
            stamp: what it looked like when its header was read, where that is known.
        Raises:
            ReadError: it cannot be opened, or is no longer what its header was read from.
        """
        if path not in self._files:
            self._files[path] = self._open(path)
        file = self._files[path]
        if stamp is not None and stamp != file.stamp:
            raise ReadError(_changed(file, file.size, stamp.size))
        return file

    def _open(self, path: str) -> _File:
        try:
            # A pipe that has taken the file's place does not hold us up; to a regular file O_NONBLOCK means nothing.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise ReadError(f"{path} cannot be read: {error.strerror or error}.") from error
        status = os.fstat(descriptor)
        staged = self.io == "pread" or (self.io == "auto" and (_on_network(status.st_dev) or _is_cold(descriptor)))
        return _File(path, descriptor, Stamp.of(status), staged, self._mapper)

    def address(self, ref: TensorRef, nbytes: int) -> int:
        """Where the first `nbytes` of a tensor lie in memory, mapping its file if that has to be.

        Raises:
            ReadError: its file cannot be mapped, or ends before they do.
        """
        if nbytes == 0:
            return 0
        if ref.offset is None:
            if ref.stamp is not None:
                self.file(ref.file, ref.stamp)  # torch may have mapped it: it is to be unchanged like any other
            return int(ref.memory.data_ptr())
        file = self.file(ref.file, ref.stamp)
        _require(file, ref, nbytes)
        if (array := file.mapped if not file.staged else file.array) is not None:
            return int(array.ctypes.data) + ref.offset
        address = file.part(ref.offset, nbytes)
        if address is None:
            raise ReadError(
                f'{file.path} has a tensor "{ref.name}" of {nbytes:,} bytes, for which there is no room in the address '
                "space; raise the limit (ulimit -v)."
            )
        return address

    def check_mapped(self) -> None:
        """Raise ReadError if a page of a file that is mapped could not be had: cut short, or its device failed."""
        for file in tuple(self._files.values()):
            file.check_mapped()

    def check_unchanged(self) -> None:
        """Raise ReadError if a file was written to or replaced since it was opened: its sums cannot be trusted."""
        self.check_mapped()
        for file in self._files.values():
            try:
                status = os.stat(file.path)
            except OSError as error:
                raise ReadError(f"{file.path} vanished while it was being read: {error.strerror}.") from error
            if Stamp.of(status) != file.stamp:
                raise ReadError(_changed(file, status.st_size))


def _changed(file: _File, now: int, before: int | None = None) -> str:
    return (
        f"{file.path} changed while it was being read ({file.size if before is None else before:,} bytes before, "
        f"{now:,} after); compare it again when nothing writes to it."
    )


def _require(file: _File, ref: TensorRef, nbytes: int) -> None:
    """Raise ReadError if a file ends before the first `nbytes` of a tensor do."""
    assert ref.offset is not None
    if ref.offset + nbytes > file.size:
        raise ReadError(
            f'{file.path} has {file.size:,} bytes but tensor "{ref.name}" ends at byte {ref.offset + nbytes:,}: '
            f"the file was cut short since it was opened; write it again."
        )


class Staging:
    """Reads the chunks of a task into a buffer of the thread that asks, and says where each tensor would begin.

    Args:
        files: the files of the run.
        placed: where the K tensors of N operands lie.
        sizes: (K, N) int64, the bytes of each operand that take part.
        itemsizes: (N,) int64.
    Raises:
        ReadError: a file cannot be opened, or is shorter than its header promised.
    """

    def __init__(self, files: Files, placed: Placed, sizes: np.ndarray, itemsizes: np.ndarray) -> None:
        self._itemsizes, self._sizes = itemsizes, sizes
        self.files = files  # held: a thread that runs on after an interrupt must not lose the maps under it
        self._open: list[_File] = []
        # Looked up by file: its place in `_open`, and what its offsets count from. The last is what is in memory only.
        number = np.full(len(placed.paths) + 1, -1, np.int64)
        origin = np.zeros(len(placed.paths) + 1, np.int64)
        limits = np.zeros(len(placed.paths) + 1, np.int64)
        taken = sizes > 0
        used = np.where(taken, placed.file, -1)
        for n, column in enumerate(used.T):
            somewhere = np.full(len(placed.paths) + 1, -1, np.int64)
            somewhere[column] = np.arange(len(column))
            for which in np.flatnonzero(somewhere[:-1] >= 0):  # each checkpoint has a stamp of its own for a file
                file = files.file(placed.paths[which], placed.columns[n][somewhere[which]].stamp)
                if not limits[which]:
                    number[which], origin[which] = self._opened(file)
                    limits[which] = file.size
        limits[-1] = np.iinfo(np.int64).max
        beyond = placed.offset + sizes > limits[used]
        if beyond.any():
            k, n = np.argwhere(beyond)[0]
            _require(files.file(placed.paths[used[k, n]]), placed.columns[n][k], int(sizes[k, n]))
        self._file = number[used]
        self._base = np.where(taken, placed.offset + origin[used], 0)  # within the file where staged; else an address
        for k, n in zip(*np.nonzero((placed.file < 0) & taken), strict=True):
            self._base[k, n] = files.address(placed.columns[n][k], int(sizes[k, n]))
        self._local = threading.local()
        # What was cold and would fill more than half of the memory that is free is let go again after it was used.
        # Two files of 6 GiB in 24 GiB: 7.6 s against 7.7 s without, and 14 % of them stay in the page cache instead of
        # 67 %. What others had read twice stayed there either way.
        self._drop = bool(self._open) and int(sizes[self._file >= 0].sum()) > _available_bytes() // 2

    def _opened(self, file: _File) -> tuple[int, int]:
        """The place of a file among those that are read, else -1; and the address that it is mapped to, else 0."""
        array = None if file.staged else file.mapped
        if array is not None:
            return -1, int(array.ctypes.data)
        self._open.append(file)
        return len(self._open) - 1, 0

    @property
    def needed(self) -> bool:
        """Whether anything is to be read into buffers; if not, `addresses` serves all."""
        return bool(self._open)

    @property
    def addresses(self) -> np.ndarray:
        """(K, N) int64 addresses of the first elements, where nothing is staged."""
        return self._base

    def read(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the chunks of `items` (rows tensor, start, length, slot), of each operand what there is of it.

        Returns:
            The items with their tensors renumbered, and the (K', N) addresses that go with them; good until the same
            thread reads again.
        Raises:
            ReadError: the device failed or the file is shorter than it was.
        """
        tensors = items[:, 0]
        first = items[:, 1, None] * self._itemsizes
        length = np.clip(self._sizes[tensors] - first, 0, items[:, 2, None] * self._itemsizes)
        base, file = self._base[tensors], self._file[tensors]
        spans = []
        place = np.zeros(base.shape, np.int64)
        used = 0
        for n in range(base.shape[1]):
            there = np.flatnonzero(length[:, n])
            begin, which = base[there, n] + first[there, n], file[there, n]
            end = begin + length[there, n]
            gap = begin[1:] - end[:-1]
            apart = (begin[1:] < begin[:-1]) | (gap > _GAP_BYTES) | (which[1:] != which[:-1])
            apart |= (gap > 0) & (np.cumsum(np.where(apart, 0, np.maximum(gap, 0))) > _GAPS_BYTES)
            for run in np.split(np.arange(len(there)), np.flatnonzero(apart) + 1):
                if not len(run) or which[run[0]] < 0:
                    continue
                low, high = int(begin[run].min()), int(end[run].max())
                spans.append((int(which[run[0]]), low, high, used))
                place[there[run], n] = used - low
                used += -(-(high - low) // 64) * 64
        buffer = self._buffer(used)
        for index, low, high, at in spans:
            _fill(self._open[index], buffer[at : at + high - low], low, self._drop)
        staged = file >= 0
        # Where an operand's first element would lie if all of it had been read.
        addresses = np.where(staged, base + place + buffer.ctypes.data, base)
        renumbered = items.copy()
        renumbered[:, 0] = np.arange(len(items))
        return renumbered, addresses

    def _buffer(self, nbytes: int) -> np.ndarray:
        held: np.ndarray | None = getattr(self._local, "buffer", None)
        if held is None or held.size < nbytes:
            held = self._local.buffer = np.empty(nbytes, np.uint8)
        return held


def _fill(file: _File, target: np.ndarray, offset: int, drop: bool) -> None:
    done = 0
    room = target.data
    try:
        while done < target.size:
            got = os.preadv(file.descriptor, [room[done:]], offset + done)
            if got == 0:
                raise ReadError(
                    f"{file.path} ends at byte {offset + done:,} where {file.size:,} were there when it was opened; "
                    f"it was cut short while it was being read."
                )
            done += got
        if drop and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.descriptor, offset, target.size, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise ReadError(f"{file.path} cannot be read at byte {offset + done:,}: {error.strerror or error}.") from error


def _is_cold(descriptor: int) -> bool:
    """Whether most of a file is outside the page cache, by asking for a byte here and there without waiting for it."""
    no_wait = getattr(os, "RWF_NOWAIT", None)
    if no_wait is None:
        return False
    size = os.fstat(descriptor).st_size
    missing = 0
    one = bytearray(1)
    for sample in range(min(_SAMPLES, size)):
        try:
            os.preadv(descriptor, [one], size * sample // _SAMPLES, no_wait)
        except BlockingIOError:
            missing += 1
        except OSError:  # a file system that cannot tell: a memory file system, for one
            return False
    return missing > _SAMPLES // 2


def _on_network(device: int) -> bool:
    """Whether a device number belongs to a network or user-space file system."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    for line in mounts:
        fields = line.split()
        if fields[2] == number:
            kind = fields[fields.index("-") + 1]
            return kind.split(".")[0] in _NETWORK
    return False


def _available_bytes() -> int:
    """Memory that could be had without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 1 << 62
