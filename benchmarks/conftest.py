"""Files that several questions share, and the summary that ends a run."""

import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from weighbridge.engine import demo

from measuring import SCALE, Row, record, related, row_of, warm, write

_QUIET = 0.1  # cores
_rows: list[Row] = []


@dataclass(frozen=True)
class Pair:
    """Two checkpoints on disk: their folders, their weight files, and which tensor began as which."""

    base: Path
    other: Path
    sources: dict[str, str]

    @property
    def weights(self) -> tuple[Path, Path]:
        return self.base / "model.safetensors", self.other / "model.safetensors"


@pytest.fixture(scope="session")
def files() -> Path:
    """A folder for big files, kept between runs: $WEIGHBRIDGE_BENCH_FILES, else one in the temporary folder."""
    folder = Path(os.environ.get("WEIGHBRIDGE_BENCH_FILES") or Path(tempfile.gettempdir()) / "weighbridge-benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def bert_pair(files: Path) -> Pair:
    """BERT and ctrl_visual_bert at their true size, 0.53 and 0.89 GB; 0.44 GB of each is the model that is compared."""
    name, full = "ctrl_visual_bert", SCALE >= 1
    out = files / ("bert-pair" if full else "bert-pair-reduced")
    base, other = demo.write(full=full, out=out, others=[name])
    return Pair(base, other, demo.sources(demo.layout(demo.BASE, full=full), demo.layout(name, full=full)))


@pytest.fixture(scope="session")
def family(files: Path) -> list[Path]:
    """BERT's names and shapes, 17 times: a base, and 16 times the base plus noise of their own; 0.44 GB each."""
    layout = demo.layout(demo.BASE, full=SCALE >= 1)
    shapes = {name: shape for name, shape in layout.shapes.items() if name.startswith("bert.")}
    folder = files / ("family" if SCALE >= 1 else "family-reduced")
    paths = [write(folder / "0.safetensors", shapes, "F32", itertools.repeat(related("F32").base))]
    for number in range(1, 17):
        other = related("F32", noise=0.001 * number, seed=number).other
        paths.append(write(folder / f"{number}.safetensors", shapes, "F32", itertools.repeat(other)))
    if not warm(*paths):
        pytest.skip("the page cache does not hold the 17 files")
    return paths


@pytest.fixture(scope="session")
def weighbridge() -> Path:
    """The installed command."""
    return Path(sys.executable).with_name("weighbridge")


@pytest.fixture
def recorder(request, benchmark):
    """Records a row: `recorder(times, against=…, asked=…, …)` as for `row_of`; that it is met is said, not asserted."""

    def put(times, *, against, asked, ceiling, bytes):
        question = request.path.stem.removeprefix("test_")
        row = row_of(question, times, against=against, asked=asked, ceiling=ceiling, nbytes=bytes)
        benchmark.extra_info[f"over {against}"] = row.ratio
        _rows.append(row)
        if SCALE == 1:
            record(row)

    return put


def _busy_seconds() -> tuple[float, float]:
    """Processor seconds that the whole machine has spent, and that this process and its finished children have."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0, 0.0
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


_started = (time.monotonic(), *_busy_seconds())


def _cores_elsewhere() -> float:
    """How many cores others kept busy meanwhile: what computes feels them, what waits for memory hardly does."""
    wall, machine, own = (now - then for now, then in zip((time.monotonic(), *_busy_seconds()), _started, strict=True))
    return max(machine - own, 0.0) / wall


def pytest_terminal_summary(terminalreporter):
    if _rows:
        elsewhere = _cores_elsewhere()
        if elsewhere > _QUIET:
            terminalreporter.section("this machine is busy")
            terminalreporter.write_line(f"Others used {elsewhere:.2f} cores meanwhile: measure again when they do not.")
        terminalreporter.section("asked for and reached" + ("" if SCALE == 1 else f" (at scale {SCALE}, not recorded)"))
    for row in _rows:
        word = "reached" if row.met else "MISSED"
        seconds = "; ".join(f"{name} {1000 * value:.1f} ms" for name, value in row.seconds.items())
        line = f"{word:8} {row.ratio:8.3f} {row.asked:>8}   {row.question}: {row.subject} / {row.against} ({seconds})"
        terminalreporter.write_line(line)
