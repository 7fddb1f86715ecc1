"""Timing several things in turn, so that whatever slows the machine down slows all of them."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


class Seconds(float):
    """What a run returns that has timed a part of itself. A type of its own: a plain float may be the answer."""


@dataclass(frozen=True)
class Times:
    """Seconds of every round, by what was timed; the subject is the first."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        return median(self.seconds[name])

    def ratio(self, name: str) -> float:
        """The subject's median over that of `name`: below 1, the subject is faster."""
        return self.median(next(iter(self.seconds))) / self.median(name)

    def speed(self, name: str) -> float:
        """How many times as fast as `name` the subject is: above 1, the subject is faster."""
        return 1 / self.ratio(name)


def in_turn(
    benchmark: Any,
    runs: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    before: Callable[[], object] | None = None,
    untimed: bool = True,
) -> Times:
    """Runs everything once untimed, then `rounds` times in turn; pytest-benchmark itself times the first, the subject.

    `untimed=False` leaves the first out, for where the check of the answers has just run all of them.

    A run that returns `Seconds` has timed a part of itself: that is taken in place of its wall time (not so for the
    subject). `before` is called, untimed, before every single run: to drop files from the page cache, for one.
    """
    (subject, subject_run), *others = runs.items()
    before = before or _nothing
    for run in runs.values() if untimed else ():
        before()
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}

    def time_others() -> None:
        for name, run in others:
            before()
            started = time.perf_counter()
            answer = run()
            wall = time.perf_counter() - started
            seconds[name].append(answer if isinstance(answer, Seconds) else wall)
        before()

    benchmark.pedantic(subject_run, setup=time_others, rounds=rounds, iterations=1)
    seconds[subject] = list(benchmark.stats.stats.data)
    return Times(seconds)


def command(*arguments: object, **environment: str) -> Callable[[], None]:
    """A whole process as something to time; its output is thrown away, and a failure is an error."""
    line = [str(argument) for argument in arguments]

    def run() -> None:
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})

    return run


def _nothing() -> None:
    pass
