"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from ..writers import partial_name

__all__ = ["check_writable", "write_whole"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Finds out before the work whether `write_whole` would fail for a reason that is already there.

    Raises:
        OutputError: the folder is missing or may not be written to, or the path is a folder.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file to write.")
    if _is_special(target):
        return
    folder = target.parent
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise OutputError(f"{path} cannot be written: the folder {folder} {what}; make it or choose another file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission to make files in {folder}; choose another folder.")


def write_whole(path: str | os.PathLike[str], text: str | bytes, token: object = None) -> None:
    """Writes the bytes, or the text as UTF-8, so that the file holds all of it or what it held before.

    A temporary file in the same folder is written, synced and renamed over the target; an existing file keeps its
    permissions, a symbolic link keeps pointing at what is written. Pipes and devices (`/dev/stdout`) are written to.

    Args:
        path: the file.
        text: what it is to hold.
        token: whose temporary file it is, see `writers`; by default this process's.
    Raises:
        OutputError: the file could not be written; nothing of it is left.
    """
    check_writable(path)
    target = Path(os.path.realpath(path))
    data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
    with _as_output_error(path):
        if _is_special(target):
            target.write_bytes(data)
            return
        temporary = target.with_name(partial_name(target.name[:100], token or os.getpid()))
        try:
            _write_synced(temporary, data, _mode(target))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)


def _write_synced(path: Path, data: bytes, mode: int | None) -> None:
    with open(path, "xb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # The rename itself is durable only once the folder is; some file systems cannot sync one, and the data is safe.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _mode(target: Path) -> int | None:
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return None


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file() and not target.is_dir()


@contextmanager
def _as_output_error(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"{path} could not be written: {error.strerror or error}; free space or choose another file with -o."
        ) from error
