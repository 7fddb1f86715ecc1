"""Batches on torch devices: readers fill a ring of buffers while others are copied and computed.

    files --(readers: threads)--> host buffers --(copies)--> device buffers --(kernels)--> slots of the tile --> sums

A batch is one tile, or several over the same bytes (`together`). Its items are cut into tasks, each as large as a
buffer at most, so that a file may be larger than the memory of the device and of the host. Readers take tasks and empty
buffers as they come; the thread of the device sends what is full and launches its kernels (`lane`). Results stay on the
device until the batch is done, and come back in one copy, while the next batch is read, sent and computed. Every chunk
has its own slot there and slots are added in order, so the sums are the same to the last bit for any ring, any cut into
batches and tasks, and any number of devices.

Several devices take shares of the batches from one list (`shares`): tensors, and of large ones runs of chunks, so that
a checkpoint that is one embedding for the most part keeps all of them busy. Where one runs out of memory its buffers
are halved and its share is cut in two, until it fits or neither can be made smaller.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ..kernels.threads import thread_pool
from ..kernels.wanted import Wanted
from .devices import Device
from .lane import Job, Lane
from .plan import Batch
from .reading import Files
from .ring import Limits
from .shares import Share, Sums, deal
from .together import Way
from .transport import model

__all__ = ["Limits", "Pipeline"]

_READERS = 8  # threads for a device at most: at 8 GB/s each they outrun any bus


class Pipeline:
    """Batches dealt out over devices.

    Args:
        devices: at least one; the same device may be given several times.
        ways: in which tensors are compared.
        threads: for all devices together.
        limits: of memory.
        files: of the run.
        report: called with the bytes that were finished since its last call, from the thread that iterates; less than
            zero where work is done again.
        wanted: the sums that tiles take.
    Raises:
        DeviceError: a device cannot be used at all.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        ways: Sequence[Way],
        threads: int,
        limits: Limits,
        files: Files,
        report: Callable[[int], object],
        wanted: Wanted = Wanted.ALL,
    ) -> None:
        readers = max(1, min(threads // len(devices), _READERS))
        self._job = Job(ways, wanted, threads, readers, limits, files, threading.Lock(), threading.Event())
        self.lanes = [Lane(device, self._job) for device in devices]
        self._report = report
        self._work: deque[Share] = deque()
        self._dealing = threading.Lock()
        self._news: queue.SimpleQueue[int | tuple[Batch, Sums] | None] = queue.SimpleQueue()

    @property
    def bytes_copied(self) -> int:
        """The bytes that went to the devices, padding included."""
        return sum(lane.bytes_copied for lane in self.lanes)

    def run(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Sums]]:
        """The sums of every batch, of each way, as they are done; a batch may come back in parts.

        Raises:
            DeviceError: a device has too little memory for the least there is to do, or failed.
            ReadError: a file cannot be read.
            MemoryError: there is no room for the threads.
        """
        shares = deal(batches, len(self.lanes), self._job.limits.buffer_bytes, self._alike())
        self._work.extend(shares)
        with thread_pool(len(self.lanes), "weighbridge-device") as pool:
            running = [pool.submit(self._drive, lane, shares) for lane in self.lanes]
            try:
                left = len(running)
                while left:
                    news = self._news.get()
                    if news is None:
                        left -= 1
                    elif isinstance(news, int):
                        self._report(news)
                    else:
                        yield news
                for future in running:
                    future.result()
            finally:  # also where the caller stops iterating, or is interrupted
                self._stop()

    def _alike(self) -> bool:
        """Whether any device can go on with what another has left in its slots.

        Each backend has slots of its own kind, and may choose among its kernels by the model of a device.
        """
        if len(self.lanes) == 1:
            return True
        return len({(lane.device.backend, model(lane.device.name)) for lane in self.lanes}) == 1

    def _drive(self, lane: Lane, shares: Sequence[Share]) -> None:
        try:
            lane.drive(shares, self._take, self._news.put)
        except BaseException:
            self._stop()
            raise
        finally:  # whatever happens, nobody waits for this thread in vain
            self._news.put(None)

    def _take(self, ahead: bool) -> Share | None:
        """The next of the list; the last ones are left to devices that have nothing to do."""
        with self._dealing:
            if not self._work or (ahead and len(self._work) < len(self.lanes)):
                return None
            return self._work.popleft()

    def _stop(self) -> None:
        self._job.stopping.set()
        for lane in self.lanes:
            lane.wake()
