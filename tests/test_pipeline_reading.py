"""What readers put into buffers, files that change under them, and what is left behind when it goes wrong."""

import ctypes
import os
import threading
import time

import numpy as np
import pytest

from weighbridge.engine import lane
from weighbridge.engine.errors import ReadError
from weighbridge.engine.packing import Packing, packed_bytes
from weighbridge.engine.plan import Joined, Placed
from weighbridge.engine.reading import Files
from weighbridge.kernels import cpu
from weighbridge.kernels import threads as kernel_threads

from support.kernel_cases import random_tensor
from support.lanes import ArenaTile, computed, stand_in
from support.raw_files import write

PAIR = [(1, 0)]
SIZES = [1, 70_000, 15, 16, 17, 3, 131_073, 40]


def packing(files, rows, itemsize):
    sizes = np.array([[ref.nbytes for ref in row] for row in rows], np.int64)
    return Packing(files, Placed.of(rows), sizes, np.full(sizes.shape[1], itemsize, np.int64))


def two_files(folder, gap, code="U8"):
    rng = np.random.default_rng(64)
    tensors = [[(code, random_tensor(code, size, rng)) for size in SIZES] for _ in range(2)]
    refs = [write(folder / name, column, gaps=gap, head=13) for name, column in zip("ab", tensors, strict=True)]
    return tensors, list(zip(*refs, strict=True))


@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize("gap", [0, 1, 5000, 65_537])
@pytest.mark.parametrize(("code", "itemsize"), [("U8", 1), ("F64", 8)])
@pytest.mark.parametrize("cut", [1, 3, 100])
def test_every_run_begins_at_a_multiple_of_16(tmp_path, io, gap, code, itemsize, cut):
    tensors, rows = two_files(tmp_path, gap, code)
    items = cpu.Tile([code, code], np.array(SIZES), np.array(PAIR)).items
    sizes = np.array([itemsize, itemsize])
    with Files(io) as files:
        packed = packing(files, rows, itemsize)
        for first in range(0, len(items), cut):
            task = items[first : first + cut]
            room = int(packed_bytes(task, sizes).sum())
            target = np.full(room + 100, 0xAA, np.uint8)
            found = packed.fill(task, target[:room])
            assert found.nbytes <= room and (target[room:] == 0xAA).all()
            for item, moved in zip(task.tolist(), found.items.tolist(), strict=True):
                assert item[1:] == moved[1:]
                for n in range(2):
                    at = found.places[moved[0], n] + item[1] * itemsize
                    assert at % 16 == 0
                    length = item[2] * itemsize
                    wanted = tensors[n][item[0]][1][item[1] * itemsize : item[1] * itemsize + length]
                    np.testing.assert_array_equal(target[at : at + length], wanted)


@pytest.mark.parametrize("io", ["map", "pread"])
def test_what_begins_at_one_place_and_ends_at_two_is_brought_whole(tmp_path, io):
    """A table and a view of its first rows: they share no place, as the shorter one would end too soon."""
    rng = np.random.default_rng(5)
    values = random_tensor("U8", 5000, rng)
    (ref,) = write(tmp_path / "a", [("U8", values)])
    sizes = np.array([[2000, 5000, 5000]])
    items = cpu.Tile(["U8"], np.array([5000]), np.zeros((0, 2), np.int64)).items
    with Files(io) as files:
        packed = Packing(files, Placed.of([(ref, ref, ref)]), sizes, np.ones(3, np.int64))
        target = np.zeros(20_000, np.uint8)
        places = packed.fill(items, target).places[0].tolist()
    assert places[0] != places[1] == places[2]
    for at, size in zip(places, sizes[0].tolist(), strict=True):
        np.testing.assert_array_equal(target[at : at + size], values[:size])


@pytest.mark.parametrize(("io", "module", "name"), [("map", ctypes, "memmove"), ("pread", os, "preadv")])
def test_small_tensors_that_lie_together_are_brought_in_one_go(tmp_path, monkeypatch, io, module, name):
    """Of 2,000 tensors of two files, one of which has a gap in its midst."""
    rng = np.random.default_rng(6)
    tensors = [("F32", random_tensor("F32", 64, rng)) for _ in range(1000)]
    gaps = [0] * 500 + [8] + [0] * 499
    columns = [write(tmp_path / "a", tensors), write(tmp_path / "b", tensors, gaps=gaps)]
    calls = []
    real = getattr(module, name)
    monkeypatch.setattr(
        module, name, lambda *args: (calls.append(len(args[1]) if io == "pread" else 1), real(*args))[1]
    )
    items = cpu.Tile(["F32", "F32"], np.full(1000, 64), np.array(PAIR)).items
    with Files(io) as files:
        target = np.zeros(512_000, np.uint8)
        packing(files, list(zip(*columns, strict=True)), 4).fill(items, target)
    assert (target.reshape(2, -1) == np.concatenate([raw.view(np.uint8).ravel() for _, raw in tensors])).all()
    assert calls == ([1, 1, 1] if io == "map" else [1, 3])  # in one call the gap is read past


def test_reads_that_return_less(tmp_path, monkeypatch):
    """A file system may give a few bytes at a time; what lies together is still asked for in one call."""
    tensors, rows = two_files(tmp_path, 7)
    items = cpu.Tile(["U8", "U8"], np.array(SIZES), np.array(PAIR)).items
    calls = []
    preadv = os.preadv

    def slow(descriptor, buffers, offset):
        calls.append(len(buffers))
        got = preadv(descriptor, [buffers[0][:11_113]], offset)
        return got

    with Files("pread") as files:
        packed = packing(files, rows, 1)
        monkeypatch.setattr(os, "preadv", slow)
        target = np.zeros(int(packed_bytes(items, np.array([1, 1])).sum()), np.uint8)
        found = packed.fill(items, target)
    assert max(calls) == 2 * len(SIZES) - 1
    for k, size in enumerate(SIZES):
        row = int(found.items[np.flatnonzero(items[:, 0] == k)[0], 0])
        for n in range(2):
            at = int(found.places[row, n])
            np.testing.assert_array_equal(target[at : at + size], tensors[n][k][1])


def test_many_small_tensors_in_few_calls(tmp_path, monkeypatch):
    refs = write(tmp_path / "a", [("U8", np.full(8, k % 251, np.uint8)) for k in range(2000)])
    items = cpu.Tile(["U8"], np.full(2000, 8), np.zeros((0, 2), np.int64)).items
    calls = []
    preadv = os.preadv
    with Files("pread") as files:
        packed = packing(files, [(ref,) for ref in refs], 1)
        monkeypatch.setattr(os, "preadv", lambda *args: (calls.append(len(args[1])), preadv(*args))[1])
        target = np.zeros(16 * 2000, np.uint8)
        packed.fill(items, target)
    assert len(calls) == 8 and max(calls) <= 1024  # what systems take in one call
    np.testing.assert_array_equal(target.reshape(2000, 16)[:, :8], (np.arange(2000) % 251)[:, None].repeat(8, axis=1))


@pytest.fixture
def joined(tmp_path):
    rng = np.random.default_rng(65)
    columns = [write(tmp_path / name, [("F32", random_tensor("F32", 200_000, rng))] * 3) for name in "ab"]
    return [Joined(k, row, 200_000) for k, row in enumerate(zip(*columns, strict=True))]


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("weighbridge")}


@pytest.mark.parametrize("lanes", [1, 3])
def test_file_cut_short_while_it_is_read(joined, monkeypatch, lanes):
    """The first task to be computed cuts the file; readers find out, every device stops, and no thread is left."""

    class Tile(ArenaTile):
        def run(self, *args):
            os.truncate(joined[0].operands[1].file, 700)
            return super().run(*args)

    stand_in(monkeypatch, Tile)
    with pytest.raises(ReadError, match=r"b (ends at byte|has 700 bytes) .*cut short"):
        computed(joined, 2, PAIR, io="pread", lanes=lanes, buffer_bytes=1, buffers=2)
    assert not threads()


def test_file_that_is_too_short(joined, monkeypatch):
    stand_in(monkeypatch)
    os.truncate(joined[0].operands[1].file, 900)
    with pytest.raises(ReadError, match="has 900 bytes but tensor"):
        computed(joined, 2, PAIR)
    assert not threads()


def test_device_that_cannot_be_read(joined, monkeypatch):
    stand_in(monkeypatch)

    def broken(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(ReadError, match=r"/[ab] cannot be read at byte [\d,]+: Input/output error\."):
        computed(joined, 2, PAIR, io="pread")


@pytest.mark.parametrize("lanes", [1, 2])
def test_interrupt_leaves_no_thread(joined, monkeypatch, lanes):
    """What the caller raises while it is told of progress ends all readers and devices, long before all is done."""
    ran = []

    class Tile(ArenaTile):
        def run(self, *args):
            ran.append(time.sleep(0.3))
            return super().run(*args)

    stand_in(monkeypatch, Tile)

    def interrupt(nbytes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        computed(joined, 2, PAIR, lanes=lanes, buffer_bytes=1, buffers=1, report=interrupt)
    assert not threads()
    assert len(ran) <= 5  # of 12 chunks: those under way, and no batch that had not begun


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("name", ["weighbridge-reader", "weighbridge-clerk"])
def test_no_room_for_threads_leaves_none(joined, monkeypatch, lanes, name):
    """The threads of the other pools stand already, as they do where the address space is limited."""
    make = lane.thread_pool

    def full(threads, named):
        if named == name:
            raise MemoryError
        return make(threads, named)

    stand_in(monkeypatch)
    monkeypatch.setattr(kernel_threads, "is_limited", lambda: True)
    monkeypatch.setattr(lane, "thread_pool", full)
    with pytest.raises(MemoryError) as raised:
        computed(joined, 2, PAIR, lanes=lanes)
    assert raised.tb and not threads()  # while the frames hold what was begun


def test_mistake_in_a_kernel_is_not_hidden(joined, monkeypatch):
    class Tile(ArenaTile):
        def finish(self, resolve, threads):
            raise ZeroDivisionError

    stand_in(monkeypatch, Tile)
    with pytest.raises(ZeroDivisionError):
        computed(joined, 2, PAIR, lanes=2)


def test_what_is_in_doubt_is_looked_at_again_in_the_files(tmp_path, monkeypatch):
    """Sums that cancel are taken again by the processor, from addresses that the pipeline resolves."""
    stand_in(monkeypatch)
    x = np.tile([1e30, 1, -1e30], 700).view(np.uint8)
    columns = [write(tmp_path / name, [("F64", x)]) for name in "ab"]
    joined = [Joined(0, (columns[0][0], columns[1][0]), 2100)]
    (selfs, pairs), _ = computed(joined, 2, PAIR, io="pread")
    np.testing.assert_array_equal(selfs[0, :, 2], 700.0)
    assert pairs[0, 0, 1] == 0
