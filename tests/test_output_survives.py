"""`compare -o`: whatever ends the process, and wherever, the file holds all of the result or what it held before."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

# At the chosen step of writing, the process gets the signal; SIGINT as from a terminal.
CLI = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from weighbridge.engine.report import files
step, number = sys.argv.pop(1), int(sys.argv.pop(1))
def before(name, act):
    def wrapped(*arguments, **named):
        if step == f"before {name}":
            os.kill(os.getpid(), number)
        done = act(*arguments, **named)
        if step == f"after {name}":
            os.kill(os.getpid(), number)
        return done
    return wrapped
os.fsync, os.replace = before("sync", os.fsync), before("rename", os.replace)
files._write_synced = before("write", files._write_synced)
from weighbridge.cli import main
main()
"""
STEPS = ["before write", "before sync", "after sync", "before rename", "after rename"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for name in ("base", "other"):
        save_file(
            {f"layer.{n}.weight": np.ones((8, 8), np.float32) for n in range(300)}, folder / f"{name}.safetensors"
        )
    return folder / "base.safetensors", folder / "other.safetensors"


def compare(pair, out, step="never", number=signal.SIGKILL, **options):
    command = [sys.executable, "-c", CLI, step, str(int(number)), "compare", *map(str, pair)]
    return subprocess.run(
        [*command, "--format", "json", "-o", str(out)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("step", STEPS)
def test_ended_while_it_is_written(tmp_path, pair, step, number):
    out = tmp_path / "result.json"
    out.write_text("before")
    done = compare(pair, out, step, number)
    assert done.returncode == (-number if number == signal.SIGKILL else 128 + number), done.stderr
    if step == "after rename":
        assert len(json.loads(out.read_text())["tensors"]) == 300
    else:
        assert out.read_text() == "before"
    if number != signal.SIGKILL:
        assert os.listdir(tmp_path) == ["result.json"]
        assert done.stderr.startswith("weighbridge: interrupted")
        return
    # What a killed one leaves behind is in nobody's way.
    assert compare(pair, out).returncode == 0
    assert len(json.loads(out.read_text())["tensors"]) == 300


def full_disk(folder):
    """A file system of 64 KiB mounted over a folder; None where that is not allowed."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    return folder if done.returncode == 0 else None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk(tmp_path, pair):
    disk = full_disk(tmp_path)
    if disk is None:
        pytest.skip("mounting is not allowed here")
    try:
        (disk / "result.json").write_text("before")
        done = compare(pair, disk / "result.json")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("weighbridge: error: ") and len(done.stderr.splitlines()) == 1
        assert "result.json could not be written: No space left on device; free space or choose" in done.stderr
        assert (disk / "result.json").read_text() == "before"
        assert os.listdir(disk) == ["result.json"]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = compare(pair, disk / "result.json")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "cannot be written" in done.stderr or "could not be written" in done.stderr
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_limit_on_the_size_of_files(tmp_path, pair):
    """A disk that fills up in the middle, without the right to mount one: writes beyond the limit fail."""
    resource = pytest.importorskip("resource")
    out = tmp_path / "result.json"
    out.write_text("before")
    done = compare(pair, out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (32_768, 32_768)))
    assert done.returncode == 2 and "could not be written: File too large" in done.stderr
    assert out.read_text() == "before" and os.listdir(tmp_path) == ["result.json"]
