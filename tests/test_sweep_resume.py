"""A sweep that was stopped, anywhere and in any way, and run again is one that was never stopped, to the last byte."""

import builtins
import contextlib
import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import duckdb
import pytest

import weighbridge
from weighbridge.engine.errors import OutputError

from support.sweeps import contents, family

KILLS = int(os.environ.get("WEIGHBRIDGE_KILLS", "8"))
SEED = 11
OTHERS, BATCH = 6, 2
LOADED = ["weighbridge.engine.sweep", "weighbridge.engine.blocked", "weighbridge.engine.workers", "pyarrow.parquet"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    base, others = family(folder, OTHERS)
    sweep(folder, folder / "whole")
    return folder, base, others


def sweep(folder, out, **options):
    one = (folder / "base.safetensors").stat().st_size
    return weighbridge.sweep(
        folder / "base.safetensors", [folder / "o-*"], out=out, batch_bytes=(BATCH + 1) * one, **options
    )


def sweep_until(folder, out, step):
    """A sweep that ends as by a power cut before its n-th touch of the disk: of what is not synced, half is lost."""
    left, unsynced = [step], set()
    really = {name: getattr(os, name) for name in ("replace", "fsync", "unlink")}
    opened = builtins.open

    def touch():
        left[0] -= 1
        if left[0] < 0:
            for path in unsynced:
                os.truncate(path, os.path.getsize(path) // 2)
            os._exit(9)

    def fsync(descriptor):
        touch()
        really["fsync"](descriptor)
        unsynced.discard(os.readlink(f"/proc/self/fd/{descriptor}"))

    def replace(source, target):
        touch()
        really["replace"](source, target)
        if str(source) in unsynced:
            unsynced.remove(str(source))
            unsynced.add(str(target))

    def unlink(path, **named):
        touch()
        really["unlink"](path, **named)
        unsynced.discard(str(path))

    def open_(path, mode="r", *arguments, **named):
        if "w" in mode:
            touch()
            unsynced.add(str(path))
        return opened(path, mode, *arguments, **named)

    os.replace, os.fsync, os.unlink, builtins.open = replace, fsync, unlink, open_
    sweep(folder, out)


@pytest.fixture(scope="module")
def process():
    """Starts processes that have the package loaded, within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    started = []

    def start(target, *arguments):
        started.append(context.Process(target=target, args=arguments))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.join()


def require_whole(out, wanted):
    """Nothing that can be seen is half of anything."""
    for path in (out / "rows").glob("*.parquet"):
        assert path.read_bytes() == wanted[path.name]
    if (out / "sweep.json").exists():
        results = weighbridge.open_results(out)
        assert results.damaged == [] and len(results.labels) + results.pending == OTHERS


def test_killed_at_random_moments(checkpoints, process, tmp_path):
    folder, _, _ = checkpoints
    wanted = contents(folder / "whole")
    times = []
    for out in ("first", "timed", "again"):  # the first waits until the server of processes is up
        started = time.monotonic()
        process(sweep, folder, tmp_path / out).join()
        times.append(time.monotonic() - started)
    seconds = min(times[1:])  # most are then killed before they end, also where others keep the machine busy
    moments, killed = random.Random(SEED), 0
    for number in range(KILLS):
        out = tmp_path / f"out-{number // 2}"  # two kills of each
        victim = process(sweep, folder, out)
        time.sleep(moments.uniform(0, seconds))
        victim.kill()
        victim.join()
        killed += victim.exitcode == -signal.SIGKILL
        require_whole(out, wanted)
    assert killed >= KILLS // 2
    for number in range(-(-KILLS // 2)):
        sweep(folder, tmp_path / f"out-{number}")
        assert contents(tmp_path / f"out-{number}") == wanted
        assert not list(tmp_path.glob(f"out-{number}/**/*.partial"))


def test_power_lost_before_every_touch_of_the_disk(checkpoints, process, tmp_path):
    folder, _, _ = checkpoints
    wanted = contents(folder / "whole")
    step, stride = 0, 3 if KILLS <= 8 else 1
    while True:
        out = tmp_path / str(step)
        ended = process(sweep_until, folder, out, step)
        ended.join()
        require_whole(out, wanted)
        sweep(folder, out)
        assert contents(out) == wanted
        if ended.exitcode == 0:
            break
        assert ended.exitcode == 9
        step += stride
    assert step > 20


def test_workers_leave_nothing_behind_when_their_parent_is_killed(checkpoints, process, tmp_path):
    folder, _, _ = checkpoints
    code = f"import weighbridge; weighbridge.sweep({str(folder / 'base.safetensors')!r}, [{str(folder / 'o-*')!r}], "
    code += f"out={str(tmp_path / 'out')!r}, workers=2)"
    parent = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 30
    while len(children := _children(parent.pid)) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(children) >= 2
    parent.kill()
    parent.wait()
    while any(map(_runs, children)) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(map(_runs, children))
    sweep(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder / "whole")


def _children(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
    return []


def _runs(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("place", range(6))
def test_a_disk_that_fills_up(checkpoints, tmp_path, monkeypatch, place):
    """ENOSPC at the n-th write: one sentence, what is finished stays, and the rest comes when there is room."""
    folder, _, _ = checkpoints
    wanted = contents(folder / "whole")
    left, opened = [place], builtins.open

    def write(path, data):
        left[0] -= 1
        with opened(path, "wb") as file:
            file.write(data[:100] if left[0] < 0 else data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("weighbridge.engine.store._write", write)
        with pytest.raises(OutputError, match="No space left on device; what is finished is kept"):
            sweep(folder, tmp_path / "out")
    require_whole(tmp_path / "out", wanted)
    assert not list(tmp_path.glob("out/rows/.*.partial"))
    sweep(folder, tmp_path / "out")
    assert contents(tmp_path / "out") == wanted


def test_a_disk_that_is_full(checkpoints, tmp_path):
    folder, _, _ = checkpoints
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("mounting is not permitted")
    try:
        with pytest.raises(OutputError, match="No space left on device"):
            sweep(folder, disk / "out")
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        done = len(list(disk.glob("out/rows/*.parquet")))
        assert done < OTHERS
        sweep(folder, disk / "out")
        assert contents(disk / "out") == contents(folder / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_sweeps_into_one_folder_at_once(checkpoints, process, tmp_path):
    folder, _, _ = checkpoints
    both = [process(sweep, folder, tmp_path / "out") for _ in range(2)]
    for each in both:
        each.join()
    assert [each.exitcode for each in both] == [0, 0]
    assert contents(tmp_path / "out") == contents(folder / "whole")


def test_readable_while_it_is_written(checkpoints, process, tmp_path):
    folder, _, others = checkpoints
    out = tmp_path / "out"
    wanted = weighbridge.open_results(folder / "whole")
    rows = {label: len(wanted[label].rows) for label in wanted.labels}
    writing = process(sweep, folder, out)
    seen = set()
    while writing.is_alive():
        if (out / "sweep.json").exists():
            results = weighbridge.open_results(out)
            assert results.damaged == []
            seen.add(len(results.labels))
        if list(out.glob("rows/*.parquet")):
            query = f"SELECT label, count(*) FROM '{out}/rows/*.parquet' GROUP BY label"
            assert all(rows[label] == n for label, n in duckdb.sql(query).fetchall())
    assert writing.exitcode == 0 and len(weighbridge.open_results(out).labels) == len(others)
    assert seen & {0, 2, 4}
