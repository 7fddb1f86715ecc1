"""Readers run ahead over the end of a batch: what overlaps, what it costs in memory, and what goes wrong meanwhile."""

import itertools
import threading
import weakref

import numpy as np
import pytest
import torch

from weighbridge.engine.devices import FUSED, Device
from weighbridge.engine.errors import ReadError
from weighbridge.engine.execute import execute
from weighbridge.engine.lane import Lane
from weighbridge.engine.packing import Packing
from weighbridge.engine.pipeline import Limits, Pipeline
from weighbridge.engine.plan import batches
from weighbridge.engine.reading import Files
from weighbridge.engine.together import Way
from weighbridge.engine.transport import Plain

from support.kernel_cases import same_bits
from support.lanes import CPU, ArenaTile, computed, related_files, stand_in

PAIR = [(1, 0)]
CODES = ["F32", "I8", "BF16", "F64", "F8_E4M3"]  # a batch of each
SIZE = 3 * 65_536
PATIENCE = 20.0  # seconds until a test fails that waits for what does not come


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    return related_files(tmp_path_factory.mktemp("ahead"), 2, CODES, [SIZE] * len(CODES))


@pytest.fixture(scope="module")
def usual(tensors):
    sums = execute(tensors, 2, PAIR, device="cpu")
    return sums.selfs, sums.pairs


class Recorder:
    """Notes in order: what is read, sent, run and summed up, and of which dtype; others may wait for a note."""

    def __init__(self, monkeypatch):
        self.notes = []
        self._changed = threading.Condition()
        self.before = {}  # (act, dtype) -> what is called before it is noted
        recorder = self

        class Tile(ArenaTile):
            def __init__(self, codes, *args, **options):
                self.code = codes[0]
                recorder.note("make", self.code)
                super().__init__(codes, *args, **options)

            def run(self, *args):
                recorder.note("run", self.code)
                return super().run(*args)

            def finish(self, *args):
                recorder.note("finish", self.code)
                found = super().finish(*args)
                recorder.note("sums", self.code)
                return found

        stand_in(monkeypatch, Tile)
        init, fill, send = Packing.__init__, Packing.fill, Plain.send

        def opened(packing, files, placed, *rest):
            packing.code = placed.columns[0][0].dtype
            init(packing, files, placed, *rest)

        def filled(packing, *args):
            recorder.note("read", packing.code)
            return fill(packing, *args)

        def sent(line, *args):
            recorder.note("send", None)
            send(line, *args)

        monkeypatch.setattr(Packing, "__init__", opened)
        monkeypatch.setattr(Packing, "fill", filled)
        monkeypatch.setattr(Plain, "send", sent)

    def note(self, act, code):
        if act_before := self.before.get((act, code)):
            act_before()
        with self._changed:
            self.notes.append((act, code))
            self._changed.notify_all()

    def until(self, act, code, times=1):
        """Wait until that was noted so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.notes.count((act, code)) >= times, PATIENCE), self.notes

    def place(self, act, code, time=0):
        """Where in the notes that is for the time-th time."""
        return [at for at, note in enumerate(self.notes) if note == (act, code)][time]


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch)


def test_the_next_batch_is_read_while_kernels_of_the_present_run(tensors, usual, recorder):
    """No kernel of the first batch runs before the second is being read."""
    recorder.before["run", "F32"] = lambda: recorder.until("read", "I8")
    found, _ = computed(tensors[:2], 2, PAIR, buffer_bytes=1, buffers=4)
    assert same_bits([part[:2] for part in usual], found)
    assert recorder.place("read", "I8") < recorder.place("run", "F32") < recorder.place("sums", "F32")


def test_the_next_batch_is_sent_and_run_while_sums_come_back(tensors, usual, recorder):
    """The thread that waits for the sums of a batch is not the one that sends: all of the next goes to the device."""
    for code, after in itertools.pairwise(CODES):
        recorder.before["sums", code] = lambda after=after: recorder.until("run", after, 3)
    found, _ = computed(tensors, 2, PAIR, buffer_bytes=1, buffers=2)
    assert same_bits(usual, found)
    for code, after in itertools.pairwise(CODES):
        assert recorder.place("run", after, 2) < recorder.place("sums", code)


def test_a_batch_far_from_its_end_has_no_next(tmp_path, recorder):
    """What is left to read of a batch fits into the ring before another is taken from the list, which others share."""
    tensors = related_files(tmp_path, 2, ["F32", "I8"], [12 * 65_536, 65_536])
    computed(tensors, 2, PAIR, buffer_bytes=1, buffers=2)
    assert recorder.notes[: recorder.place("make", "I8")].count(("read", "F32")) >= 10


@pytest.mark.parametrize(
    ("codes", "sizes", "memory"),
    [(CODES, [1000, 70_001, 200_000, 64, 3], 8 << 20), (CODES[:2] * 400, [5] * 800, 400_000)],
    ids=["buffers", "slots"],
)
def test_memory_is_bounded_at_every_moment(tmp_path, monkeypatch, codes, sizes, memory):
    """Half of it for the ring, and half for the slots of all tiles that are there."""
    joined = related_files(tmp_path, 2, codes, sizes)
    wanted = execute(joined, 2, PAIR, device="cpu")
    alive, held, rings, tiles = weakref.WeakSet(), [], [], []

    class Tile(ArenaTile):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            alive.add(self)
            tiles.append(len(alive))
            held.append(sum(len(tile.items) * 3 * 2 * 7 * 8 for tile in alive))

    stand_in(monkeypatch, Tile)
    slot = Plain.slot
    monkeypatch.setattr(Plain, "slot", lambda self, nbytes: (rings.append(nbytes), slot(self, nbytes))[1])
    device = [Device("cpu", FUSED)]
    found, _ = computed(joined, 2, PAIR, devices=device, device_bytes=memory, buffer_bytes=1 << 17, buffers=2)
    assert same_bits((wanted.selfs, wanted.pairs), found)
    assert max(tiles) == 2
    assert max(held) <= memory // 2 and sum(rings) <= memory // 2


def test_what_is_wrong_with_the_next_is_told_after_the_sums_of_the_present(tensors, recorder, monkeypatch):
    """The second batch cannot be read, which is found out before the first is computed."""
    fill, failed = Packing.fill, []

    def broken(packing, *args):
        if packing.code == "I8":
            failed.append(packing.code)
            recorder.note("failed", None)
            raise ReadError("b cannot be read at byte 7: Input/output error.")
        return fill(packing, *args)

    monkeypatch.setattr(Packing, "fill", broken)
    recorder.before["run", "F32"] = lambda: recorder.until("failed", None)
    done = []
    with Files("map") as files:
        line = Pipeline(
            [CPU], [Way((0, 1), np.array(PAIR))], 2, Limits(buffer_bytes=1, buffers=4), files, lambda nbytes: None
        )
        with pytest.raises(ReadError, match="at byte 7"):
            for part, ((selfs, _),) in line.run(list(batches(tensors))):
                done.append((part.dtypes[0], selfs[0, 0, 0]))
    assert failed and done == [("F32", SIZE)]
    assert ("make", "BF16") not in recorder.notes


@pytest.mark.parametrize("act", ["make", "run", "finish"])
def test_a_next_batch_that_has_no_memory_leaves_the_present_alone(tensors, usual, recorder, act):
    """Nothing of the first batch is done twice, and the second is done again with buffers of half the size."""

    def full():
        del recorder.before[act, "I8"]
        raise torch.OutOfMemoryError("CUDA out of memory.")

    if act != "finish":
        recorder.before["sums", "F32"] = lambda: recorder.until("failed", None)
    recorder.before[act, "I8"] = lambda: (recorder.note("failed", None), full())
    done = []
    found, line = computed(tensors, 2, PAIR, buffer_bytes=1 << 18, buffers=4, least_bytes=1 << 16, report=done.append)
    assert same_bits(usual, found)
    assert line.lanes[0]._buffer_bytes == 1 << 17
    assert [recorder.notes.count((what, "F32")) for what in ("make", "sums")] == [1, 1]
    assert recorder.notes.count(("sums", "I8")) == 1 and recorder.notes.count(("make", "I8")) >= 1 + (act != "make")
    assert sum(done) == sum(tensor.nbytes for tensor in tensors)


def test_sums_that_are_on_their_way_arrive_where_the_batch_before_has_no_memory(tensors, usual, recorder):
    """The second batch is all launched when the sums of the first cannot be made: it is not done again."""
    recorder.before["finish", "F32"] = lambda: recorder.until("sums", "I8")

    def full():
        recorder.before.clear()
        raise torch.OutOfMemoryError("CUDA out of memory.")

    recorder.before["sums", "F32"] = full
    found, _ = computed(tensors[:2], 2, PAIR, buffer_bytes=1 << 20, buffers=4, least_bytes=1)
    assert same_bits([part[:2] for part in usual], found)
    assert recorder.notes.count(("make", "F32")) == 1 + 2  # in halves
    assert recorder.notes.count(("make", "I8")) == 1


@pytest.mark.parametrize("lanes", [1, 2])
def test_interrupted_with_two_batches_on_their_way(tensors, recorder, monkeypatch, lanes):
    """Nothing is launched any more, and no thread is left."""
    stop, stopped = Pipeline._stop, threading.Event()
    monkeypatch.setattr(Pipeline, "_stop", lambda self: (stop(self), stopped.set()))
    for code in CODES[1:]:
        recorder.before["run", code] = lambda: stopped.wait(PATIENCE)
    recorder.before["run", "F32"] = lambda: recorder.until("read", "I8")

    def interrupt(nbytes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        computed(tensors, 2, PAIR, lanes=lanes, buffer_bytes=1, buffers=4, report=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("weighbridge")]
    assert sum(act == "run" and code != "F32" for act, code in recorder.notes) <= lanes


def test_the_last_batches_are_left_to_devices_that_have_none(tensors, usual, recorder, monkeypatch):
    """Two batches, two devices: the first could read ahead before the second has begun, and does not."""
    drive, lanes = Lane.drive, []

    def late(lane, *args):
        lanes.append(lane)
        if lane is not lanes[0]:
            recorder.until("read", "F32")
        drive(lane, *args)

    monkeypatch.setattr(Lane, "drive", late)
    recorder.before["run", "F32"] = lambda: recorder.until("read", "I8")
    found, line = computed(tensors[:2], 2, PAIR, lanes=2, buffer_bytes=2 << 20)
    assert same_bits([part[:2] for part in usual], found)
    assert all(lane.bytes_copied for lane in line.lanes)
