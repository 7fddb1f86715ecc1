"""Leaving within a second: Ctrl-C and SIGTERM, whatever the process is doing at that moment.

Both raise `Interrupted` in the main thread, and what was begun is tidied up on the way out. That alone is not enough.
Python runs its handlers between two of its own instructions, so a main thread that waits within the system for a file
server that no longer answers never comes to one, and one that waits for its worker threads waits for theirs. So a
thread watches: half a second after the signal was sent, if the process is still there, it says what is to be said and
ends it. Nothing is lost by that, for whatever is written is written under another name first.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..kernels.threads import start
from .errors import WeighbridgeError

__all__ = ["Interrupted", "farewell", "kept_words", "leaving", "matrix_words", "say_farewell", "sweep_words"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS, _GRACE_SECONDS = 0.1, 0.5


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    Attributes:
        status: what the process exits with, 128 + the number of the signal, as shells have it.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


_farewells: list[Callable[[], str]] = []
_said = threading.Lock()


@contextmanager
def farewell(words: Callable[[], str]) -> Iterator[None]:
    """While the block runs, `words()` is what is said on leaving early: what is saved, and how to go on."""
    _farewells.append(words)
    try:
        yield
    except KeyboardInterrupt:
        raise  # the words are still to be said
    except BaseException:
        _farewells.pop()
        raise
    else:
        _farewells.pop()


def say_farewell(say: Callable[[str], object]) -> None:
    """Say, once, what is to be said on leaving early."""
    if _said.acquire(blocking=False):
        say(f"weighbridge: interrupted; {_farewells[-1]()}" if _farewells else "weighbridge: interrupted.")


def kept_words(folder: str | os.PathLike[str]) -> str:
    """What a sweep that was left early has done."""
    from .store import Store

    try:
        others = Store(folder).others
    except WeighbridgeError:
        return "nothing is done yet"
    done = sum(entry["status"] == "done" for entry in others)
    return f"{done} of {len(others)} others are done and kept in {folder}"


def sweep_words(folder: str | os.PathLike[str]) -> str:
    """What an interrupted sweep leaves behind, and how to go on."""
    return f"{kept_words(folder)}; run the same command again for the rest."


def matrix_words(folder: str | os.PathLike[str] | None) -> str:
    """What an interrupted matrix leaves behind."""
    if folder is None:
        return "nothing is kept; with --out DIR the next run would go on where this one was."
    return f"what is done is kept in {folder}; run the same command again for the rest."


@contextmanager
def leaving(say: Callable[[str], object]) -> Iterator[None]:
    """While the block runs, SIGINT and SIGTERM raise `Interrupted`, and end the process if it does not end by itself.

    To be used in the main thread. A signal that is ignored stays so, as in a job that a shell has put in the
    background; the second one ends the process at once.

    Args:
        say: told the farewell where the process is ended from outside; else that is for who catches `Interrupted`.
    Raises:
        MemoryError: there is no room for the thread that watches; nothing is changed then.
    """
    _farewells.clear()
    if _said.locked():
        _said.release()
    watched = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(reader, frozenset(watched), stop, say), daemon=True)
    try:
        start(watcher)
    except BaseException:
        _close(reader, writer)
        raise
    previous = {each: signal.signal(each, _raise) for each in watched}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    except Interrupted:
        raise  # the watcher stays: on its way out the process waits for its threads
    except BaseException:
        _stop(stop, watcher, previous, wakeup, (reader, writer))
        raise
    else:
        _stop(stop, watcher, previous, wakeup, (reader, writer))


def _stop(
    stop: threading.Event,
    watcher: threading.Thread,
    previous: Mapping[signal.Signals, Any],
    wakeup: int,
    pipe: tuple[int, int],
) -> None:
    stop.set()
    signal.set_wakeup_fd(wakeup)
    os.write(pipe[1], b"\0")
    watcher.join()
    for number, handler in previous.items():
        signal.signal(number, handler)
    _close(*pipe)


def _close(*ends: int) -> None:
    for end in ends:
        os.close(end)


def _raise(number: int, _frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise Interrupted(number)


def _watch(reader: int, watched: frozenset[int], stop: threading.Event, say: Callable[[str], object]) -> None:
    """Wait for a signal: told by the handler that Python has in C, or still pending for a main thread that is stuck."""
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    number = 0
    while number not in watched and not stop.is_set():
        if select.select([reader], [], [], _POLL_SECONDS)[0]:
            number = os.read(reader, 1)[0]
        else:
            number = next(iter(signal.sigpending() & watched), 0)
    if stop.wait(_GRACE_SECONDS):
        return
    say_farewell(say)
    import multiprocessing

    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)
