"""The tasks of a sweep in this process, or in several on this machine.

The processes are not those of `concurrent.futures`: its pool is lost as a whole when one of its processes dies, does
not tell which task that one had, and can hang when it dies while another starts. Here each has a pipe of its own and
nothing is shared, so a death is the end of one pipe.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from ..kernels.threads import start
from .errors import OptionError, ReadError, WeighbridgeError
from .sweep_record import keep
from .sweep_task import Outcome, Settings, Task, failure, run_task

__all__ = ["Done", "given_up", "run_processes", "run_serial", "singly"]

Done = tuple[Task, list[Outcome]]
Reading = Callable[[int], object]
"""Told how many bytes of the tasks that are running have been read."""

_ATTEMPTS = 2  # at a task whose process dies, and at starting a process


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

    A task whose process dies is computed again. When it dies again the task is cut into its others, and an other that
    dies twice alone has failed.

    Raises:
        OptionError: the processes do not start.
        WeighbridgeError: as for `sweep_task.run_task`.
    """
    from ..kernels.cpu import available_threads

    threads = settings.threads or max(1, available_threads() // workers)
    settings = replace(settings, threads=threads)
    left = deque(tasks)
    deaths: Counter[tuple[int, str, int]] = Counter()
    crew = [_Worker() for _ in range(min(workers, len(left)))]
    try:
        while left or any(worker.task for worker in crew):
            for worker in crew:
                if worker.task is None and left:
                    worker.give(left.popleft(), settings)
            for pipe in wait([worker.pipe for worker in crew if worker.task]):
                worker = next(each for each in crew if each.pipe is pipe)
                task = worker.task
                assert task is not None
                try:
                    news = worker.pipe.recv()
                except (EOFError, OSError):
                    crew[crew.index(worker)] = _Worker(0 if worker.ready else worker.start + 1)
                    key = (task.number, task.others[0].label, len(task.others))
                    deaths[key] += worker.ready
                    if deaths[key] < _ATTEMPTS:
                        left.appendleft(task)
                    elif len(task.others) > 1:
                        left.extendleft(singly(task))
                    else:
                        yield task, given_up(task, settings, f"its process ended twice {worker.end()}")
                    continue
                if isinstance(news, WeighbridgeError):
                    raise news
                if isinstance(news, list):
                    worker.task, worker.read = None, 0
                    yield task, news
                elif news is None:
                    worker.ready = True
                else:
                    worker.read = news
                if reading is not None:
                    reading(sum(each.read for each in crew))
    finally:
        for worker in crew:
            worker.close()


def singly(task: Task) -> list[Task]:
    """A task for each other of a task."""
    return [Task(task.number, (other,), task.nbytes // len(task.others)) for other in task.others]


def given_up(task: Task, settings: Settings, what: str) -> list[Outcome]:
    """The outcomes of a task that nothing can compute, kept."""
    error = ReadError(f"{what} (out of memory, or a file that shrinks or a disk that fails under a memory map).")
    return keep([failure(other, error, settings) for other in task.others], settings)


class _Worker:
    """A process that computes one task at a time.

    Args:
        start: how often in a row a process in its place has not come up.

    Attributes:
        task: what it computes, or None.
        read: how many bytes of that it has read.
        ready: whether it has come up.
    """

    def __init__(self, start: int = 0) -> None:
        if start > _ATTEMPTS:
            raise OptionError(
                "worker processes do not start; leave --workers out (in a script, call sweep() under "
                'if __name__ == "__main__").'
            )
        # Not forked: threads and open files of this process are no business of the others.
        context = multiprocessing.get_context("spawn")
        self.start = start
        self.task: Task | None = None
        self.read = 0
        self.ready = False
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with suppress(BrokenPipeError):  # killed before it had read what it is to do: the end of the pipe tells
            self.process.start()
        theirs.close()

    def give(self, task: Task, settings: Settings) -> None:
        """Have it compute a task; a process that is dead is found out when news of it is awaited."""
        self.task = task
        with suppress(OSError):
            self.pipe.send((task, settings))

    def end(self) -> str:
        """How it ended: "by SIGBUS", "with status 1"."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"

    def close(self) -> None:
        """Let it end; at once where it still computes."""
        self.pipe.close()
        with suppress(AttributeError, AssertionError):  # it never started
            if self.task is not None:
                self.process.kill()
            self.process.join()


def _serve(pipe: Connection[Any, Any]) -> None:
    """What a worker process does: first it says None, then of each task how many bytes are read, and its outcomes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole group: end at once and without a word
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:  # a parent that was killed leaves no orphans behind
        parent.join()
        os._exit(1)

    try:
        start(threading.Thread(target=follow, daemon=True))
    except MemoryError:
        return  # which the parent takes for a process that does not come up
    logging.getLogger("weighbridge").setLevel(logging.ERROR)  # the parent has warned already
    pipe.send(None)
    while True:
        try:
            task, settings = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(run_task(task, settings, progress=lambda done, _: pipe.send(done)))
        except WeighbridgeError as error:
            pipe.send(error)
