"""In which order a CUDA device is told to wait, copy and compute, by streams and events that only take notes."""

import contextlib

import numpy as np
import pytest
import torch

from weighbridge.engine.transport import Cuda, Plain, transport


@pytest.fixture
def notes(monkeypatch):
    """What was asked of CUDA, in order; tensors are those of the CPU."""
    log = []
    current, devices = ["default"], ["cuda:0"]
    names = iter(("copies", "kernels"))

    class Stream:
        def __init__(self, device):
            self.name = next(names)

        def wait_event(self, event):
            log.append(f"{self.name} waits for {event.mark}")

        def synchronize(self):
            log.append(f"host waits for {self.name}")

    class Event:
        count = 0

        def __init__(self, blocking):
            assert blocking

        def record(self, stream):
            Event.count += 1
            self.mark = f"{stream.name} {Event.count}"
            log.append(f"mark {self.mark}")

        def synchronize(self):
            log.append(f"host waits for {self.mark} on {devices[-1]}")

    @contextlib.contextmanager
    def device(which):
        devices.append(which)
        yield
        devices.pop()

    @contextlib.contextmanager
    def stream(which):
        current.append(which.name)
        yield
        current.pop()

    class Tensor(torch.Tensor):
        def copy_(self, source, non_blocking=False):
            log.append(f"copy {self.numel()} bytes on {current[-1]}{' and go on' if non_blocking else ''}")
            return super().copy_(source)

    empty = torch.empty

    def make(nbytes, dtype, device="cpu", pin_memory=False):
        log.append(f"{'pinned' if pin_memory else device} memory on {current[-1]}")
        made = empty(nbytes, dtype=dtype)
        return made if pin_memory else made.as_subclass(Tensor)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch, "empty", make)
    return log


def test_order(notes):
    line = transport("cuda:1")
    assert isinstance(line, Cuda)
    slot = line.slot(64)
    assert notes == ["pinned memory on kernels", "cuda:1 memory on kernels", "mark kernels 1"]
    for turn in range(2):
        notes.clear()
        line.wait_until_sent(slot)
        slot.array[:] = 7 + turn
        line.send(slot, 48)
        with line.computing():
            assert slot.arena[:48].tolist() == [7 + turn] * 48
        line.used(slot)
        before, copied, after = 2 * turn + 1, 2 * turn + 2, 2 * turn + 3
        assert notes == [
            *([f"host waits for copies {before - 1} on cuda:1"] if turn else []),  # its buffer is being read until then
            f"copies waits for kernels {before}",  # they read what the copy is about to overwrite
            "copy 48 bytes on copies and go on",
            f"mark copies {copied}",
            f"kernels waits for copies {copied}",
            f"mark kernels {after}",
        ]
    notes.clear()
    line.drain()
    assert notes == ["host waits for copies", "host waits for kernels"]


@pytest.mark.parametrize("name", ["cpu", "xpu:0", "mps"])
def test_other_devices_need_no_streams(name):
    assert type(transport(name)) is Plain
    line = Plain("cpu")
    slot = line.slot(32)
    slot.array[:] = np.arange(32)
    line.wait_until_sent(slot)
    line.send(slot, 16)
    assert slot.arena[:16].tolist() == list(range(16))


@pytest.mark.parametrize("known", [True, False])
def test_pinned_memory_is_given_back_where_torch_can(notes, monkeypatch, known):
    if known:
        monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: notes.append("unpinned"))
    else:
        monkeypatch.delattr(torch.accelerator, "empty_host_cache")
    transport("cuda:1").unpin()
    assert notes == (["unpinned"] if known else [])
