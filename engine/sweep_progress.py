"""Progress of a sweep on stderr: a bar on a terminal, else a line per other."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sweep import Outcome

__all__ = ["SweepProgress"]


class SweepProgress:
    """Told what a sweep does: bytes and others done, failed, left, speed and time left.

    Args:
        wanted: False for silence.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted and sys.stderr is not None
        self.terminal = self.wanted and sys.stderr.isatty()
        self.done = self.failed = self.others = 0
        self.bytes_done = self.bytes_total = 0
        self.started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._shown = 0.0

    def start(self, others: int, nbytes: int) -> None:
        """How much there is to do."""
        self.others, self.bytes_total = others, nbytes
        self.started = time.monotonic()
        if self.terminal and others:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns: tuple[Any, ...] = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TextColumn("{task.fields[speed]}", markup=False),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
            self._bar.start()
            self._task = self._bar.add_task(self._words(), total=nbytes, speed="")

    def reading(self, nbytes: int) -> None:
        """So many bytes of the task that is being computed are done."""
        now = time.monotonic()
        if self._bar is not None and now - self._shown > 0.1:
            self._shown = now
            self._show(min(self.bytes_done + nbytes, self.bytes_total))

    def finished(self, nbytes: int, outcomes: list[Outcome]) -> None:
        """A task is done.

        Args:
            nbytes: the bytes that it was planned with.
            outcomes: what became of its others.
        """
        self.bytes_done += nbytes
        for outcome in outcomes:
            self.failed += outcome.status == "failed"
            self.done += outcome.status == "done"
            if self.wanted and not self.terminal:
                self._line(outcome)
        if self._bar is not None:
            self._show(self.bytes_done)

    def say(self, text: str) -> None:
        """A sentence on stderr, if anything is wanted there."""
        if self.wanted:
            (self._bar.console.print if self._bar is not None else _print)(text)

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _words(self) -> str:
        left = self.others - self.done - self.failed
        return f"{self.done} done, {self.failed} failed, {left} left"

    def _show(self, nbytes: int) -> None:
        seconds = max(time.monotonic() - self.started, 1e-9)
        self._bar.update(
            self._task,
            completed=nbytes,
            description=self._words(),
            speed=f"{nbytes / seconds / 1e9:.2f} GB/s",
            refresh=True,
        )

    def _line(self, outcome: Outcome) -> None:
        from .report.text import plain

        number = f"[{self.done + self.failed}/{self.others}]"
        if outcome.status == "failed":
            text = f"{number} {outcome.other.label}: failed: {outcome.reason}"
        else:
            text = f"{number} {outcome.other.label}: {outcome.bytes_read / 1e6:,.1f} MB read, {outcome.seconds:.2f} s"
        _print(plain(text))


def _print(text: str) -> None:
    encoding = sys.stderr.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)
