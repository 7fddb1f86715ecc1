"""Ask the questions about a GPU, print a table, and record the rows.

    python benchmarks/gpu/run.py                         all questions on cuda:0; rows go to benchmarks/results
    python benchmarks/gpu/run.py --results FOLDER        … or to another folder
    python benchmarks/gpu/run.py --only small_tensors    one question
    python benchmarks/gpu/run.py --tests                 first the tests that need a GPU, those marked slow left out
    WEIGHBRIDGE_BENCH_SCALE=1e-4 python benchmarks/gpu/run.py --device cpu --backend portable    try them out

Needs torch, triton, numba and safetensors, and the package itself on no path: where it is not installed, the checkout
this file lies in is taken. A figure that fails is said to have failed, and the others are measured all the same. Only
what was measured at scale 1 is recorded, as soon as it is.

The tests need pytest and hypothesis, and compile up to 131 kernels of 1 to 6 s each; with pytest-xdist they do so on
all cores at once. After 5 minutes they are cut off.
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu.rig import Rig

    from measuring import Row

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ("test_devices_*.py", "test_exact_numbers.py", "test_kernels_*.py")  # in which some are marked gpu
_TESTS_SECONDS = 300
_WORKERS = 16  # each has a context on the device, of half a GB


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 where a question failed, 2 where none can be asked."""
    with tempfile.TemporaryDirectory() as folder:
        _find_packages(Path(folder))
        return _ask(arguments)


def _find_packages(folder: Path) -> None:
    """Make `weighbridge`, `measuring` and `gpu` importable."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import weighbridge  # noqa: F401
    except ImportError:
        (folder / "weighbridge").symlink_to(ROOT, target_is_directory=True)
        sys.path.insert(0, str(folder))
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # of the tests' process


def _ask(arguments: list[str] | None) -> int:
    from gpu import QUESTIONS
    from gpu.rig import Rig
    from weighbridge.kernels.gpu import available

    from measuring import SCALE, record
    from measuring.results import RESULTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--backend", choices=("gpu", "portable"), default="gpu")
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="repeatable")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--tests", action="store_true", help="run the tests that need a GPU first")
    options = parser.parse_args(arguments)
    if options.backend == "gpu" and (reason := available(options.device)) is not None:
        print(f"the fused kernels cannot be measured on {options.device}: {reason}", file=sys.stderr)
        return 2
    failed = []
    if options.tests and (told := _test(_TESTS_SECONDS)) is not None:
        failed.append(f"tests: {told}")
    rig = Rig(options.device, options.backend, options.rounds)
    rows: list[Row] = []
    for question in options.only or QUESTIONS:
        number = 0
        for number, measure in enumerate(_measures(question, rig), 1):
            try:
                rows.append(row := measure())
                print(_line(row), flush=True)
                if SCALE == 1:
                    record(row, options.results)
            except Exception:  # noqa: BLE001 whatever one figure has met with, the others are worth having
                failed.append(f"{question}, figure {number}")
                print(f"FAILED   {failed[-1]}\n{traceback.format_exc()}", flush=True)
    print(f"\n{rig.machine['gpu']}, {rig.machine['cpu']}, torch {rig.versions.get('torch')}, scale {SCALE:g}")
    print(f"{'':8} {'measured':>9} {'asked':>8}  {'GB/s':>7}  {'ceiling':>7}")
    for row in rows:
        print(_line(row))
    for what in failed:
        print(f"FAILED   {what}")
    return 1 if failed else 0


def _measures(question: str, rig: "Rig") -> "Iterator[Callable[[], Row]]":
    """What measures the figures of a question; one that fails where not even its module can be imported."""
    try:
        yield from importlib.import_module(f"gpu.{question}").rows(rig)
    except Exception as problem:  # noqa: BLE001
        error = problem

        def fails() -> "Row":
            raise error

        yield fails


def _test(seconds: float) -> str | None:
    """Run the tests that need a GPU, for so long at most; what is to be said of them, None where they passed."""
    folder = ROOT / "tests"
    files = sorted(str(path) for pattern in TESTS for path in folder.glob(pattern))
    workers = ["-n", str(min(len(os.sched_getaffinity(0)), _WORKERS))] if find_spec("xdist") else []
    line = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", "--durations=10", *workers, *files]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(line, cwd=ROOT, env=environment, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the workers, too
        process.wait()
        return f"cut off after {seconds:.0f} s"
    return None if status == 0 else f"pytest ended with {status}"


def _line(row) -> str:  # type: ignore[no-untyped-def]
    rate, ceiling = (row.bytes / row.seconds[name] / 1e9 for name in (row.subject, row.ceiling))
    word = "reached" if row.met else "MISSED"
    return f"{word:8} {row.ratio:9.3f} {row.asked:>8}  {rate:7.1f}  {ceiling:7.1f}  {row.subject} / {row.against}"


if __name__ == "__main__":
    sys.exit(main())
