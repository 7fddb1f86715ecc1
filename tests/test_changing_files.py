"""Files that change, vanish or fail while they are compared: a sentence about that checkpoint, no wrong number."""

import ctypes
import mmap
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import weighbridge
from weighbridge.engine import execute as execute_module
from weighbridge.engine import faults
from weighbridge.engine.errors import ReadError
from weighbridge.engine.formats import open_checkpoint
from weighbridge.kernels.cpu import Tile

guarded = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are guarded on Linux only")
ELEMENTS = 1 << 20


def write(path, tensors=4, scale=1.0):
    rng = np.random.default_rng(3)
    arrays = {f"layer.{n}.weight": rng.standard_normal(ELEMENTS).astype(np.float32) for n in range(tensors)}
    save_file({name: np.float32(scale) * array for name, array in arrays.items()}, path)
    return path


@pytest.fixture
def pair(tmp_path):
    return write(tmp_path / "base.safetensors"), write(tmp_path / "other.safetensors", scale=1.01)


def at_first_task(monkeypatch, act):
    """Does something to a file when the first task of the kernels begins: files are opened and mapped by then."""
    run, done = Tile.run, threading.Event()

    def meddled(self, items, addresses):
        if not done.is_set():
            done.set()
            act()
        return run(self, items, addresses)

    monkeypatch.setattr(Tile, "run", meddled)


@guarded
@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize("left", [0, 1000, 9_000_000])
def test_cut_short(pair, monkeypatch, io, left):
    base, other = pair
    at_first_task(monkeypatch, lambda: os.truncate(other, left))
    with pytest.raises(ReadError, match=r"other.safetensors .*(changed while it was being read|was cut short)"):
        weighbridge.compare(base, other, io=io)


@guarded
def test_cut_short_and_made_whole_again(pair, monkeypatch):
    """The size is right when it is looked at; the pages were missing all the same."""
    base, other = pair
    size, times = other.stat().st_size, other.stat()

    def act():
        os.truncate(other, 5000)

    run = Tile.run

    def after(self, items, addresses):
        done = run(self, items, addresses)
        os.truncate(other, size)
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        return done

    monkeypatch.setattr(Tile, "run", after)
    at_first_task(monkeypatch, act)
    with pytest.raises(ReadError, match=r"cannot be read at byte .* of a map of it: Input/output error"):
        weighbridge.compare(base, other, io="map")


@guarded
def test_what_follows_a_missing_page_is_not_computed(pair, monkeypatch):
    base, other = pair
    tasks = []
    run = Tile.run
    monkeypatch.setattr(Tile, "run", lambda self, items, addresses: (tasks.append(1), run(self, items, addresses))[1])
    monkeypatch.setattr(execute_module.cpu.Tile.tasks, "__defaults__", (1 << 20,))
    at_first_task(monkeypatch, lambda: os.truncate(other, 0))
    with pytest.raises(ReadError):
        weighbridge.compare(base, other, io="map", threads=1)
    assert len(tasks) == 1


@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda path: os.unlink(path), "vanished while it was being read"),
        (lambda path: path.rename(path.with_name("moved")), "vanished while it was being read"),
        (
            lambda path: (write(path.with_name("new"), scale=3), os.replace(path.with_name("new"), path)),
            "changed while",
        ),
        (lambda path: path.open("r+b").write(b"\x90"), "changed while it was being read"),
        (lambda path: (shutil.move(path, path.with_name("moved")), path.mkdir()), "changed while it was being read"),
    ],
    ids=["deleted", "renamed", "replaced", "written to", "a folder in its place"],
)
def test_changed(pair, monkeypatch, io, act, words):
    base, other = pair
    at_first_task(monkeypatch, lambda: act(other))
    with pytest.raises(ReadError, match=f"other.safetensors {words}"):
        weighbridge.compare(base, other, io=io)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "transposed"])
def test_changed_between_the_header_and_the_bytes(tmp_path, kind):
    """An opened checkpoint whose file gives way to one of another layout: its offsets would read other tensors."""
    path = tmp_path / "a.bin"
    first = {"a": torch.ones(60, 50), "b": torch.zeros(40, 50)}
    second = {"b": first["b"], "a": first["a"]}

    def save(tensors):
        if kind == "safetensors":
            save_file({name: tensor.numpy() for name, tensor in tensors.items()}, path)
        else:
            made = {name: tensor.t() if kind == "transposed" else tensor for name, tensor in tensors.items()}
            torch.save(made, path, _use_new_zipfile_serialization=kind != "legacy")

    save(first)
    opened = open_checkpoint(path)
    size = path.stat().st_size
    save(second)
    if kind == "safetensors":
        assert path.stat().st_size == size
    with pytest.raises(ReadError, match=r"changed (while it was being read|since it was opened)"):
        weighbridge.compare(opened, open_checkpoint(path))


@pytest.mark.parametrize("io", ["map", "pread"])
def test_a_file_that_can_no_longer_be_opened(pair, monkeypatch, io):
    """By a planted error where the tests run as root, who may open everything."""
    base, other = map(open_checkpoint, pair)
    if os.geteuid() == 0:
        opened = os.open

        def refuse(path, *rest, **named):
            if str(path).endswith("other.safetensors"):
                raise PermissionError(13, "Permission denied")
            return opened(path, *rest, **named)

        monkeypatch.setattr(os, "open", refuse)
    else:
        pair[1].chmod(0)
    with pytest.raises(ReadError, match=r"other.safetensors cannot be read: Permission denied"):
        weighbridge.compare(base, other, io=io)


def test_a_pipe_in_the_place_of_a_file_does_not_hold_us_up(pair):
    base, other = map(open_checkpoint, pair)
    pair[1].unlink()
    os.mkfifo(pair[1])
    with pytest.raises(ReadError, match="changed while it was being read"):
        weighbridge.compare(base, other)


# Sweeps: the one that is spoiled fails, the others are done


@guarded
@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize("act", [lambda path: os.truncate(path, 70_000), os.unlink], ids=["cut short", "deleted"])
def test_a_sweep_loses_only_the_one_that_changes(tmp_path, monkeypatch, io, act):
    base = write(tmp_path / "base.safetensors", 2)
    others = [write(tmp_path / f"{n}.safetensors", 2, scale=1 + n) for n in range(5)]
    at_first_task(monkeypatch, lambda: act(others[3]))
    results = weighbridge.sweep(base, others, out=tmp_path / "out", io=io)
    assert [(entry["status"], entry["label"][-13:]) for entry in results.others if entry["status"] != "done"] == [
        ("failed", "3.safetensors")
    ]
    (entry,) = results.failures
    assert "3.safetensors" in entry["reason"]
    whole = results.to_pandas()
    for n in (0, 1, 2, 4):
        alone = weighbridge.compare(base, others[n])
        rows = whole[whole["label"].str.endswith(f"{n}.safetensors")]
        assert list(rows["delta"]) == [row.metrics["delta"] for row in alone.rows]


@guarded
def test_a_sweep_whose_base_changes_stops_with_a_sentence(tmp_path, monkeypatch):
    base = write(tmp_path / "base.safetensors", 2)
    others = [write(tmp_path / f"{n}.safetensors", 2, scale=1 + n) for n in range(3)]
    at_first_task(monkeypatch, lambda: os.truncate(base, 70_000))
    with pytest.raises(weighbridge.WeighbridgeError, match=r"base.safetensors"):
        weighbridge.sweep(base, others, out=tmp_path / "out", io="map")
    assert not list((tmp_path / "out" / "rows").iterdir())


# The handler itself

CRASH = """
import ctypes, faulthandler, mmap, os, signal, sys
import numpy as np
from weighbridge.engine import faults
how = sys.argv[2]
if how == "faulthandler":
    faulthandler.enable()
file = os.open(sys.argv[1], os.O_RDONLY)
maps = [np.frombuffer(mmap.mmap(file, 100_000, access=mmap.ACCESS_READ), np.uint8) for _ in range(2)]
slot = faults.guard(maps[0].ctypes.data, 100_000)
if how == "enabled later":
    faulthandler.enable()
if how == "sent":
    os.kill(os.getpid(), signal.SIGBUS)
os.truncate(sys.argv[1], 0)
print(int(maps[0].sum()), faults.failed(slot), flush=True)
if how == "released":
    faults.release(slot)
print(int(maps[how != "released"].sum()) if how != "released" else ctypes.string_at(maps[1].ctypes.data, 1))
"""


@guarded
@pytest.mark.parametrize("how", ["plain", "faulthandler", "enabled later", "sent", "released"])
def test_faults_elsewhere_end_the_process_as_before(tmp_path, how):
    (tmp_path / "a").write_bytes(b"\1" * 100_000)
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path / "a"), how], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGBUS
    # A handler that is put in place while we guard stands before ours, and ends the process as it would without us.
    assert done.stdout == ("" if how in ("sent", "enabled later") else "0 0\n")
    assert ("Fatal Python error: Bus error" in done.stderr) == (how in ("faulthandler", "enabled later"))


@guarded
def test_the_handler_is_in_place_only_while_something_is_guarded(tmp_path):
    def now():
        action = faults._SigAction()
        ctypes.CDLL(None).sigaction(signal.SIGBUS, None, ctypes.byref(action))
        return action.handler

    before = now()
    room = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    first, second = faults.guard(address, 4096), faults.guard(address, 4096)
    assert now() == faults._handler() != before
    faults.release(first)
    assert now() == faults._handler()
    faults.release(second)
    assert now() == before


@guarded
def test_slots_run_out_without_harm(tmp_path):
    room = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    slots = [faults.guard(address, 1) for _ in range(faults.SLOTS)]
    try:
        assert len({*slots}) == faults.SLOTS and None not in slots
        assert faults.guard(address, 1) is None
    finally:
        for slot in slots:
            faults.release(slot)
    again = faults.guard(address, 1)
    assert again is not None
    faults.release(again)


@guarded
def test_maps_are_guarded_until_they_are_let_go(pair):
    used = []
    run = Tile.run

    def look(self, items, addresses):
        used.append(faults._guarded)
        return run(self, items, addresses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tile, "run", look)
        weighbridge.compare(*pair, io="map")
    assert set(used) == {2}
    assert faults._guarded == 0
