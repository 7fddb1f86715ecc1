"""Sweeps on several processes: the bits of one, and a process that dies costs nothing but the other that killed it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

import weighbridge
from weighbridge.engine.errors import FormatError
from weighbridge.engine.others import Other
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep
from weighbridge.engine.sweep_task import Task
from weighbridge.engine.workers import run_processes, singly

from support.sweeps import contents, family, mapped_without_pages


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    base, others = family(folder, 6)
    (folder / "o-7.safetensors").write_bytes(b"x" * 60)
    weighbridge.sweep(base, [folder / "o-*"], out=folder / "serial")
    return folder, base, others


def test_the_rows_of_one_process(checkpoints, tmp_path):
    folder, base, _ = checkpoints
    weighbridge.sweep(base, [folder / "o-*"], out=tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(folder / "serial")


def test_a_worker_killed_in_the_middle(checkpoints, tmp_path):
    folder, base, _ = checkpoints
    killed = []

    def kill_one():
        until = time.monotonic() + 30
        while not killed and time.monotonic() < until:
            for child in _workers():
                os.kill(child, signal.SIGKILL)
                killed.append(child)
                break
            time.sleep(0.005)

    killing = threading.Thread(target=kill_one)
    killing.start()
    weighbridge.sweep(base, [folder / "o-*"], out=tmp_path / "out", workers=2)
    killing.join()
    assert len(killed) == 1
    assert contents(tmp_path / "out") == contents(folder / "serial")


def _workers():
    """The processes of a pool that this process has started."""
    with open(f"/proc/self/task/{threading.main_thread().native_id}/children") as file:
        children = [int(child) for child in file.read().split()]
    found = []
    for child in children:
        with open(f"/proc/{child}/cmdline") as file:
            found += [child] if "spawn_main" in file.read() else []
    return found


@pytest.fixture
def shrinking(checkpoints, tmp_path):
    _, _, others = checkpoints
    with mapped_without_pages(others[0], tmp_path / "disk") as path:
        yield path


def test_a_file_that_shrinks_under_its_map_is_the_one_that_fails(checkpoints, shrinking, tmp_path):
    folder, base, others = checkpoints
    sources = [others[0], shrinking, *others[1:]]
    results = weighbridge.sweep(base, sources, out=tmp_path / "out", workers=2, io="map")
    assert results.labels == [str(other) for other in others]
    (failed,) = results.failures
    assert failed["label"] == str(shrinking) and failed["reason"]
    serial, found = contents(folder / "serial"), contents(tmp_path / "out")
    del serial["sweep.json"], found["sweep.json"]
    assert found == serial


def test_strict_raises_what_a_worker_met(checkpoints, tmp_path):
    _, base, others = checkpoints
    for number in (1, 2, 3):
        shutil.copy(others[0], tmp_path / f"o-{number}.safetensors")
    plan = plan_sweep(base, [tmp_path / "o-*"], out=tmp_path / "out", workers=2, strict=True)
    (tmp_path / "o-2.safetensors").write_bytes(b"x" * 60)
    with pytest.raises(FormatError, match=r"o-2.safetensors.*not a safetensors file"):
        run_sweep(plan, 2)


def test_bytes_in_flight_are_told(checkpoints, tmp_path):
    _, base, others = checkpoints
    plan = plan_sweep(base, others, out=tmp_path / "out", workers=2)
    told = []
    settings = replace(plan.settings, out=None)  # the rows are returned
    done = {task.number: outcomes for task, outcomes in run_processes(plan.tasks, settings, 2, told.append)}
    assert all(outcome.table for outcomes in done.values() for outcome in outcomes) and len(done) == 2
    assert max(told) > 0 and min(told) == 0 == told[-1]  # nothing is in flight when all is done


def test_a_script_without_a_guard_is_told_so(checkpoints, tmp_path):
    folder, base, _ = checkpoints
    script = tmp_path / "script.py"
    script.write_text(
        "import weighbridge\n"
        "try:\n"
        f"    weighbridge.sweep({str(base)!r}, [{str(folder / 'o-*')!r}], out={str(tmp_path / 'out')!r}, workers=2)\n"
        "except weighbridge.WeighbridgeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("worker processes do not start; leave --workers out (in a script, call sweep() under")


def test_a_task_is_cut_into_its_others():
    others = tuple(Other(name, name) for name in "abc")
    cut = singly(Task(4, others, 90))
    assert [(task.others, task.nbytes) for task in cut] == [((other,), 30) for other in others]
