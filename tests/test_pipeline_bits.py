"""The pipeline changes no bit: whatever the ring, the cut into batches and tasks, the devices, the reading."""

import itertools
import threading

import numpy as np
import pytest
import torch

from weighbridge.engine.checkpoint import TensorRef
from weighbridge.engine.execute import execute
from weighbridge.engine.plan import Batch, Joined
from weighbridge.engine.transport import Plain

from support.kernel_cases import same_bits
from support.lanes import CODES, ArenaTile, computed, related_files, stand_in

PAIR = [(1, 0)]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return related_files(tmp_path_factory.mktemp("pair"), 2)


@pytest.fixture(scope="module")
def usual(tensors):
    sums = execute(tensors, 2, PAIR, device="cpu")
    return sums.selfs, sums.pairs


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    stand_in(monkeypatch)


@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize(
    ("buffer_bytes", "buffers"), [(1, 1), (1, 7), (300_000, 2), (1 << 20, 3), (32 << 20, None)], ids=str
)
def test_same_bits_for_any_ring_and_devices(tensors, usual, io, lanes, buffer_bytes, buffers):
    found, line = computed(tensors, 2, PAIR, lanes=lanes, io=io, buffer_bytes=buffer_bytes, buffers=buffers)
    assert same_bits(usual, found)
    exactly = sum(tensor.nbytes for tensor in tensors)
    assert exactly <= line.bytes_copied < exactly + 16 * 2 * 100


@pytest.mark.parametrize("batch_bytes", [1, 400_000])
def test_same_bits_for_any_batch(tensors, usual, monkeypatch, batch_bytes):
    whole = Batch.cut
    parts = []

    def cut(self, most, chunks):
        found = list(whole(self, min(most, batch_bytes), chunks))
        parts.extend(found)
        return iter(found)

    monkeypatch.setattr(Batch, "cut", cut)
    assert same_bits(usual, computed(tensors, 2, PAIR)[0])
    assert len(parts) > len(set(CODES))


def test_every_device_takes_part(tmp_path, monkeypatch):
    """Tensors of one dtype, which one device would take as one batch."""
    tensors = related_files(tmp_path, 2, ["F32"] * 6, [3000] * 6)
    wanted = execute(tensors, 2, PAIR, device="cpu")
    together = threading.Barrier(3, timeout=10)
    made = itertools.count()

    class Tile(ArenaTile):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            if next(made) < 3:  # no device begins its first batch before the others have theirs
                together.wait()

    stand_in(monkeypatch, Tile)
    found, _ = computed(tensors, 2, PAIR, lanes=3, buffer_bytes=1)
    assert same_bits((wanted.selfs, wanted.pairs), found)
    assert not together.broken


def test_file_larger_than_the_ring(tmp_path, monkeypatch):
    """60 chunks go through three buffers that hold one chunk of both operands each."""
    made = []
    slot = Plain.slot
    monkeypatch.setattr(Plain, "slot", lambda self, nbytes: (made.append(nbytes), slot(self, nbytes))[1])
    joined = related_files(tmp_path, 2, ["I8"], [60 * 65_536])
    wanted = execute(joined, 2, PAIR, device="cpu")
    found, _ = computed(joined, 2, PAIR, io="pread", buffer_bytes=131_072, buffers=3)
    assert made == [131_072] * 3
    assert same_bits((wanted.selfs, wanted.pairs), found)


@pytest.mark.parametrize(
    "pairs", [[(n, 0) for n in range(1, 5)], list(itertools.combinations(range(5), 2)), []], ids=str
)
def test_many_operands(tmp_path, pairs):
    joined = related_files(tmp_path, 5, ["F32", "BF16"], [70_000, 3000])
    wanted = execute(joined, 5, pairs, device="cpu")
    assert same_bits((wanted.selfs, wanted.pairs), computed(joined, 5, pairs, buffer_bytes=1)[0])


def test_base_of_a_sweep_is_sent_once(tmp_path):
    """One base and 16 others are 17 operands on the bus, not 32."""
    joined = related_files(tmp_path, 17, ["F32"], [160_000])
    _, line = computed(joined, 17, [(n, 0) for n in range(1, 17)], buffer_bytes=8 << 20)
    assert line.bytes_copied == 17 * 4 * 160_000


def test_what_is_the_same_bytes_is_sent_once(tmp_path):
    """An other that shares the base's file, and one that names it again: two operands more, and no byte more."""
    (tensor,) = related_files(tmp_path, 3, ["F32"], [160_000])
    base, first, second = tensor.operands
    joined = [Joined(0, (base, first, base, second, first), 160_000)]
    pairs = list(itertools.combinations(range(5), 2))
    wanted = execute(joined, 5, pairs, device="cpu")
    for io in ("map", "pread"):
        found, line = computed(joined, 5, pairs, io=io, buffer_bytes=1)
        assert same_bits((wanted.selfs, wanted.pairs), found)
        assert line.bytes_copied == 3 * 4 * 160_000


def test_tensors_in_memory_only(tensors):
    rng = np.random.default_rng(61)
    held = [torch.from_numpy(rng.normal(size=70_000).astype(np.float32)) for _ in range(2)]
    row = tuple(TensorRef("m", "F32", (70_000,), 280_000, "", None, tensor) for tensor in held)
    joined = [Joined(0, row, 70_000), Joined(1, (tensors[0].operands[0], row[1]), 1000)]
    wanted = execute(joined, 2, PAIR, device="cpu")
    assert same_bits((wanted.selfs, wanted.pairs), computed(joined, 2, PAIR, io="pread")[0])


def test_nothing_to_do():
    (selfs, pairs), line = computed([], 2, PAIR)
    assert selfs.shape == (0, 2, 6) and pairs.shape == (0, 1, 5) and line.bytes_copied == 0


def test_execute_reports(tensors, usual):
    """Through `execute`: the bits, every byte counted, progress that ends at all of them."""
    seen = []
    sums = execute(tensors, 2, PAIR, device="portable:cpu", progress=lambda done, total: seen.append((done, total)))
    total = sum(tensor.nbytes for tensor in tensors)
    assert same_bits(usual, (sums.selfs, sums.pairs))
    assert sums.bytes_read == total and seen[-1] == (total, total)
    assert total <= sums.bytes_copied < total + 16 * 2 * len(tensors) * 4
