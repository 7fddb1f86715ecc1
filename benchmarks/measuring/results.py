"""Recorded rows: one JSON file for each question, one row for each measurement and machine, the newest kept."""

import ast
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .turns import Times

RESULTS = Path(__file__).parent.parent / "results"
ACCURACY = RESULTS / "accuracy.json"  # of another form: errors, not times
_PACKAGES = ("weighbridge", "numpy", "numba", "safetensors", "torch", "modeldelta", "numkong")


@dataclass(frozen=True)
class Row:
    """One figure, and all that is needed to judge it.

    Attributes:
        question: the name of the benchmark's file, without `test_`; with `gpu_` before it for those of gpu/.
        subject: what was timed.
        against: what it was timed in turn with.
        asked: what was aimed at: "<= 2.5", the subject's time over the other's, or ">= 20", how many times as fast.
        ratio: what came out, in the sense of `asked`.
        seconds: the medians, by what was timed; the ceiling's among them.
        ceiling: which of `seconds` is the machine's own ceiling.
        bytes: how many bytes the subject read.
        rounds: of how many rounds the medians are.
        machine, versions, commit, date: where and with what.
    """

    question: str
    subject: str
    against: str
    asked: str
    ratio: float
    seconds: dict[str, float]
    ceiling: str
    bytes: int
    rounds: int
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(default_factory=lambda: versions())
    commit: str = field(default_factory=lambda: commit())
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat())

    @property
    def met(self) -> bool:
        """Whether the ratio is what was aimed at."""
        sign, bound = self.asked.split()
        return self.ratio <= float(bound) if sign == "<=" else self.ratio >= float(bound)

    @property
    def in_words(self) -> str:
        """The question as its file asks it: the first line of the docstring."""
        path = RESULTS.parent / f"test_{self.question}.py"
        if self.question.startswith("gpu_"):
            path = RESULTS.parent / "gpu" / f"{self.question.removeprefix('gpu_')}.py"
        words = ast.get_docstring(ast.parse(path.read_text())) if path.exists() else None
        return words.splitlines()[0] if words else self.question.replace("_", " ")

    @property
    def _place(self) -> tuple[str, str, str, str]:
        return (self.question, self.subject, self.against, json.dumps(self.machine, sort_keys=True))


def row_of(question: str, times: Times, *, against: str, asked: str, ceiling: str, nbytes: int, **where: Any) -> Row:
    """The row of what was timed in turn, the subject first; `where` are attributes of the row that are not this one's.

    `asked` says the direction: "<= 1.15" is the subject's time over the other's, ">= 20" how many times as fast it is.
    """
    subject = next(iter(times.seconds))
    return Row(
        question=question,
        subject=subject,
        against=against,
        asked=asked,
        ratio=times.speed(against) if asked.startswith(">=") else times.ratio(against),
        seconds={name: times.median(name) for name in times.seconds},
        ceiling=ceiling,
        bytes=nbytes,
        rounds=len(times.seconds[subject]),
        **where,
    )


def record(row: Row, folder: Path = RESULTS) -> None:
    """Puts a row into its question's file, in the place of the one that it measures again."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [old for old in recorded(folder) if old.question == row.question and old._place != row._place]
    text = json.dumps([asdict(each) for each in [*rows, row]], indent=1, ensure_ascii=False)
    (folder / f"{row.question}.json").write_text(text + "\n")


def recorded(folder: Path = RESULTS) -> Iterator[Row]:
    """All rows, question by question."""
    for path in sorted(folder.glob("*.json")):
        if path.name == ACCURACY.name:
            continue
        yield from (Row(**each) for each in json.loads(path.read_text()))


def machine() -> dict[str, Any]:
    """The processor, how many cores of it there are to use, the memory, the system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kernel = f"{platform.system()} {platform.release()}"
    return {"cpu": model, "cores": cores, "memory_gib": round(memory / 2**30), "kernel": kernel}


def versions() -> dict[str, str]:
    """Python's version and those of the packages that are measured or measured against."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that is checked out, with a `+` when the files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # The results themselves are being rewritten: they do not count.
        changed = git(
            "status", "--porcelain", "--", ":/", ":(exclude,top)benchmarks/results", ":(exclude,top)README.md"
        )
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
