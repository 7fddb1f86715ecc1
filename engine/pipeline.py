"""Batches on torch devices: readers fill a ring of buffers while others are copied and computed.

    files --(readers: threads)--> host buffers --(copies)--> device buffers --(kernels)--> slots of the tile --> sums

A batch is one tile. Its items are cut into tasks, each as large as a buffer at most, so that a file may be larger than
the memory of the device and of the host. Readers take tasks and empty buffers as they come; the thread of the device
sends what is full and launches its kernels. Results stay on the device until the batch is done, and come back in one
copy. Every chunk has its own slot there and slots are added in order, so the sums are the same to the last bit for any
ring, any cut into batches and tasks, and any number of devices.

Several devices take batches from one list. Where one runs out of memory its buffers are halved and its batch is cut in
two, until it fits or neither can be made smaller.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ..kernels.layout import SELF_SLOTS
from ..kernels.portable import WORKSPACE_BYTES
from .devices import PORTABLE, Device, first_sentence
from .errors import DeviceError
from .packing import Packed, Packing, packed_bytes
from .plan import Batch
from .reading import Files
from .transport import Slot, free_bytes, transport

__all__ = ["Limits", "Pipeline"]

_READERS = 8  # threads for a device at most: at 8 GB/s each they outrun any bus
_SPARE = 4  # buffers beyond one for each reader: one being copied, one being computed, two waiting
_ENDLESS = 1 << 62
_STRIPS = 4  # parts of a chunk with slots of their own, on the backend that has most

Sums = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Limits:
    """How much memory a device and the ring may take; the results do not depend on it.

    Attributes:
        device_bytes: on each device, buffers, slots and temporaries together; None: what is free, less a margin.
        buffer_bytes: the most that one buffer of the ring takes, here and there; 32 MiB cross PCIe 5 in 0.6 ms, long
            against the 0.1 ms that a launch costs the thread of the device.
        buffers: of the ring; None: one for each reader and four.
        least_bytes: the buffer that is not halved any more.
    """

    device_bytes: int | None = None
    buffer_bytes: int = 32 << 20
    buffers: int | None = None
    least_bytes: int = 1 << 20


class Pipeline:
    """Batches dealt out over devices.

    Args:
        devices: at least one; the same device may be given several times. A tensor is computed by one of them.
        pairs: (P, 2) int64.
        threads: for all devices together.
        limits: of memory.
        files: of the run.
        report: called with the bytes that were finished since its last call, from the thread that iterates; less than
            zero where work is done again.
    Raises:
        DeviceError: a device cannot be used at all.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        pairs: np.ndarray,
        threads: int,
        limits: Limits,
        files: Files,
        report: Callable[[int], object],
    ) -> None:
        self.pairs, self.limits, self.files, self.report = pairs, limits, files, report
        self.readers = max(1, min(threads // len(devices), _READERS))
        self.threads = threads
        self.lanes = [Lane(device, self) for device in devices]
        self.stopping = threading.Event()
        self.opening = threading.Lock()  # `Files` opens a file on first use, and does not expect company
        self._work: deque[Batch] = deque()
        self._news: queue.SimpleQueue[int | tuple[Batch, Sums] | None] = queue.SimpleQueue()

    @property
    def bytes_copied(self) -> int:
        """The bytes that went to the devices, padding included."""
        return sum(lane.bytes_copied for lane in self.lanes)

    def run(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Sums]]:
        """The sums of every batch, as they are done; a batch may come back in parts.

        Raises:
            DeviceError: a device has too little memory for the least there is to do, or failed.
            ReadError: a file cannot be read.
        """
        share = _ENDLESS
        if len(self.lanes) > 1:  # small enough that all devices end together
            share = max(1, sum(batch.nbytes for batch in batches) // (4 * len(self.lanes)))
        self._work.extend(part for batch in batches for part in batch.cut(share, _ENDLESS))
        with ThreadPoolExecutor(len(self.lanes), thread_name_prefix="weighbridge-device") as pool:
            running = [pool.submit(self._drive, lane) for lane in self.lanes]
            try:
                left = len(running)
                while left:
                    news = self._news.get()
                    if news is None:
                        left -= 1
                    elif isinstance(news, int):
                        self.report(news)
                    else:
                        yield news
                for future in running:
                    future.result()
            finally:  # also where the caller stops iterating, or is interrupted
                self.stopping.set()
                for lane in self.lanes:
                    lane.wake()

    def _drive(self, lane: Lane) -> None:
        try:
            while not self.stopping.is_set():
                try:
                    batch = self._work.popleft()
                except IndexError:
                    return
                lane.run(batch, self._news.put)
        except BaseException:
            self.stopping.set()
            raise
        finally:
            try:
                lane.close()
            finally:  # whatever happens, nobody waits for this thread in vain
                self._news.put(None)


class _StoppedError(Exception):
    """Another thread has failed or was interrupted."""


class Lane:
    """One device at work: its queues and its ring."""

    def __init__(self, device: Device, pipeline: Pipeline) -> None:
        self.device, self._of = device, pipeline
        self.bytes_copied = 0
        limits = pipeline.limits
        try:
            self._transport = transport(device.name)
            free = free_bytes(device.name)
        except RuntimeError as error:  # so full or so broken that not even a stream is to be had
            raise DeviceError(f"{device.name} failed: {first_sentence(error)}; use --device cpu.") from error
        margin = max(free // 16, 256 << 20)  # for the context's own needs, and what others allocate meanwhile
        self._budget = limits.device_bytes if limits.device_bytes is not None else max(free - margin, free // 2)
        self._buffers = limits.buffers or pipeline.readers + _SPARE
        workspace = min(WORKSPACE_BYTES, self._budget // 2) if device.backend == PORTABLE else 0
        self._budget -= workspace
        self._buffer_bytes = max(1, min(limits.buffer_bytes, self._budget // 2 // self._buffers))
        self._ring: list[Slot] = []
        self._empty: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()

    def wake(self) -> None:
        """Let readers that wait for an empty buffer find out that they are not needed."""
        for _ in range(self._of.readers):
            self._empty.put(None)

    def close(self) -> None:
        """Give the ring back."""
        with suppress(RuntimeError):  # a device that has failed says so whatever it is asked
            self._transport.drain()
        self._ring.clear()
        self._empty = queue.SimpleQueue()
        with suppress(RuntimeError):
            self._transport.release()

    def run(self, batch: Batch, tell: Callable[[int | tuple[Batch, Sums]], object]) -> None:
        """The sums of a batch, whole or in parts, as memory has it.

        Args:
            batch: of tensors of equal dtypes.
            tell: told the bytes that are done (or to be done again), and the sums of each part.
        Raises:
            DeviceError: there is too little memory for one tensor and the smallest ring, or the device failed.
        """
        import torch

        columns = len(batch.dtypes) + len(self._of.pairs)
        chunks = max(self._budget // 2 // (columns * _STRIPS * SELF_SLOTS * 8), 1)
        waiting = deque(batch.cut(_ENDLESS, chunks))
        while waiting:
            part = waiting.popleft()
            done: list[int] = []

            def count(nbytes: int, done: list[int] = done) -> None:
                done.append(nbytes)
                tell(nbytes)

            try:
                sums = self._run(part, count)
            except _StoppedError:
                return
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    if self.device.kind == "cpu":
                        raise
                    raise DeviceError(
                        f"{self.device.name} failed: {first_sentence(error)}; use --device cpu."
                    ) from error
                trouble = error.with_traceback(None)  # the frames hold the tensors that are to go
            else:
                tell((part, sums))
                continue
            tell(-sum(done))
            waiting.extendleft(reversed(self._smaller(part, trouble)))

    def _smaller(self, batch: Batch, error: Exception) -> list[Batch]:
        """Halve the ring and the batch; raise DeviceError where neither can be."""
        self.close()
        can_halve = self._buffer_bytes > self._of.limits.least_bytes
        if not can_halve and len(batch.members) == 1:
            tensor = batch.members[0]
            raise DeviceError(
                f'{self.device.name} has too little memory for tensor "{tensor.operands[-1].name}" of '
                f"{tensor.nbytes:,} bytes even with buffers of {self._buffer_bytes:,} ({first_sentence(error)}); "
                "free some, raise --device-memory, or use --device cpu."
            ) from error
        if can_halve:
            self._buffer_bytes = max(self._buffer_bytes // 2, self._of.limits.least_bytes)
        middle = len(batch.members) // 2
        if not middle:
            return [batch]
        places = np.arange(len(batch.members))
        return [batch.take(places[:middle]), batch.take(places[middle:])]

    def _run(self, batch: Batch, count: Callable[[int], object]) -> Sums:
        """One tile: all tasks through the ring."""
        of = self._of
        with self._transport.computing():
            tile = self.device.kernels.Tile(
                batch.dtypes, batch.elements, of.pairs, self.device.name, float64=self.device.float64
            )
        sizes = batch.elements[:, None] * tile.itemsizes
        with of.opening:
            packing = Packing(of.files, batch.placed, sizes, tile.itemsizes)
        tasks = _cut(tile.items, tile.itemsizes, self._buffer_bytes)
        self._make_ring(max((int(packed_bytes(task, tile.itemsizes).sum()) for task in tasks), default=0), len(tasks))
        with ThreadPoolExecutor(of.readers, thread_name_prefix="weighbridge-reader") as pool:
            running = [pool.submit(self._fill, packing, task) for task in tasks]
            try:
                for future in as_completed(running):
                    slot, packed = future.result()
                    self._transport.send(slot, packed.nbytes)
                    self.bytes_copied += packed.nbytes
                    with self._transport.computing():
                        taken = tile.run(packed.items, packed.places + slot.arena.data_ptr(), slot.arena)
                    self._transport.used(slot)
                    self._empty.put(slot)
                    count(taken)
                    if of.stopping.is_set():
                        raise _StoppedError
            except BaseException:
                for future in running:
                    future.cancel()
                self.wake()
                pool.shutdown(wait=True)
                self.close()  # which buffers are where is not known any more
                raise

        def resolve(tensors: np.ndarray) -> np.ndarray:
            with of.opening:
                return np.array(
                    [
                        [of.files.address(column[k], int(sizes[k, n])) for n, column in enumerate(batch.placed.columns)]
                        for k in tensors
                    ],
                    np.int64,
                )

        with self._transport.computing():
            return tile.finish(resolve, of.threads)  # type: ignore[no-any-return]

    def _fill(self, packing: Packing, task: np.ndarray) -> tuple[Slot, Packed]:
        """What a reader does with a task."""
        slot = self._empty.get()
        if slot is None:
            raise _StoppedError
        self._transport.wait_until_sent(slot)
        return slot, packing.fill(task, slot.array)

    def _make_ring(self, nbytes: int, tasks: int) -> None:
        """Enough buffers of at least so many bytes, each held once; those of the batch before serve where they do.

        Raises:
            DeviceError: so many bytes, for one chunk of all operands, go beyond the limit.
        """
        wanted = min(self._buffers, max(tasks, 1))
        if nbytes > self._budget // 2:
            raise DeviceError(
                f"{self.device.name} would need a buffer of {nbytes:,} bytes for one chunk of all operands and may use "
                f"{self._budget // 2:,}; raise --device-memory, or use --device cpu."
            )
        most = max(1, self._budget // 2 // max(nbytes, 1))
        if len(self._ring) < min(wanted, most) or any(slot.array.size < nbytes for slot in self._ring):
            self._transport.drain()
            self._ring.clear()
            for _ in range(min(wanted, most)):
                self._ring.append(self._transport.slot(max(nbytes, 16)))
        self._empty = queue.SimpleQueue()
        for slot in self._ring:
            self._empty.put(slot)


def _cut(items: np.ndarray, itemsizes: np.ndarray, most: int) -> list[np.ndarray]:
    """Items in tasks of at most so many bytes in a buffer; a larger item is a task of its own."""
    ends = np.cumsum(packed_bytes(items, itemsizes))
    tasks, start = [], 0
    while start < len(items):
        stop = int(np.searchsorted(ends, (ends[start - 1] if start else 0) + most, "right"))
        tasks.append(items[start : max(stop, start + 1)])
        start = max(stop, start + 1)
    return tasks


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
