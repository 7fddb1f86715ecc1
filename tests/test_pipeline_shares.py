"""Large tensors are dealt out over devices by runs of chunks: near-equal bytes for each, and the bits of one device."""

import threading

import pytest
import torch

from weighbridge.engine import pipeline
from weighbridge.engine.devices import FUSED, Device
from weighbridge.engine.execute import execute
from weighbridge.engine.lane import Lane
from weighbridge.engine.plan import batches
from weighbridge.engine.shares import deal
from weighbridge.engine.transport import model
from weighbridge.kernels.sums import CHUNK

from support.kernel_cases import same_bits
from support.lanes import CPU, ArenaTile, computed, related_files, stand_in

PAIR = [(1, 0)]
LARGE = 47 * CHUNK + 1003
SIZES = [64, LARGE, 3 * CHUNK, 5, 0]  # an embedding, and what is small beside it
CODES = ["F32", "BF16", "F32", "BF16", "F32"]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return related_files(tmp_path_factory.mktemp("shares"), 2, CODES, SIZES)


@pytest.fixture(scope="module")
def usual(tensors):
    sums = execute(tensors, 2, PAIR, device="cpu")
    return sums.selfs, sums.pairs


class Abreast:
    """Devices of one speed, without a clock: none runs a task while it has had more bytes than another at work."""

    def __init__(self, monkeypatch):
        self.bytes, self.all = {}, {}
        self._changed = threading.Condition()
        abreast, drive = self, Lane.drive
        together = threading.Barrier(3, timeout=20)

        def driven(lane, *args):
            thread = threading.get_ident()
            abreast.bytes[thread] = 0
            together.wait()
            try:
                drive(lane, *args)
            finally:
                with abreast._changed:
                    abreast.all[thread] = abreast.bytes.pop(thread)
                    abreast._changed.notify_all()

        class Tile(ArenaTile):
            def run(self, items, *args):
                thread = threading.get_ident()
                with abreast._changed:
                    wait = abreast._changed.wait_for
                    assert wait(lambda: abreast.bytes[thread] <= min(abreast.bytes.values()), 20)
                taken = super().run(items, *args)
                with abreast._changed:
                    abreast.bytes[thread] += taken
                    abreast._changed.notify_all()
                return taken

        stand_in(monkeypatch, Tile)
        monkeypatch.setattr(Lane, "drive", driven)


@pytest.mark.parametrize("io", ["map", "pread"])
def test_one_large_tensor_keeps_all_devices_equally_busy(tensors, usual, monkeypatch, io):
    abreast = Abreast(monkeypatch)
    found, line = computed(tensors, 2, PAIR, lanes=3, io=io, buffer_bytes=1)
    assert same_bits(usual, found)
    total = sum(tensor.nbytes for tensor in tensors)
    assert sum(abreast.all.values()) == total
    for nbytes in (*abreast.all.values(), *(lane.bytes_copied for lane in line.lanes)):
        assert abs(nbytes - total / 3) < 0.12 * total / 3, "a chunk more or less is 0.06 of it"


@pytest.mark.parametrize("devices", [2, 3, 8])
@pytest.mark.parametrize("least", [1, 2_000_000])
def test_every_chunk_is_in_one_share(tensors, devices, least):
    shares = deal(list(batches(tensors)), devices, least, True)
    total = sum(tensor.nbytes for tensor in tensors)
    most = max(total // (16 * devices), least) + 8 * CHUNK  # to the end of a chunk
    assert sum(share.nbytes for share in shares) == total and max(share.nbytes for share in shares) <= most
    chunks = [n for share in shares if share.batch.members[0].elements == LARGE for n in share.chunks]
    assert chunks == list(range(48))
    uncut = deal(list(batches(tensors)), devices, least, False)
    assert all(share.chunks is None for share in uncut) and sum(share.nbytes for share in uncut) == total


def test_one_device_takes_tensors_whole(tensors):
    assert [share.chunks for share in deal(list(batches(tensors)), 1, 1, True)] == [None, None]


@pytest.mark.parametrize("models", [("A100", "A100"), ("A100", "RTX 4090")], ids=str)
def test_devices_that_are_not_alike_do_not_share_a_tensor(tensors, usual, monkeypatch, models):
    """Their slots may not be alike: here the tiles have none to give. Neither two backends nor two models do."""

    class Alone(ArenaTile):
        slots = fold = None

    stand_in(monkeypatch, Alone)
    names = iter(models)
    monkeypatch.setattr(pipeline, "model", lambda device: next(names))
    other = CPU if models[0] != models[1] else Device("cpu", FUSED)
    found, _ = computed(tensors, 2, PAIR, devices=[CPU, other], buffer_bytes=1)
    assert same_bits(usual, found)


def test_what_a_device_is_called(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", {"cuda:1": "NVIDIA H200"}.get)
    assert model("cuda:1") == "NVIDIA H200" and model("cpu") == "cpu"


@pytest.mark.parametrize("pairs", [PAIR, []], ids=["pair", "alone"])
def test_plain_torch_operations_share_a_tensor(tensors, pairs):
    alone, _ = computed(tensors[2:], 2, pairs, buffer_bytes=1)
    shared, _ = computed(tensors[2:], 2, pairs, lanes=3, buffer_bytes=1)
    assert same_bits(alone, shared)


@pytest.mark.parametrize("where", ["run", "slots", "fold", "finish"])
def test_a_share_that_had_no_memory_is_done_again(tensors, usual, monkeypatch, where):
    """Of one tensor, while others have their shares of it, and where its slots come together."""
    calls = []

    def failing(name):
        whole = getattr(ArenaTile, name)

        def method(self, *args):
            calls.append(name)
            if len(self.elements) == 1 and self.elements[0] == LARGE and calls.count(name) == 1 + 4 * (name == "run"):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return whole(self, *args)

        return method

    stand_in(monkeypatch, type("Tile", (ArenaTile,), {where: failing(where)}))
    done = []
    found, _ = computed(tensors[1:2], 2, PAIR, lanes=3, buffer_bytes=1 << 18, least_bytes=1 << 16, report=done.append)
    assert same_bits([part[1:2] for part in usual], found)
    assert calls.count(where) > 1 and sum(done) == tensors[1].nbytes
