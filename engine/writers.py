"""Who is writing into a folder, so that whoever comes later knows whose half-written files nobody will finish.

    DIR/.lock            held by who looks at the others, or joins them
    DIR/.writers/        a file for each writer, held as long as it writes

Both are locks that the system gives back when their holder dies. A temporary file has the token of its writer last in
its name: `.<name>.<token>.partial`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from .errors import OutputError

__all__ = ["PARTIAL", "Writers", "as_output_error", "mark_of", "partial_name"]

PARTIAL = ".partial"
_LOCK, _FOLDER = ".lock", ".writers"


def partial_name(name: str, token: object) -> str:
    """What a file is called until it is whole."""
    return f".{name}.{token}{PARTIAL}"


def mark_of(token: str) -> str:
    """The path within the folder of a file that is there, and locked, as long as a writer is."""
    return f"{_FOLDER}/{token}.lock"


class Writers:
    """Those that write into a folder.

    Args:
        folder: need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder, and what is needed in it."""
        (self._folder / _FOLDER).mkdir(parents=True, exist_ok=True)

    def alone(self) -> AbstractContextManager[object]:
        """Within, nobody else looks at the writers or becomes one; others wait."""
        from filelock import FileLock

        return FileLock(self._folder / _LOCK, poll_interval=0.002)

    @contextmanager
    def writing(self) -> Iterator[str]:
        """Be one of them; yields the token."""
        from filelock import FileLock

        token = uuid.uuid4().hex[:16]
        mark = self._folder / mark_of(token)
        lock = FileLock(mark)
        with self.alone():  # so that `sweep` never sees the file before its lock is held
            lock.acquire(timeout=0)
        try:
            yield token
        finally:
            mark.unlink(missing_ok=True)
            lock.release()

    def sweep(self, *patterns: str) -> None:
        """Take away the temporary files of writers that are dead.

        Args:
            patterns: globs within the folder, of temporary files.
        """
        from filelock import FileLock, Timeout

        with self.alone():
            alive = set()
            for path in (self._folder / _FOLDER).glob("*.lock"):
                lock = FileLock(path)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    alive.add(path.stem)
                    continue
                path.unlink(missing_ok=True)
                lock.release()
            for pattern in patterns:
                for path in self._folder.glob(pattern):
                    if path.name.split(".")[-2] not in alive:
                        path.unlink(missing_ok=True)


@contextmanager
def as_output_error(folder: Path) -> Iterator[None]:
    """What the system says when a folder cannot be written to, as an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{folder} could not be written to: {error.strerror or error}; what is finished is kept: free space or "
            "mend the folder, and run the same command again."
        ) from error
