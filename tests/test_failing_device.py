"""A device that returns EIO, a file server that stops answering: on a file system of our own, mounted for the test."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from safetensors.numpy import save_file

import weighbridge
from weighbridge.engine.errors import ReadError

from support.failing_fs import can_mount, mounted

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs /dev/fuse and the right to mount")

# A job in the background of a shell ignores SIGINT and hands that on; Python's own handler is put back.
CLI = (
    "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from weighbridge.cli import main\nmain()"
)
HEALTHY_BYTES = 6 << 20  # the header and the first tensors can be read


@pytest.fixture
def failing(tmp_path):
    """(folder, mount, mode): 0.safetensors to 3.safetensors of 16 MB on the mount, base.safetensors beside it."""
    (tmp_path / "source").mkdir()
    rng = np.random.default_rng(0)
    tensors = {f"layer.{n}.weight": rng.standard_normal(1 << 20).astype(np.float32) for n in range(4)}
    save_file(tensors, tmp_path / "base.safetensors")
    for number in range(4):
        save_file(
            {k: v * np.float32(1 + number) for k, v in tensors.items()}, tmp_path / f"source/{number}.safetensors"
        )
    with mounted(tmp_path) as (point, mode):
        yield tmp_path, point, mode


@pytest.mark.parametrize("io", ["map", "pread", "auto"])
def test_a_read_that_fails_is_a_sentence(failing, io):
    folder, point, mode = failing
    mode.write_text(f"fail {HEALTHY_BYTES}")
    with pytest.raises(ReadError, match=r"0.safetensors cannot be read at byte [0-9,]+.*: Input/output error"):
        weighbridge.compare(folder / "base.safetensors", point / "0.safetensors", io=io)
    mode.write_text("ok")
    again = weighbridge.compare(folder / "base.safetensors", point / "0.safetensors", io=io)
    assert [row.metrics["delta"] for row in again.rows] == [0.0] * 4


def test_a_header_that_cannot_be_read(failing):
    _, point, mode = failing
    mode.write_text("fail 0")
    with pytest.raises(ReadError, match=r"0.safetensors. cannot be read: Input/output error; check the disk"):
        weighbridge.open_checkpoint(point / "0.safetensors")


@pytest.mark.parametrize("io", ["map", "pread"])
def test_a_sweep_goes_on_without_what_cannot_be_read(failing, io):
    folder, point, mode = failing
    os.truncate(folder / "source/1.safetensors", 0)
    rng = np.random.default_rng(0)
    small = {"layer.0.weight": rng.standard_normal(1 << 20).astype(np.float32)}
    for number in (1, 3):
        save_file(small, folder / f"source/{number}.safetensors")
    mode.write_text(f"fail {HEALTHY_BYTES}")
    others = [point / f"{number}.safetensors" for number in range(4)]
    results = weighbridge.sweep(folder / "base.safetensors", others, out=folder / "out", io=io)
    assert [entry["status"] for entry in results.others] == ["failed", "done", "failed", "done"]
    assert all("Input/output error" in entry["reason"] for entry in results.failures)


# The headers can be read; when the bytes are about to be, the server goes away.
STALL_LATER = """
import time
from weighbridge.kernels.cpu import Tile
tasks = Tile.tasks
def stalled(self, *rest):
    with open({mode!r}, "w") as file:
        file.write("stall")
    time.sleep(0.2)
    return tasks(self, *rest)
Tile.tasks = stalled
"""


def waits(process, mode):
    """Wait until some thread of the process waits within the kernel for an answer that does not come."""
    for _ in range(2400):
        if mode.read_text() != "stall":
            time.sleep(0.05)
            continue
        for task in os.listdir(f"/proc/{process.pid}/task"):
            with suppress(OSError), open(f"/proc/{process.pid}/task/{task}/wchan") as file:
                if "request_wait_answer" in file.read():
                    return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it never came to wait")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("case", ["header", "map", "map, one thread", "pread", "sweep"])
def test_leaving_a_server_that_no_longer_answers(failing, sent, case):
    """Without an answer the wait would never end: that the process ends at all is what is tested."""
    folder, point, mode = failing
    other, base, result = point / "0.safetensors", folder / "base.safetensors", folder / "result.json"
    arguments = ["sweep", base, other, "--out", folder / "out"] if case == "sweep" else ["compare", base, other]
    if case == "header":
        mode.write_text("stall")
        words, before = "interrupted", ""
    else:
        words, before = "result.json was not written; run the same command again", STALL_LATER.format(mode=str(mode))
    if case == "sweep":
        words = "0 of 1 others are done and kept in"
    else:
        arguments += ["--format", "json", "-o", result]
    arguments += {"map, one thread": ["--io", "map", "--threads", "1"], "header": []}.get(case) or (
        ["--io", case] if case in ("map", "pread") else []
    )
    process = subprocess.Popen(
        [sys.executable, "-c", before + CLI, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        waits(process, mode)
        process.send_signal(sent)
        started = time.perf_counter()
        stdout, stderr = process.communicate(timeout=60)
        print(f"left after {time.perf_counter() - started:.2f} s")
    finally:
        process.kill()
    assert (process.returncode, stdout) == (128 + sent, ""), stderr
    assert stderr.count("weighbridge: interrupted") == 1 and words in stderr, stderr
    assert not result.exists()
