"""Files that several questions share, and the summary that ends a run."""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from weighbridge.engine import demo

from measuring import Row, record

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
    name = "ctrl_visual_bert"
    base, other = demo.write(full=True, out=files / "bert-pair", others=[name])
    return Pair(base, other, demo.sources(demo.layout(demo.BASE, full=True), demo.layout(name, full=True)))


@pytest.fixture(scope="session")
def weighbridge() -> Path:
    """The installed command."""
    return Path(sys.executable).with_name("weighbridge")


@pytest.fixture
def recorder(request, benchmark):
    """Records a row: `recorder(times, against=…, asked=…, …)`; whether it is met is said, not asserted."""

    def put(times, *, against, asked, ceiling, bytes, ratio=None):
        subject = next(iter(times.seconds))
        row = Row(
            question=request.path.stem.removeprefix("test_"),
            subject=subject,
            against=against,
            asked=asked,
            ratio=times.ratio(against) if ratio is None else ratio,
            seconds={name: times.median(name) for name in times.seconds},
            ceiling=ceiling,
            bytes=bytes,
            rounds=len(times.seconds[subject]),
        )
        benchmark.extra_info[f"over {against}"] = row.ratio
        _rows.append(row)
        record(row)

    return put


def pytest_terminal_summary(terminalreporter):
    if _rows:
        terminalreporter.section("asked for and reached")
    for row in _rows:
        word = "reached" if row.met else "MISSED"
        line = f"{word:8} {row.ratio:8.3f} {row.asked:>8}   {row.question}: {row.subject} / {row.against}"
        terminalreporter.write_line(line)
