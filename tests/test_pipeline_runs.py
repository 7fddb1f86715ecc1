"""A tensor whose slots do not fit into a device's memory is done in runs of chunks, with the bits of all at once."""

import itertools
import random

import numpy as np
import pytest
import torch

from weighbridge.engine import lane
from weighbridge.engine.devices import FUSED, Device
from weighbridge.engine.errors import DeviceError, DeviceMemoryError
from weighbridge.engine.pipeline import Limits, Pipeline
from weighbridge.engine.plan import Joined, batches
from weighbridge.engine.reading import Files
from weighbridge.engine.shares import Whole
from weighbridge.engine.together import Way
from weighbridge.kernels import portable
from weighbridge.kernels.layout import SELF_SLOTS
from weighbridge.kernels.sums import CHUNK

from support.kernel_cases import check, exact, same_bits
from support.lanes import ArenaTile, computed, related_files, stand_in
from support.raw_files import write

ALL = list(itertools.combinations(range(3), 2))
CODES, SIZES, CHUNKS = ["I8", "I8", "BF16"], [500, 6 * CHUNK + 77, 2 * CHUNK], [1, 7, 2]
DEVICE = Device("cpu", FUSED)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return related_files(tmp_path_factory.mktemp("runs"), 3, CODES, SIZES)


@pytest.fixture
def memory_for(monkeypatch):
    """Makes slots so large that the ring needs less; the memory of which a quarter is for those of so many chunks."""
    monkeypatch.setattr(lane, "_SLOTS", 2000)
    return lambda chunks, columns=6: 4 * chunks * columns * 2000 * SELF_SLOTS * 8


def counting(monkeypatch, tile, most=1 << 40):
    """The number of chunks that each tile has slots of; more than `most` there is no memory for."""
    held = []

    class Tile(tile):
        GROUP = 3

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            held.append(len(self.held))
            if held[-1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    stand_in(monkeypatch, Tile)
    return held


@pytest.mark.parametrize(
    ("tile", "lanes", "memories"),
    [(ArenaTile, 1, (1, 2, 3, 5, 6, 7)), (ArenaTile, 2, (1, 3, 4)), (portable.Tile, 1, (2,)), (portable.Tile, 2, (3,))],
)
def test_same_bits_for_any_memory(tensors, monkeypatch, memory_for, tile, lanes, memories):
    held = counting(monkeypatch, tile)
    usual, _ = computed(tensors, 3, ALL, devices=[DEVICE])
    assert sorted(held) == [2, 8]
    for chunks in memories:
        held.clear()
        done, options = [], {"devices": [DEVICE] * lanes, "buffer_bytes": 1 << 16, "device_bytes": memory_for(chunks)}
        found, _ = computed(tensors, 3, ALL, report=done.append, **options)
        assert same_bits(usual, found)
        assert sum(held) == sum(CHUNKS) and max(held) <= chunks
        assert sum(done) == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(("tile", "chunks"), [(ArenaTile, 1), (ArenaTile, 4), (portable.Tile, 2)])
def test_ways_that_end_earlier(tensors, monkeypatch, memory_for, tile, chunks):
    """Of tensors that are compared in several ways some have no chunk in a run, or none at all."""
    held = counting(monkeypatch, type("Tile", (tile,), {"alone": False}))
    ways = [
        Way((0, 1), np.array([(1, 0)])),
        Way((2, 0), np.array([(0, 1)]), np.array([100, 3 * CHUNK + 1, 0])),
        Way((1,), np.zeros((0, 2), np.int64), np.array([0, 0, CHUNK])),
    ]

    def sums(**limits):
        with Files("map") as files:
            line = Pipeline([DEVICE], ways, 2, Limits(buffer_bytes=1 << 16, **limits), files, lambda nbytes: None)
            found = list(line.run(list(batches(tensors))))
        return {
            (int(row), n): [part[at] for part in of_way]
            for batch, of_ways in found
            for at, row in enumerate(batch.rows)
            for n, of_way in enumerate(of_ways)
        }

    usual = sums()
    assert max(held) > 4
    held.clear()
    found = sums(device_bytes=memory_for(chunks, columns=7))
    assert max(held) <= chunks
    assert len(usual) == len(tensors) * len(ways) and usual.keys() == found.keys()
    assert all(same_bits(usual[each], found[each]) for each in usual)


def test_chunks_that_are_left_to_the_processor_are_in_their_place(tmp_path, monkeypatch, memory_for):
    """Without float64, one chunk of three holds what does not suit float32."""
    rng = np.random.default_rng(80)
    base = rng.normal(0, 0.05, 2 * CHUNK + 9).astype(np.float32)
    near = base + rng.normal(0, 1e-3, base.size).astype(np.float32)
    near[CHUNK + 5] = 1e-42
    columns = [write(tmp_path / str(n), [("F32", each.view(np.uint8))]) for n, each in enumerate((base, near))]
    joined = [Joined(0, row, base.size) for row in zip(*columns, strict=True)]
    held = counting(monkeypatch, portable.Tile)
    options = {"devices": [Device("cpu", FUSED, False)], "buffer_bytes": 1 << 16}
    usual, _ = computed(joined, 2, [(1, 0)], **options)
    found, _ = computed(joined, 2, [(1, 0)], device_bytes=memory_for(2, columns=3), **options)
    assert same_bits(usual, found) and max(held[1:]) == 2
    operands = [each.view(np.uint8) for each in (base, near)]
    check(found, exact([operands], ["F32", "F32"], [(1, 0)]))


def test_out_of_memory_halves_runs_of_chunks(tensors, monkeypatch):
    held = counting(monkeypatch, ArenaTile)
    usual, _ = computed(tensors, 3, ALL, devices=[DEVICE])
    held = counting(monkeypatch, ArenaTile, most=2)
    found, _ = computed(tensors, 3, ALL, devices=[DEVICE], buffer_bytes=1 << 17, least_bytes=1 << 17)
    assert same_bits(usual, found)
    assert max(held) > 2 and sum(chunks for chunks in held if chunks <= 2) >= sum(CHUNKS)
    counting(monkeypatch, ArenaTile, most=0)
    with pytest.raises(DeviceError, match=r'^cpu has too little memory for tensor "t'):
        computed(tensors, 3, ALL, devices=[DEVICE], buffer_bytes=1 << 17, least_bytes=1 << 17)


def test_no_room_for_one_chunk_is_a_sentence(tensors, memory_for):
    with pytest.raises(
        DeviceMemoryError,
        match=r"^cpu would need 672,000 bytes for the sums of one chunk of all operands and pairs and may use 671,999; "
        r"raise --device-memory, or use --device cpu\.$",
    ):
        computed(tensors, 3, ALL, devices=[DEVICE], device_bytes=memory_for(1) - 1)


class Listing:
    """A tile whose slots are numbers, and whose sums are lists of what was folded at a time; some calls fail."""

    def __init__(self, failing=()):
        self.failing = failing

    def slots(self, first, last):
        return list(range(first, last))

    def fold(self, folded, slots, resolve, threads):
        if "fold" in self.failing:
            raise MemoryError
        return [*(folded or []), list(itertools.chain(*slots))]

    def finish(self, resolve, threads, folded):
        if "finish" in self.failing:
            raise MemoryError
        return folded


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_first_is_folded_in_order(seed):
    """Groups are folded as soon as they are there; where that fails, the chunks come again, perhaps in other runs."""
    draw = random.Random(seed)
    chunks, group = draw.randrange(2, 40), draw.randrange(1, 9)
    cuts = [0, *sorted(draw.sample(range(1, chunks), draw.randrange(chunks))), chunks]
    runs = [range(*ends) for ends in itertools.pairwise(cuts)]
    draw.shuffle(runs)
    whole, results, there = Whole(chunks), [], set()
    while runs:
        run = runs.pop()
        try:
            results.append(whole.sums(run, Listing(draw.choice([(), ("fold",), ("finish",)])), group, None, 1))
        except MemoryError:
            middle = draw.randrange(run.start, run.stop)
            runs += [part for part in (range(run.start, middle), range(middle, run.stop)) if part]
            continue
        there.update(run)
        ready = next((n for n in range(chunks) if n not in there), chunks)
        assert len(there) < chunks or not whole._there
        assert min(whole._there, default=ready) >= ready // group * group
    assert [each for each in results if each is not None] == [
        [list(range(first, min(first + group, chunks))) for first in range(0, chunks, group)]
    ]
