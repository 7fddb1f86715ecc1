"""Copies to a device and kernels on it: in two queues that overlap on CUDA, one after the other elsewhere.

This is all of the pipeline that knows streams and events. A slot of the ring has a buffer on the host and one on the
device. It goes round like this, `send` and what follows by the one thread that drives the device:

    the reader waits until the last copy out of the host's buffer is done      `wait_until_sent`
    the reader fills it
    copy queue: wait until the last kernel on the device's buffer is done, then copy      `send`
    kernel queue: wait until the copy is done, then run the kernels      `computing`, `used`
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Cuda", "Plain", "Slot", "free_bytes", "model", "transport"]

_UNKNOWN_BYTES = 2 << 30  # taken for what is free where a device does not say


@dataclass(eq=False)
class Slot:
    """A place of the ring.

    Attributes:
        host: (bytes,) uint8 in the memory of the host, pinned for CUDA.
        array: the same memory, for NumPy.
        arena: (bytes,) uint8 on the device.
        sent, used: events: the last copy out of `host`, the last kernel on `arena`.
    """

    host: torch.Tensor
    array: np.ndarray
    arena: torch.Tensor
    sent: Any = None
    used: Any = None


class Plain:
    """A device to which torch copies at once, and that runs what it is told in order: MPS, XPU, the CPU."""

    def __init__(self, device: str) -> None:
        self.device = device

    def slot(self, nbytes: int) -> Slot:
        """Buffers of so many bytes.

        Raises:
            torch.OutOfMemoryError: the device is full.
        """
        import torch

        host = torch.empty(nbytes, dtype=torch.uint8)
        return Slot(host, host.numpy(), torch.empty(nbytes, dtype=torch.uint8, device=self.device))

    def wait_until_sent(self, slot: Slot) -> None:
        """Until the host's buffer may be filled again."""

    def send(self, slot: Slot, nbytes: int) -> None:
        """Copy the first bytes of a slot to the device."""
        slot.arena[:nbytes].copy_(slot.host[:nbytes])

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """Within, torch's current queue is the one for kernels."""
        return contextlib.nullcontext()

    def used(self, slot: Slot) -> None:
        """The kernels that read a slot have been launched."""

    def drain(self) -> None:
        """Wait until nothing is under way."""

    def release(self) -> None:
        """Give memory that nothing uses back to the device."""

    def unpin(self) -> None:
        """Give pinned memory that nothing uses back to the host."""


class Cuda(Plain):
    """An NVIDIA GPU: pinned buffers, copies on one stream, kernels on another."""

    def __init__(self, device: str) -> None:
        import torch

        super().__init__(device)
        self._copies, self._kernels = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def slot(self, nbytes: int) -> Slot:
        """Buffers of so many bytes."""
        import torch

        with self.computing():  # memory is pinned by way of the current device, too
            host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            slot = Slot(host, host.numpy(), torch.empty(nbytes, dtype=torch.uint8, device=self.device))
        # torch may hand out memory that kernels launched before still use: the first copy waits for them as well.
        self.used(slot)
        return slot

    def wait_until_sent(self, slot: Slot) -> None:
        """Until the host's buffer may be filled again; other threads run meanwhile."""
        import torch

        if slot.sent is not None:
            # A reader is a thread of its own. CUDA might take it for one of cuda:0, and half a GB of memory there.
            with torch.cuda.device(self.device):
                slot.sent.synchronize()

    def send(self, slot: Slot, nbytes: int) -> None:
        """Copy the first bytes of a slot to the device, when its kernels are done."""
        import torch

        with torch.cuda.stream(self._copies):
            self._copies.wait_event(slot.used)
            slot.arena[:nbytes].copy_(slot.host[:nbytes], non_blocking=True)
            slot.sent = self._event(self._copies)
        self._kernels.wait_event(slot.sent)

    def computing(self) -> contextlib.AbstractContextManager[Any]:
        """Within, torch's current stream is the one for kernels."""
        import torch

        return torch.cuda.stream(self._kernels)

    def used(self, slot: Slot) -> None:
        """Mark where the kernels that read a slot end."""
        slot.used = self._event(self._kernels)

    def drain(self) -> None:
        """Wait until nothing is under way."""
        self._copies.synchronize()
        self._kernels.synchronize()

    def release(self) -> None:
        """Give memory that nothing uses back to the device."""
        import torch

        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()

    def unpin(self) -> None:
        """Give pinned memory that nothing uses back to the host, where torch can: 2.6 keeps it, by sizes."""
        import torch

        if (give_back := getattr(torch.accelerator, "empty_host_cache", None)) is not None:
            give_back()

    def _event(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        import torch

        # Blocking: who waits sleeps, and leaves the processor to the readers.
        event = torch.cuda.Event(blocking=True)
        event.record(stream)
        return event


def transport(device: str) -> Plain:
    """That of a torch device."""
    return Cuda(device) if device.startswith("cuda") else Plain(device)


def model(device: str) -> str:
    """What a device is called by its maker; its kind where nobody says."""
    import torch

    kind = device.partition(":")[0]
    name = getattr(getattr(torch, kind, None), "get_device_name", None)
    return str(name(device)) if name is not None else kind


def free_bytes(device: str) -> int:
    """Memory of a device that nobody holds, or a cautious guess where it does not say."""
    import torch

    kind = device.partition(":")[0]
    module = getattr(torch, kind, None)
    if kind == "mps":  # it shares the processor's memory, and says how much of that it may take
        return max(int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory()), 0)
    ask = getattr(module, "mem_get_info", None)
    try:
        return int(ask(device)[0]) if ask is not None else _UNKNOWN_BYTES
    except (RuntimeError, NotImplementedError):  # not every XPU driver tells
        return _UNKNOWN_BYTES
