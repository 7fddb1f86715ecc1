"""One device at work: readers fill buffers, its driver sends them and launches kernels, two shares at a time.

    readers | fill those of share k ........ | fill those of k+1 ........... | ... of k+2
    driver  |     send and launch k ........... | send and launch k+1 .......... | ...
    clerks  | prepare k+1                       | sums of k | prepare k+2

The others leave for the driver, in one queue, what it is to do. So the readers go on to the next share while the
present one is computed, and its buffers are sent while the sums of the present one come back: the bus has no pause
between shares. Half of the device's memory is for the ring, and a quarter for the slots of each of the two: a tensor
that has more is done in runs of chunks, as several shares. What goes wrong with the next share is kept until the
present one is done.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..kernels.layout import SELF_SLOTS
from ..kernels.portable import WORKSPACE_BYTES
from ..kernels.sums import CHUNK
from ..kernels.threads import thread_pool
from ..kernels.wanted import Wanted
from .devices import PORTABLE, Device, first_sentence
from .errors import DeviceError, DeviceMemoryError
from .packing import ALIGNMENT, Packed, Packing, packed_bytes
from .plan import Batch
from .reading import Files
from .ring import Limits, Ring
from .shares import Share, Sums
from .together import Way, bytes_of, tiles_of
from .transport import Slot, free_bytes, transport

__all__ = ["Job", "Lane", "Take", "Tell"]

_SPARE = 4  # buffers beyond one for each reader: one being copied, one being computed, two waiting
_FULL = ("out of memory", "can't allocate memory")  # the latter torch says of the host's
_SLOTS = 3  # of a chunk and column, on the backend that has most: of two strips, and what is added up beside them

Take = Callable[[bool], Share | None]
"""Hands out the next share, None where there is none; told whether the device still has one to do."""

Tell = Callable[[int | tuple[Batch, Sums]], object]
"""Told the bytes that are done (less than zero where they are to be done again), and the sums of each part."""


@dataclass(frozen=True, eq=False)
class Job:
    """What all devices of a run have in common.

    Attributes:
        ways: in which tensors are compared.
        wanted: the sums to take.
        threads: for all devices together.
        readers: threads that read for one device.
        limits: of memory.
        files: of the run.
        opening: held while a file is opened: `files` does so on first use, and does not expect company.
        stopping: set where a device has failed, or the run was interrupted.
    """

    ways: Sequence[Way]
    wanted: Wanted
    threads: int
    readers: int
    limits: Limits
    files: Files
    opening: threading.Lock
    stopping: threading.Event


class _Run:
    """A share on its way.

    Attributes:
        tile, packing: once it is prepared.
        begun: whether it is; the readers have its tasks then, each of which goes into one buffer.
        unread, unlaunched: how many of them are in no buffer yet, and how many the device has still to get.
        counted: the bytes that were told as done.
        sums: what it comes to, once all is launched.
        error: what went wrong with it first.
        over: whether it has come to either.
    """

    def __init__(self, share: Share) -> None:
        self.share = share
        self.tile: Any = None
        self.packing: Any = None
        self.begun = self.over = False
        self.unread = self.unlaunched = self.counted = 0
        self.sums: Future[Sums | None] | None = None
        self.error: BaseException | None = None

    def end(self, error: BaseException | None) -> None:
        """It is over; hold nothing of the device any more."""
        if error is not None and self.error is None:
            # Where memory is full, the frames hold what is to go.
            self.error = error.with_traceback(None) if _is_out_of_memory(error) else error
        self.tile = self.packing = None
        self.over = True


class Lane:
    """One device at work.

    Args:
        device: which.
        job: what it has in common with the others.
    Raises:
        DeviceError: the device cannot be used at all.
    """

    def __init__(self, device: Device, job: Job) -> None:
        self.device, self._job = device, job
        self.bytes_copied = 0
        limits = job.limits
        try:
            self._transport = transport(device.name)
            free = free_bytes(device.name)
        except RuntimeError as error:  # so full or so broken that not even a stream is to be had
            raise self._failed(error) from error
        margin = max(free // 16, 256 << 20)  # for the context's own needs, and what others allocate meanwhile
        self._budget = limits.device_bytes if limits.device_bytes is not None else max(free - margin, free // 2)
        self._workspace = min(WORKSPACE_BYTES, self._budget // 2) if device.backend == PORTABLE else 0
        self._budget -= self._workspace
        self._ring = Ring(self._transport, self._budget // 2)
        self._buffers = limits.buffers or job.readers + _SPARE
        self._buffer_bytes = max(1, min(limits.buffer_bytes, self._ring.room_bytes // self._buffers))
        columns = sum(len(way.operands) + len(way.pairs) for way in job.ways)
        self._chunk_bytes = columns * _SLOTS * SELF_SLOTS * 8
        self._chunks = self._budget // 4 // self._chunk_bytes  # as many as have room for their slots
        self._line: deque[_Run] = deque()  # the present share, and the next
        self._waiting: deque[Share] = deque()  # parts of what was taken that have no place in the line yet
        self._to_do: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    def _failed(self, error: BaseException) -> DeviceError:
        return DeviceError(f"{self.device.name} failed: {first_sentence(error)}; use --device cpu.")

    def wake(self) -> None:
        """Let the driver look up."""
        self._to_do.put(None)

    def drive(self, shares: Sequence[Share], take: Take, tell: Tell) -> None:
        """Compute shares until there are none.

        Args:
            shares: all that there are, of which this device takes some: its buffers serve any of them.
            take, tell: see there.
        Raises:
            DeviceMemoryError: there is too little memory for one tensor and the smallest ring.
            DeviceError: the device failed.
            ReadError: a file cannot be read.
            MemoryError: there is no room for the threads.
        """
        self._shares, self._tell = shares, tell
        self._require_room()
        self._start()
        try:
            while not self._job.stopping.is_set():
                self._look_ahead(take)
                if not self._line:
                    return
                self._act()
                while self._line and self._line[0].over:
                    self._pass_on(self._line.popleft())
        finally:
            self._halt()

    # What the driver does

    def _act(self) -> None:
        act = self._to_do.get()  # of this method alone: it may hold a buffer that is to go
        if act is not None:
            act()

    def _start(self) -> None:
        with ExitStack() as undo:
            readers = undo.enter_context(thread_pool(self._job.readers, "weighbridge-reader"))
            clerks = undo.enter_context(thread_pool(2, "weighbridge-clerk"))  # one for each share in the line
            undo.pop_all()
        self._readers, self._clerks = readers, clerks

    def _halt(self) -> None:
        """Have readers and clerks come to rest, who still make the sums of what is launched; free the memory."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._ring.wake(self._job.readers)
        self._readers.shutdown()
        self._clerks.shutdown()
        while not self._to_do.empty():
            self._to_do.get()
        with suppress(RuntimeError):  # a device that has failed says so whatever it is asked
            self._transport.drain()
        self._ring.clear()
        for run in self._line:
            run.end(None)
        with suppress(RuntimeError):
            self._transport.release()

    def _submit(
        self, pool: ThreadPoolExecutor, work: Callable[..., Any], then: Callable[..., Any], run: _Run, *args: Any
    ) -> Future[Any]:
        """Have work done for a share, and leave for the driver what is to be done then."""
        future = pool.submit(work, run, *args)
        future.add_done_callback(lambda done: self._to_do.put(partial(then, run, done)))
        return future

    def _look_ahead(self, take: Take) -> None:
        """Take a share where there is none, and the next when what is left to read of it fits into the ring."""
        if self._line:
            present = self._line[0]
            if len(self._line) > 1 or not present.begun or present.unread > len(self._ring):
                return
        if not self._waiting and (share := take(bool(self._line))) is not None:
            self._waiting.extend(share.cut(self._chunks))
        if self._waiting:
            run = _Run(self._waiting.popleft())
            self._line.append(run)
            self._submit(self._clerks, self._prepare, self._prepared, run)

    def _prepared(self, run: _Run, done: Future[None]) -> None:
        if (error := done.exception()) is not None:
            run.end(error)
        elif not run.unlaunched and run.sums is None:  # there was nothing to read
            self._sum_up(run)

    def _launch(self, run: _Run, done: Future[tuple[Slot, Packed] | None]) -> None:
        """A buffer is full: it goes to the device, and the kernels for it are launched."""
        run.unread -= 1
        if (error := done.exception()) is not None:
            run.end(error)
            return
        if (full := done.result()) is None:
            return
        slot, packed = full
        taken = 0
        if not run.over:
            try:
                self._transport.send(slot, packed.nbytes)
                self.bytes_copied += packed.nbytes
                with self._transport.computing():
                    addresses = run.tile.spread(packed.places + slot.arena.data_ptr())
                    taken = run.tile.run(packed.items, addresses, slot.arena)
            except RuntimeError as error:
                run.end(error)
            with suppress(RuntimeError):  # of a device that has failed, which was told
                self._transport.used(slot)
        self._ring.give(slot)
        if run.over:
            return
        run.counted += taken
        self._tell(taken)
        run.unlaunched -= 1
        if not run.unlaunched:
            self._sum_up(run)

    def _sum_up(self, run: _Run) -> None:
        """The device has been told to compute all of a share."""
        run.sums = self._submit(self._clerks, self._sums, lambda run, done: run.end(done.exception()), run)

    def _pass_on(self, run: _Run) -> None:
        """The present share is over: tell its sums, or see what can be done about what went wrong."""
        if run.error is None:
            self._tell_sums(run)
            return
        self._halt()
        again = []
        for other in self._line:
            if other.sums is not None and other.sums.exception() is None:
                self._tell_sums(other)
            else:
                self._tell(-other.counted)
                again.append(other.share)
        self._line.clear()
        if not _is_out_of_memory(run.error):
            if not isinstance(run.error, RuntimeError) or self.device.kind == "cpu":
                raise run.error
            raise self._failed(run.error) from run.error
        self._transport.unpin()  # smaller buffers would come on top of those: torch hands out again what has their size
        self._tell(-run.counted)
        self._waiting.extendleft(reversed(self._smaller(run.share, run.error) + again))
        self._start()

    def _tell_sums(self, run: _Run) -> None:
        assert run.sums is not None
        if (sums := run.sums.result()) is not None:  # else another device has more of the tensor, and tells
            self._tell((run.share.batch, sums))

    def _smaller(self, share: Share, error: BaseException) -> list[Share]:
        """Halve the ring and the share; raise DeviceMemoryError where neither can be."""
        can_halve = self._buffer_bytes > self._job.limits.least_bytes
        if not can_halve and share.chunk_count <= 1:
            tensor = share.batch.members[0]
            nbytes = bytes_of(share.batch, self._job.ways)
            raise DeviceMemoryError(
                f'{self.device.name} has too little memory for tensor "{tensor.operands[-1].name}" of '
                f"{nbytes:,} bytes even with buffers of {self._buffer_bytes:,} ({first_sentence(error)}); "
                "free some, raise --device-memory, or use --device cpu."
            ) from error
        if can_halve:
            self._buffer_bytes = max(self._buffer_bytes // 2, self._job.limits.least_bytes)
        return share.halves()

    def _require_room(self) -> None:
        """Raise DeviceMemoryError where one chunk of all operands needs more than there may be."""
        needed = max((_buffers_of(share, self._buffer_bytes)[0] for share in self._shares), default=0)
        for what, nbytes, room in (
            (f"a buffer of {needed:,} bytes for one chunk of all operands", needed, self._ring.room_bytes),
            (
                f"{self._chunk_bytes:,} bytes for the sums of one chunk of all operands and pairs",
                self._chunk_bytes,
                self._budget // 4,
            ),
        ):
            if nbytes > room:
                raise DeviceMemoryError(
                    f"{self.device.name} would need {what} and may use {room:,}; raise --device-memory, or use "
                    "--device cpu."
                )

    def _make_ring(self) -> None:
        """Buffers that serve every share, whichever of them this device takes."""
        sizes = [_buffers_of(share, self._buffer_bytes) for share in self._shares]
        self._ring.make(max(size for size, _ in sizes), min(self._buffers, sum(tasks for _, tasks in sizes)))

    # What readers and clerks do

    def _fill(self, run: _Run, packing: Packing, task: np.ndarray) -> tuple[Slot, Packed] | None:
        """A task in a buffer; None where it is not wanted any more."""
        if run.over or (slot := self._ring.take()) is None:
            return None
        try:
            packed = packing.fill(task, slot.array)
            self._job.files.check_mapped()  # what follows a page that is missing is not worth sending
            return slot, packed
        except BaseException:
            self._ring.give(slot)
            raise

    def _prepare(self, run: _Run) -> None:
        """A tile, where its bytes come from, and tasks for the readers, behind those of the share before."""
        job, batch = self._job, run.share.batch
        with self._transport.computing():
            make = partial(
                self.device.kernels.Tile,
                device=self.device.name,
                wanted=job.wanted,
                float64=self.device.float64,
                workspace_bytes=self._workspace,
            )
            run.tile = tiles_of(batch, job.ways, make, chunks=run.share.chunks)
        itemsizes = run.tile.itemsizes
        with job.opening:
            run.packing = Packing(job.files, batch.placed, run.tile.sizes, itemsizes)
        tasks = _cut(run.share.items(run.tile.items), itemsizes, self._buffer_bytes)
        if not len(self._ring):
            self._make_ring()
        run.unread = run.unlaunched = len(tasks)
        run.begun = True
        self.wake()  # before the first buffer is full, so that the next share is thought of in time
        for task in tasks:
            self._submit(self._readers, self._fill, self._launch, run, run.packing, task)

    def _sums(self, run: _Run) -> Sums | None:
        job, batch, sizes = self._job, run.share.batch, run.tile.sizes

        def resolve(tensors: np.ndarray) -> np.ndarray:
            with job.opening:
                rows = [
                    [job.files.address(column[k], int(sizes[k, n])) for n, column in enumerate(batch.placed.columns)]
                    for k in tensors
                ]
            return np.array(rows, np.int64)

        with self._transport.computing():
            return run.share.sums(run.tile, self.device.kernels.Tile.GROUP, resolve, job.threads)


def _cut(items: np.ndarray, itemsizes: np.ndarray, most: int) -> list[np.ndarray]:
    """Items in tasks of at most so many bytes in a buffer; a larger item is a task of its own."""
    ends = np.cumsum(packed_bytes(items, itemsizes))
    tasks, start = [], 0
    while start < len(items):
        stop = int(np.searchsorted(ends, (ends[start - 1] if start else 0) + most, "right"))
        tasks.append(items[start : max(stop, start + 1)])
        start = max(stop, start + 1)
    return tasks


def _buffers_of(share: Share, most: int) -> tuple[int, int]:
    """The most bytes that a task of a share takes in a buffer, and how many tasks of that size there are."""
    elements = share.batch.elements
    itemsizes = share.batch.itemsizes
    chunk = int(packed_bytes(np.array([[0, 0, min(int(elements.max()), CHUNK)]]), itemsizes)[0])
    nbytes = share.nbytes + ALIGNMENT * len(itemsizes) * share.chunk_count
    size = min(nbytes, max(most, chunk))
    return size, -(-nbytes // max(size, 1))


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, RuntimeError) and (
        isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)
    )
