"""Threads that come up or fail, also where the address space is limited (`ulimit -v`) and hardly any of it is left.

`threading.Thread.start` waits for the new thread to say that it runs. Where the stack of the thread takes the last of
the address space, the thread ends in MemoryError before it has said so, and `start` waits for ever
(https://github.com/python/cpython/issues/140746). So under a limit room for the stack, and for what a thread does
first, is shown to be there before it is started; and no thread of a pool works, and so allocates, while others are
started.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .room import is_limited, require_room

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["as_memory_error", "start", "thread_pool"]

_STACK_BYTES = 8 << 20  # where stacks have no limit; the C library then takes 2 to 8 MiB
_SPARE_BYTES = 4 << 20  # a thread comes up with 16 KiB of frames, and an arena of 1 MiB for its objects at most

_starting = threading.Lock()  # one thread at a time: the room that was shown is for one


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        MemoryError: there is no room for it, or the system lets this process have no more threads.
    """
    with _starting, as_memory_error():
        _require_room()
        thread.start()


def thread_pool(threads: int, name: str = "weighbridge") -> ThreadPoolExecutor:
    """A pool of threads; where the address space is limited, all of them stand before it is given work.

    Without a limit they start as work comes: 16 threads take 1 ms to start, in which the first of them work already.

    Args:
        threads: how many at most; so many under a limit.
        name: what their names begin with.
    Raises:
        MemoryError: the limit leaves no room for so many, or the system lets this process have no more. Those that
            stood are gone.
    """
    # Imported here, as it takes longer than everything else that the command line needs to start one thread.
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    if is_limited():
        try:
            with as_memory_error():
                _have_all_stand(pool, threads)
        except BaseException:
            pool.shutdown()
            raise
    return pool


def _have_all_stand(pool: ThreadPoolExecutor, threads: int) -> None:
    gate = threading.Lock()  # who waits for it allocates nothing
    with _starting, gate:
        standing = []
        for _ in range(threads):
            _require_room()
            standing.append(pool.submit(_pass, gate))  # starts a thread, for none is idle
    for each in standing:
        each.result()


def _pass(gate: threading.Lock) -> None:
    with gate:
        pass


@contextmanager
def as_memory_error() -> Iterator[None]:
    """Raise MemoryError where a thread cannot be started within."""
    try:
        yield
    except RuntimeError as error:  # Python has no class of its own for a thread that could not be started
        if "start new thread" not in str(error):
            raise
        raise MemoryError(str(error)) from error


def _require_room() -> None:
    """Raise MemoryError where there is no room for a thread's stack and what it needs to come up."""
    require_room(_stack_bytes() + _SPARE_BYTES, "another thread")


def _stack_bytes() -> int:
    if nbytes := threading.stack_size():
        return nbytes
    try:
        import resource
    except ImportError:  # Windows
        return _STACK_BYTES
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _STACK_BYTES if limit == resource.RLIM_INFINITY else limit
