"""Progress on stderr: bytes done, speed, time left; only on a terminal, and only for what takes over a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["DELAY_SECONDS", "Reporter", "reporting"]

# What is done within a second needs no bar, and importing rich (60 ms) would be a good part of it.
DELAY_SECONDS = 1.0


class Reporter:
    """Called with (bytes_done, bytes_total); shows a bar once DELAY_SECONDS have passed.

    Args:
        label: what is being read.
        clock: seconds, monotonic.
    """

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.label = label
        self.clock = clock
        self.started: float | None = clock()
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def __call__(self, bytes_done: int, bytes_total: int) -> None:
        if self.started is None:
            self.started = self.clock()
        if self.bar is None:
            if self.clock() - self.started < DELAY_SECONDS or bytes_done >= bytes_total:
                return
            self._open(bytes_done, bytes_total)
        assert self.bar is not None and self.task is not None
        self.bar.update(self.task, completed=bytes_done, total=bytes_total, refresh=True)

    def say(self, text: str) -> None:
        """Prints a sentence on what is done before the bytes begin; that time is not theirs."""
        print(text, file=sys.stderr, flush=True)
        self.started = None

    def close(self) -> None:
        """Takes the bar off the terminal."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _open(self, bytes_done: int, bytes_total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns: tuple[Any, ...] = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        # No thread of its own: it is refreshed when bytes are reported, and the cores belong to the kernels.
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
        self.bar.start()
        self.task = self.bar.add_task(self.label, total=bytes_total, completed=bytes_done)


@contextmanager
def reporting(label: str, wanted: bool = True) -> Iterator[Reporter | None]:
    """A reporter for the `progress` argument of the engine; None where it is not wanted or stderr is no terminal."""
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    reporter = Reporter(label)
    try:
        yield reporter
    finally:
        reporter.close()
