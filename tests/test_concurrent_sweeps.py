"""Several sweeps into one folder at a time, and somebody who reads it meanwhile: rows are there, whole and right."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from safetensors.numpy import save_file

import weighbridge
from weighbridge.engine.errors import WeighbridgeError
from weighbridge.engine.store import Store
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep
from weighbridge.engine.sweep_record import begin

SWEEPS, OTHERS, EACH = 8, 16, 4
CLI = "from weighbridge.cli import main; main()"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(2)
    tensors = {f"layer.{n}.weight": rng.standard_normal(3000).astype(np.float32) for n in range(8)}
    save_file(tensors, tmp_path / "base.safetensors")
    for number in range(OTHERS):
        changed = {name: array + np.float32(number * 1e-3) for name, array in tensors.items()}
        save_file(changed, tmp_path / f"{number}.safetensors")
    return tmp_path


def expected(folder, number):
    found = weighbridge.compare(folder / "base.safetensors", folder / f"{number}.safetensors")
    return [row.metrics["delta"] for row in found.rows]


def test_eight_sweeps_and_a_reader(folder):
    """Each sweep names some of the others, and every other is named by two sweeps."""
    true = {str(folder / f"{n}.safetensors"): expected(folder, n) for n in range(OTHERS)}
    seen, trouble, stop = [], [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                table = weighbridge.open_results(folder / "out").table(["label", "delta"])
            except WeighbridgeError as error:
                if "holds no sweep" not in str(error):
                    trouble.append(error)
                continue
            found = {}
            for label, delta in zip(*(table[name].to_pylist() for name in ("label", "delta")), strict=True):
                found.setdefault(label, []).append(delta)
            wrong = [label for label, deltas in found.items() if true[label] != deltas]
            trouble.extend(wrong)
            seen.append(len(found))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        running = []
        for sweep in range(SWEEPS):
            others = [str(folder / f"{(2 * sweep + k) % OTHERS}.safetensors") for k in range(EACH)]
            command = ["sweep", str(folder / "base.safetensors"), *others, "--out", str(folder / "out"), "--quiet"]
            running.append(subprocess.Popen([sys.executable, "-c", CLI, *command], stderr=subprocess.PIPE, text=True))
        for process in running:
            _, stderr = process.communicate(timeout=120)
            assert (process.returncode, stderr) == (0, "")
    finally:
        stop.set()
        reader.join()
    assert not trouble
    assert seen and seen == sorted(seen), "what was there once is there for good"
    results = weighbridge.open_results(folder / "out")
    assert sorted(entry["label"] for entry in results.others) == sorted(true)
    assert all(entry["status"] == "done" for entry in results.others)
    assert not list((folder / "out").rglob("*.partial"))
    for label, deltas in true.items():
        assert [row.metrics["delta"] for row in results[label].rows] == deltas


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("meanwhile", [lambda path: None, os.utime], ids=["as it was", "written to"])
def test_rows_that_another_sweep_finished_after_the_plan_was_made(folder, force, meanwhile):
    """Somebody may be reading them; unless they are of another checkpoint by now, or all is to be computed anew."""
    base, out = folder / "base.safetensors", folder / "out"
    others = [folder / f"{number}.safetensors" for number in range(2)]
    plan = plan_sweep(base, others, out=out, force=force)
    weighbridge.sweep(base, others[:1], out=out)
    meanwhile(others[0])
    begin(plan, Store(out))
    found = weighbridge.open_results(out)
    kept = not force and meanwhile is not os.utime
    assert [entry["status"] for entry in found.others] == ["done" if kept else "pending", "pending"]
    assert len(found.table(["label"])) == (len(found[str(others[0])].rows) if kept else 0)
    run_sweep(plan)
    assert [entry["status"] for entry in weighbridge.open_results(out).others] == ["done", "done"]
