"""Memory of devices and of the ring: bounded, halved where it does not suffice, a sentence where nothing helps."""

import numpy as np
import pytest
import torch

from weighbridge.engine import lane, transport
from weighbridge.engine.devices import FUSED, PORTABLE, Device
from weighbridge.engine.errors import DeviceError
from weighbridge.engine.execute import execute
from weighbridge.engine.plan import Joined
from weighbridge.engine.transport import Plain, free_bytes

from support.kernel_cases import random_tensor, same_bits
from support.lanes import ArenaTile, Fails, computed, stand_in
from support.raw_files import write

PAIR = [(1, 0)]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(62)
    sizes = [70_000, 5, 200_000, 3000, 131_072, 64]
    columns = [write(folder / name, [("F32", random_tensor("F32", size, rng)) for size in sizes]) for name in "ab"]
    return [Joined(k, row, sizes[k]) for k, row in enumerate(zip(*columns, strict=True))]


@pytest.fixture(scope="module")
def usual(tensors):
    sums = execute(tensors, 2, PAIR, device="cpu")
    return sums.selfs, sums.pairs


@pytest.fixture
def slots(monkeypatch):
    """The bytes of every buffer that was made."""
    made = []
    slot = Plain.slot
    monkeypatch.setattr(Plain, "slot", lambda self, nbytes: (made.append(nbytes), slot(self, nbytes))[1])
    return made


@pytest.mark.parametrize("where", ["init", "run"])
@pytest.mark.parametrize("calls", [{0}, {0, 1, 2}, {0, 2, 4}], ids=str)
@pytest.mark.parametrize("lanes", [1, 2])
def test_out_of_memory_halves_and_goes_on(tensors, usual, monkeypatch, where, calls, lanes):
    fails = Fails(where, calls)
    stand_in(monkeypatch, fails.tile)
    done = []
    found, _ = computed(tensors, 2, PAIR, lanes=lanes, buffer_bytes=1 << 20, least_bytes=1 << 17, report=done.append)
    assert same_bits(usual, found)
    assert fails.count >= len(calls)
    assert sum(done) == sum(tensor.nbytes for tensor in tensors)


def test_each_time_buffers_are_half(tensors, usual, monkeypatch, slots):
    stand_in(monkeypatch, Fails("run", {0, 1}).tile)
    given_back = []
    monkeypatch.setattr(Plain, "unpin", lambda self: given_back.append(len(slots)))
    found, line = computed(tensors, 2, PAIR, buffer_bytes=4 << 20, buffers=2, least_bytes=1 << 20)
    assert same_bits(usual, found)
    assert len(given_back) == 2 and given_back[0] < given_back[1] < len(slots)  # before there are others
    assert line.lanes[0]._buffer_bytes == 1 << 20
    assert max(slots[:1]) > 3_000_000 and max(slots[-1:]) <= 1 << 20


FULL = [
    torch.OutOfMemoryError("full"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you ..."),
]


@pytest.mark.parametrize("error", FULL, ids=["device", "pinned", "host"])
def test_buffers_that_cannot_be_had(tensors, usual, monkeypatch, error):
    """Pinned memory of the host that is not to be had is an error of another class."""
    stand_in(monkeypatch)
    slot = Plain.slot

    def picky(self, nbytes):
        if nbytes > 300_000:
            raise error
        return slot(self, nbytes)

    monkeypatch.setattr(Plain, "slot", picky)
    found, _ = computed([tensors[k] for k in (1, 3, 5)], 2, PAIR, buffer_bytes=1 << 20)
    assert same_bits([part[[1, 3, 5]] for part in usual], found)
    with pytest.raises(
        DeviceError, match=r'cpu has too little memory for tensor "t0" of 560,000 bytes even with buffers'
    ):
        computed(tensors, 2, PAIR, buffer_bytes=32 << 20)


def test_never_enough_is_a_sentence(tensors, monkeypatch):
    stand_in(monkeypatch, Fails("run", range(1000)).tile)
    with pytest.raises(DeviceError) as caught:
        computed(tensors, 2, PAIR)
    assert str(caught.value) == (
        'cpu has too little memory for tensor "t0" of 560,000 bytes even with buffers of 1,048,576 (CUDA out of '
        "memory); free some, raise --device-memory, or use --device cpu."
    )


def test_a_device_that_fails_is_a_sentence(tensors, monkeypatch):

    class Broken(Plain):
        """After an error CUDA answers all with that error."""

        def drain(self):
            if self.device != "cpu":
                raise RuntimeError("CUDA error: an illegal memory access")

        release = drain

        def slot(self, nbytes):
            return Plain("cpu").slot(nbytes)

    monkeypatch.setattr(lane, "transport", Broken)
    monkeypatch.setattr(lane, "free_bytes", lambda name: 1 << 30)

    fails = Fails("run", {1}, RuntimeError("CUDA error: an illegal memory access\nCUDA kernel errors ..."))
    stand_in(monkeypatch, fails.tile)
    with pytest.raises(DeviceError, match=r"^cuda:5 failed: CUDA error: an illegal memory access; use --device cpu\.$"):
        computed(tensors, 2, PAIR, devices=[Device("cuda:5", FUSED)], buffer_bytes=1)
    with pytest.raises(RuntimeError, match="illegal"):  # on the processor it is a mistake of ours
        fails.count = -1
        computed(tensors, 2, PAIR, buffer_bytes=1)


def test_a_device_that_cannot_be_opened_is_a_sentence(tensors, monkeypatch):
    def full(name):
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(lane, "transport", full)
    with pytest.raises(DeviceError, match=r"^cuda:0 failed: CUDA error: out of memory; use --device cpu\.$"):
        computed(tensors, 2, PAIR, devices=[Device("cuda:0", FUSED)])


@pytest.mark.parametrize("memory", [8 << 20, 1 << 20])
def test_limit_of_device_memory(tensors, usual, monkeypatch, slots, memory):
    """Buffers take half of the limit at most; slots of the tile the other half."""
    chunks = []

    class Tile(ArenaTile):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            chunks.append(len(self.items) * 3 * 4 * 7 * 8)

    stand_in(monkeypatch, Tile)
    found, _ = computed(tensors, 2, PAIR, device_bytes=2 * memory, buffers=None, devices=[Device("cpu", FUSED)])
    assert same_bits(usual, found)
    assert sum(slots) <= memory and max(chunks) <= memory


def test_slots_are_limited_too(tmp_path, usual, tensors, monkeypatch):
    """A hundred small tensors whose slots do not fit at once."""
    made = []

    class Tile(ArenaTile):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(len(self.items))

    stand_in(monkeypatch, Tile)
    raw = random_tensor("F32", 64, np.random.default_rng(63))
    columns = [write(tmp_path / name, [("F32", raw)] * 100) for name in "ab"]
    joined = [Joined(k, row, 64) for k, row in enumerate(zip(*columns, strict=True))]
    wanted = execute(joined, 2, PAIR, device="cpu")
    found, _ = computed(joined, 2, PAIR, device_bytes=40_000, devices=[Device("cpu", FUSED)])
    assert same_bits((wanted.selfs, wanted.pairs), found)
    assert len(made) > 2 and max(made) * 3 * 4 * 7 * 8 <= 20_000


def test_limit_below_one_chunk_is_a_sentence(tensors):
    with pytest.raises(
        DeviceError,
        match=r"cpu would need a buffer of 524,288 bytes for one chunk of all operands and may use 250,000; raise "
        r"--device-memory, or use --device cpu\.",
    ):
        execute(tensors, 2, PAIR, device="portable:cpu", device_memory="1MB")


def test_free_memory(monkeypatch):
    assert free_bytes("cpu") == transport._UNKNOWN_BYTES
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 << 30, 80 << 30))
    assert free_bytes("cuda:1") == 7 << 30
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 9 << 30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 << 30)
    assert free_bytes("mps") == 7 << 30

    def silent(device):
        raise RuntimeError("not supported")

    monkeypatch.setattr(torch.cuda, "mem_get_info", silent)
    assert free_bytes("cuda:1") == transport._UNKNOWN_BYTES


def test_a_margin_is_left(monkeypatch):
    monkeypatch.setattr(lane, "free_bytes", lambda name: 16 << 30)
    stand_in(monkeypatch)
    _, line = computed([], 2, PAIR, devices=[Device("cpu", FUSED)])
    assert line.lanes[0]._budget == 15 << 30
    _, line = computed([], 2, PAIR, devices=[Device("cpu", PORTABLE)])
    assert 14 << 30 < line.lanes[0]._budget < 15 << 30  # its temporaries are counted as well
