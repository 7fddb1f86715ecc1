"""Where the tasks of a sweep are computed: in this process, or in several on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TYPE_CHECKING

from .sweep import Outcome, Settings, Task, run_task

if TYPE_CHECKING:
    from .execute import Progress

__all__ = ["run_processes", "run_serial"]

Done = tuple[Task, list[Outcome]]

_ATTEMPTS = 2


def run_serial(
    tasks: Sequence[Task],
    settings: Settings,
    *,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> Iterator[Done]:
    """The tasks one after the other, in this process."""
    for task in tasks:
        yield task, run_task(task, settings, progress=progress, say=say)


def run_processes(tasks: Sequence[Task], settings: Settings, workers: int) -> Iterator[Done]:
    """The tasks on so many processes, as they finish; the processors are shared out among them.

    A process that dies takes nothing with it: what it had not finished is computed again, each task alone, and a task
    that kills its process a second time fails with that reason.
    """
    from ..kernels.cpu import available_threads

    threads = settings.threads or max(1, available_threads() // workers)
    shared = replace(settings, threads=threads)
    left, attempt = list(tasks), 0
    while left:
        attempt += 1
        unfinished = []
        # After a death it is not known who caused it, so suspects run one at a time.
        for group in [left] if attempt == 1 else [[task] for task in left]:
            finished = set()
            for task, outcomes in _pool(group, shared, min(workers, len(group))):
                finished.add(task.number)
                yield task, outcomes
            unfinished += [task for task in group if task.number not in finished]
        left = unfinished
        if attempt == _ATTEMPTS:
            for task in left:
                reason = "its process was killed twice (out of memory?); use fewer --workers or a smaller batch."
                yield task, [Outcome(other, "failed", reason) for other in task.others]
            return


def _pool(tasks: Sequence[Task], settings: Settings, workers: int) -> Iterator[Done]:
    """What a pool finishes; it stops early where one of its processes dies."""
    # Not forked: threads and open files of this process are no business of the others.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: dict[Future[list[Outcome]], Task] = {}
        try:
            for task in tasks:
                running[pool.submit(run_task, task, settings)] = task
            waiting = set(running)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running[future], future.result()
        except BrokenProcessPool:
            # Of those that finished together with the death, none is lost: they are simply computed again.
            return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
