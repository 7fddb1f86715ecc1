"""The ring of buffers that bytes go to a device through: readers take empty ones, the device gives them back."""

from __future__ import annotations

import queue
from dataclasses import dataclass

from .transport import Plain, Slot

__all__ = ["Limits", "Ring"]


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


class Ring:
    """Buffers of one size, each on the host and on the device, held once for as long as batches need no larger ones.

    Args:
        transport: of the device.
        room_bytes: the most that all of them take on the device, and on the host.
    """

    def __init__(self, transport: Plain, room_bytes: int) -> None:
        self._transport, self.room_bytes = transport, room_bytes
        self._slots: list[Slot] = []
        self._empty: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()

    def __len__(self) -> int:
        return len(self._slots)

    def make(self, nbytes: int, wanted: int) -> None:
        """So many buffers of so many bytes, or as many as there is room for.

        Raises:
            torch.OutOfMemoryError, RuntimeError: the device is full, or the host has no memory to pin.
        """
        assert not self._slots and nbytes <= self.room_bytes
        for _ in range(max(1, min(wanted, self.room_bytes // max(nbytes, 1)))):
            self._slots.append(self._transport.slot(max(nbytes, 16)))
        for slot in self._slots:
            self._empty.put(slot)

    def take(self) -> Slot | None:
        """An empty buffer whose bytes have gone to the device; waits for one. None where nobody needs it any more."""
        slot = self._empty.get()
        if slot is not None:
            self._transport.wait_until_sent(slot)
        return slot

    def give(self, slot: Slot) -> None:
        """Take a buffer back, to be filled again."""
        self._empty.put(slot)

    def wake(self, readers: int) -> None:
        """Have so many who wait for a buffer find out that they need none."""
        for _ in range(readers):
            self._empty.put(None)

    def clear(self) -> None:
        """Let all buffers go; nobody may hold one."""
        self._slots.clear()
        self._empty = queue.SimpleQueue()
