"""Processes ended at random moments: is what they leave whole or absent, and does the next run finish the work?

    PYTHONPATH=tests python -m support.end_at_random --times 300 --seed 1

Each time a `compare -o`, a `matrix -o --out` or a `sweep` is begun and gets SIGKILL, SIGTERM or SIGINT after a random
part of the time that it takes undisturbed. Then the output is looked at, and a sweep or a matrix is run again to its
end and compared with one that was left alone. Prints how many were ended in the middle, what was lost, and how long
those that could leave took to do so.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet
from safetensors.numpy import save_file

import weighbridge

_CLI = (
    "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfrom weighbridge.cli import main\nmain()"
)
_OTHERS = 12
_KINDS = ("compare", "matrix", "sweep")


def command(folder: Path, kind: str, out: Path) -> list[str]:
    """The arguments of one run."""
    base = str(folder / "base.safetensors")
    if kind == "compare":
        return ["compare", base, str(folder / "0.safetensors"), "--format", "json", "-o", str(out)]
    others = [str(folder / f"{n}.safetensors") for n in range(_OTHERS)]
    if kind == "matrix":
        kept = out.with_name(f"{out.name}-kept")
        return ["matrix", base, *others, "--out", str(kept), "--format", "json", "-o", str(out), "--quiet"]
    return ["sweep", base, *others, "--out", str(out), "--quiet"]


def begin(arguments: list[str]) -> subprocess.Popen[bytes]:
    """A process of the command line, its output thrown away."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", _CLI, *arguments], **quiet)


def rows(out: Path) -> dict[str, list]:
    """Every row file of a sweep's folder, read in full."""
    return {path.name: pyarrow.parquet.read_table(path).to_pylist() for path in (out / "rows").glob("*.parquet")}


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    rng = random.Random(wanted.seed)
    tally: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = np.random.default_rng(0)
        tensors = {f"layer.{n}.weight": values.standard_normal(20_000).astype(np.float32) for n in range(100)}
        save_file(tensors, folder / "base.safetensors")
        for n in range(_OTHERS):
            save_file({k: v * np.float32(1 + n / 100) for k, v in tensors.items()}, folder / f"{n}.safetensors")
        took = {}
        for kind in _KINDS:
            for _ in range(2):  # the first compiles the kernels
                started = time.perf_counter()
                assert begin(command(folder, kind, folder / f"whole-{kind}")).wait() == 0
                took[kind] = time.perf_counter() - started
        whole = {kind: (folder / f"whole-{kind}").read_bytes() for kind in ("compare", "matrix")}
        whole_rows = rows(folder / "whole-sweep")
        for number in range(wanted.times):
            kind = rng.choice(_KINDS)
            sent = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
            out = folder / f"{number}"
            if kind in whole:
                out.write_bytes(b"before")
            process = begin(command(folder, kind, out))
            time.sleep(rng.uniform(0, took[kind]))
            ended = process.poll() is None
            process.send_signal(sent)
            started = time.perf_counter()
            process.wait(60)
            if ended and sent is not signal.SIGKILL:
                slowest = max(slowest, time.perf_counter() - started)
            tally[f"{kind} {sent.name}" if ended else f"{kind}, already done"] += 1
            if kind in whole:
                assert out.read_bytes() in (b"before", whole[kind]), f"run {number}: the file is neither old nor new"
            if kind == "matrix":
                assert begin(command(folder, kind, out)).wait() == 0, f"run {number}: it cannot be gone on with"
                assert out.read_bytes() == whole[kind], f"run {number}: the matrix is another one"
            if kind in whole:
                continue
            found = rows(out) if out.exists() else {}
            assert all(whole_rows[file] == each for file, each in found.items()), f"run {number}: rows are wrong"
            tally["others kept"] += len(found)
            assert begin(command(folder, kind, out)).wait() == 0, f"run {number}: it cannot be gone on with"
            assert rows(out) == whole_rows, f"run {number}: rows are missing"
            assert not weighbridge.open_results(out).failures
            assert not list(out.rglob("*.partial")), f"run {number}: half-written files are left"
    print(f"{wanted.times} runs: {dict(sorted(tally.items()))}")
    print(f"nothing lost; SIGTERM and SIGINT left after {slowest:.2f} s at most")


if __name__ == "__main__":
    main()
