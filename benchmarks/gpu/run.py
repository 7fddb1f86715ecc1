"""Ask the questions about a GPU, print a table, and record the rows.

    python benchmarks/gpu/run.py                         all questions on cuda:0; rows go to benchmarks/results
    python benchmarks/gpu/run.py --results FOLDER        … or to another folder
    python benchmarks/gpu/run.py --only small_tensors    one question
    WEIGHBRIDGE_BENCH_SCALE=1e-4 python benchmarks/gpu/run.py --device cpu --backend portable    try them out

Needs torch, triton, numba and safetensors, and the package itself on no path: where it is not installed, the checkout
this file lies in is taken. A question that fails is said to have failed, and the others are asked all the same. Only
what was measured at scale 1 is recorded.
"""

import argparse
import importlib
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


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


def _ask(arguments: list[str] | None) -> int:
    from gpu import QUESTIONS
    from gpu.rig import Rig
    from weighbridge.kernels.gpu import available

    from measuring import SCALE, Row, record
    from measuring.results import RESULTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--backend", choices=("gpu", "portable"), default="gpu")
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="repeatable")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.backend == "gpu" and (reason := available(options.device)) is not None:
        print(f"the fused kernels cannot be measured on {options.device}: {reason}", file=sys.stderr)
        return 2
    rig = Rig(options.device, options.backend, options.rounds)
    rows: list[Row] = []
    failed = []
    for question in options.only or QUESTIONS:
        try:
            for row in importlib.import_module(f"gpu.{question}").rows(rig):
                rows.append(row)
                print(_line(row), flush=True)
                if SCALE == 1:
                    record(row, options.results)
        except Exception:  # noqa: BLE001 whatever one question has met with, the others are worth asking
            failed.append(question)
            print(f"FAILED   {question}\n{traceback.format_exc()}", flush=True)
    print(f"\n{rig.machine['gpu']}, {rig.machine['cpu']}, torch {rig.versions.get('torch')}, scale {SCALE:g}")
    print(f"{'':8} {'measured':>9} {'asked':>8}  {'GB/s':>7}  {'ceiling':>7}")
    for row in rows:
        print(_line(row))
    for question in failed:
        print(f"FAILED   {question}")
    return 1 if failed else 0


def _line(row) -> str:  # type: ignore[no-untyped-def]
    rate, ceiling = (row.bytes / row.seconds[name] / 1e9 for name in (row.subject, row.ceiling))
    word = "reached" if row.met else "MISSED"
    return f"{word:8} {row.ratio:9.3f} {row.asked:>8}  {rate:7.1f}  {ceiling:7.1f}  {row.subject} / {row.against}"


if __name__ == "__main__":
    sys.exit(main())
