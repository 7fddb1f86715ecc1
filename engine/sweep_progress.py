"""Progress of a sweep on stderr: a bar on a terminal, else a line per other; and at the end a line of totals."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sweep_plan import Plan
    from .sweep_task import Outcome

__all__ = ["SweepProgress"]

_SHOW_SECONDS = 0.1  # between two pictures of the bar


class SweepProgress:
    """Told what a sweep does: bytes and others done, failed, left, speed and time left.

    Args:
        wanted: False for silence.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted and sys.stderr is not None
        self.terminal = self.wanted and sys.stderr.isatty()
        self._others = self._planned = self._finished = 0  # the others to be computed, their bytes, and those done
        self._counts: Counter[str] = Counter()
        self._read = self._same = 0
        self._started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._shown = 0.0

    def start(self, plan: Plan) -> None:
        """How much there is to do."""
        self._others = sum(len(task.others) for task in plan.tasks)
        self._others += sum(outcome.status != "reused" for outcome in plan.known)
        self._planned = plan.nbytes
        self._started = time.monotonic()
        if self.terminal and plan.tasks:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns: tuple[Any, ...] = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TextColumn("{task.fields[speed]}", markup=False),
                TimeRemainingColumn(),
            )
            # No thread of its own: it is drawn when there is news, and the cores belong to the kernels.
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
            self._bar.start()
            self._task = self._bar.add_task(self._words(), total=self._planned, speed="")
        self._count(plan.known)

    def reading(self, in_flight: int) -> None:
        """So many bytes of the tasks that are being computed are done."""
        now = time.monotonic()
        if self._bar is not None and now - self._shown > _SHOW_SECONDS:
            self._shown = now
            self._draw(min(self._finished + in_flight, self._planned))

    def finished(self, nbytes: int, outcomes: Iterable[Outcome]) -> None:
        """A task is done.

        Args:
            nbytes: the bytes that it was planned with.
            outcomes: what became of its others.
        """
        self._finished += nbytes
        self._count(outcomes)
        if self._bar is not None:
            self._draw(self._finished)

    def say(self, text: str) -> None:
        """A sentence on stderr, if anything is wanted there."""
        if self.wanted and self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self.wanted:
            _print(text)

    def close(self) -> None:
        """Takes the bar off the terminal and leaves a line of totals."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self.say(self._totals())

    def _count(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._counts[outcome.status] += 1
            self._read += outcome.bytes_read
            self._same += outcome.same_bytes
            if self.wanted and not self.terminal and outcome.status != "reused":
                self._line(outcome)

    @property
    def _over(self) -> int:
        return sum(self._counts[status] for status in ("done", "failed", "kept"))

    def _words(self) -> str:
        return f"{self._counts['done']} done, {self._counts['failed']} failed, {self._others - self._over} left"

    def _totals(self) -> str:
        from .report.text import size

        seconds = max(time.monotonic() - self._started, 1e-9)
        words = ", ".join(f"{self._counts[s]:,} {s}" for s in ("done", "failed", "reused", "kept") if self._counts[s])
        if left := self._others - self._over:
            words += f"{', ' * bool(words)}{left:,} left"
        read = f"read {size(self._read)} in {seconds:,.1f} s, {self._read / seconds / 1e9:.2f} GB/s"
        same = f"; {size(self._same)} were bytes already read" if self._same else ""
        return f"{words}; {read}{same}"

    def _draw(self, nbytes: int) -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        self._bar.update(
            self._task,
            completed=nbytes,
            description=self._words(),
            speed=f"{nbytes / seconds / 1e9:.2f} GB/s",
            refresh=True,
        )

    def _line(self, outcome: Outcome) -> None:
        from .report.text import plain, size

        if outcome.status == "done":
            told = f"read {size(outcome.bytes_read)} in {outcome.seconds:.2f} s"
            if outcome.same_bytes:
                told += f", {size(outcome.same_bytes)} were bytes already read"
        else:
            told = f"{outcome.status}: {outcome.reason}"
        _print(plain(f"[{self._over}/{self._others}] {outcome.other.label}: {told}"))


def _print(text: str) -> None:
    encoding = sys.stderr.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)
