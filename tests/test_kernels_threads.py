"""Threads where the address space is limited: they come up, all of a pool before any works, or there is an error."""

import resource
import subprocess
import sys
import threading
import time

import pytest

from weighbridge.kernels import threads

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is kept on Linux")


@pytest.fixture
def limited():
    """A limit that leaves room for anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 46, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def alive(name):
    return sorted(each.name for each in threading.enumerate() if each.name.startswith(name))


def test_all_stand_before_there_is_work(limited):
    with threads.thread_pool(5, "standing") as pool:
        assert alive("standing") == [f"standing_{number}" for number in range(5)]
        together = threading.Barrier(5, timeout=20)  # broken unless five work at a time
        assert sorted(each.result() for each in [pool.submit(together.wait) for _ in range(5)]) == [0, 1, 2, 3, 4]
        assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))
        assert len(alive("standing")) == 5
    assert not alive("standing")


def test_none_works_while_others_are_started(limited, monkeypatch):
    start, seen = threading.Thread.start, []

    def slowly(thread):
        start(thread)
        time.sleep(0.01)
        seen.append(len(alive("slowly")))

    monkeypatch.setattr(threading.Thread, "start", slowly)
    with threads.thread_pool(4, "slowly"):
        assert seen == [1, 2, 3, 4]


def test_without_a_limit_they_start_as_work_comes():
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip("there is a limit here")
    with threads.thread_pool(3, "lazy") as pool:
        assert not alive("lazy")
        together = threading.Barrier(3, timeout=20)
        assert sorted(each.result() for each in [pool.submit(together.wait) for _ in range(3)]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("can't start new thread"), MemoryError),
        (RuntimeError("something else"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=repr,
)
def test_one_that_does_not_start_leaves_none_of_the_others(limited, monkeypatch, error, raised):
    start, started = threading.Thread.start, []

    def failing(thread):
        if len(started) == 2:
            raise error
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)
    with pytest.raises(raised):
        threads.thread_pool(4, "failing")
    assert len(started) == 2 and not alive("failing")
    with pytest.raises(raised):
        threads.start(threading.Thread(target=print))


EXHAUSTED = """
import mmap, pathlib, resource, sys, threading
from concurrent.futures import ThreadPoolExecutor  # while there is room
from weighbridge.kernels import threads

PAGE, STACK = mmap.PAGESIZE, 1 << 20
threading.stack_size(STACK)

def limit(room):
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))

def begin():
    return threads.thread_pool(4) if sys.argv[1] == "pool" else threads.start(threading.Thread(target=int))

rooms = [*range(STACK - PAGE, STACK + 16 * PAGE, PAGE), 2 * STACK]
if sys.argv[1] == "pool":
    rooms.append(3 * STACK + threads._SPARE_BYTES)  # for two
for room in rooms:
    limit(room)
    try:
        begin()
    except MemoryError:
        assert threading.active_count() == 1
    else:
        sys.exit(f"a thread was started with room for {room:,} bytes")
limit(64 * STACK)
begin()
"""


@pytest.mark.parametrize("what", ["thread", "pool"])
def test_no_room_is_an_error_and_no_hang(what):
    """From less than a stack to a few pages more: Python's own start waits for ever there, so the timeout tells."""
    done = subprocess.run([sys.executable, "-c", EXHAUSTED, what], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
