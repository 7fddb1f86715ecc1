"""The tasks of a sweep in this process, or in several on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

from .errors import ReadError
from .sweep_record import keep
from .sweep_task import Outcome, Settings, Task, failure, run_task

__all__ = ["Done", "given_up", "run_processes", "run_serial", "singly"]

Done = tuple[Task, list[Outcome]]
Reading = Callable[[int], object]
"""Told how many bytes of the tasks that are running have been read."""

_LOOK_SECONDS = 0.2  # how often the bytes read so far are looked at


def run_serial(
    tasks: Sequence[Task], settings: Settings, reading: Reading | None, say: Callable[[str], object] | None
) -> Iterator[Done]:
    """The tasks one after the other, in this process."""
    progress = None if reading is None else lambda done, _: reading(done)
    for task in tasks:
        yield task, run_task(task, settings, progress=progress, say=say)


def run_processes(
    tasks: Sequence[Task], settings: Settings, workers: int, reading: Reading | None = None
) -> Iterator[Done]:
    """The tasks on so many processes, as they finish; the processors are shared out among them.

    A process that dies takes nothing finished with it. The tasks that were running then are suspects and are computed
    again one at a time; one that dies again is cut into its others, and an other that dies alone has failed.
    """
    from ..kernels.cpu import available_threads

    threads = settings.threads or max(1, available_threads() // workers)
    settings = replace(settings, threads=threads)
    left = deque(tasks)
    while left:
        suspects = yield from _pool(left, settings, min(workers, len(left)), reading)
        while suspects:
            first = deque([suspects.pop(0)])
            for task in (yield from _pool(first, settings, 1, reading)):
                if len(task.others) == 1:
                    yield task, given_up(task, settings, "its process was killed twice while reading it")
                else:
                    suspects = [*singly(task), *suspects]


def singly(task: Task) -> list[Task]:
    """A task for each other of a task."""
    return [Task(task.number, (other,), task.nbytes // len(task.others)) for other in task.others]


def given_up(task: Task, settings: Settings, what: str) -> list[Outcome]:
    """The outcomes of a task that nothing can compute, kept."""
    error = ReadError(f"{what} (out of memory, or a file that shrinks or a disk that fails under a memory map).")
    return keep([failure(other, error, settings) for other in task.others], settings)


def _pool(
    left: deque[Task], settings: Settings, workers: int, reading: Reading | None
) -> Generator[Done, None, list[Task]]:
    """Takes tasks off `left` and yields what is done; returns early with the tasks that ran when a process died."""
    # Not forked: threads and open files of this process are no business of the others.
    context = multiprocessing.get_context("spawn")
    in_flight = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(in_flight,))
    running: dict[Future[list[Outcome]], Task] = {}
    try:
        while left or running:
            while left and len(running) < workers:  # no more than that, so that who was running is known
                running[pool.submit(_counted, left[0], settings)] = left[0]
                left.popleft()
            done, _ = wait(running, _LOOK_SECONDS, FIRST_COMPLETED)
            for future in done:
                outcomes = future.result()
                yield running.pop(future), outcomes
            if reading is not None:
                reading(in_flight.value)
    except BrokenProcessPool:
        # Those that finished together with the death are simply computed again.
        return sorted(running.values(), key=lambda task: task.number)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return []


_in_flight: Any = None


def _begin(in_flight: Any) -> None:
    """What a worker process does first."""
    global _in_flight
    _in_flight = in_flight
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole group: end at once and without a word
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:  # a parent that was killed leaves no orphans behind
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _counted(task: Task, settings: Settings) -> list[Outcome]:
    """`run_task`, its bytes counted among those in flight until it is done."""
    counted = 0

    def count(done: int, _: int) -> None:
        nonlocal counted
        with _in_flight.get_lock():
            _in_flight.value += done - counted
        counted = done

    try:
        return run_task(task, settings, progress=count)
    finally:
        count(0, 0)
