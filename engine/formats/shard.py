"""What every format hands back for one file: its tensors, its own metadata and a digest of its header.

Also the checks that come before any format: is the file there, is it a file, can it be read, how does it begin.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..checkpoint import TensorRef
from ..errors import CheckpointNotFoundError, FormatError, ReadError, WeighbridgeError

__all__ = ["HEAD_BYTES", "Shard", "digest", "read_error", "read_head"]

# Enough to tell every format apart, and less than one page.
HEAD_BYTES = 512


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint.

    Attributes:
        path: the file.
        format: "safetensors" or "pytorch".
        tensors: its tensors, in file order, names unique.
        header_digest: a digest of what describes the tensors (never of their bytes).
        metadata: the file's own free-form metadata.
        tied: groups of names that are one and the same run of bytes.
    """

    path: str
    format: str
    tensors: tuple[TensorRef, ...]
    header_digest: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()


def digest(*parts: bytes | str) -> str:
    """A 128-bit hexadecimal digest of the parts, each with its length, so that no two lists of parts run together."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def read_error(path: str, error: OSError) -> WeighbridgeError:
    """The exception that stands for an `OSError` met while a checkpoint's file was opened or read."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return CheckpointNotFoundError(f'"{path}" does not exist; check the path.')
    if error.errno in (errno.EACCES, errno.EPERM):
        return ReadError(f'"{path}" cannot be read: permission denied; change its permissions or copy it.')
    return ReadError(f'"{path}" cannot be read: {error.strerror or error}; check the disk and the path.')


def read_head(path: str) -> tuple[bytes, int]:
    """The first bytes of a regular file that is not empty, and its size in bytes.

    Raises:
        CheckpointNotFoundError: there is no such file.
        FormatError: it is no regular file (a pipe would block, a device never ends), or it is empty.
        ReadError: it cannot be opened or read.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f'"{path}" is not a regular file; give a checkpoint file, a folder or a hub id.')
        if status.st_size == 0:
            raise FormatError(f'"{path}" is empty (0 bytes); download or save it again.')
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES), status.st_size
    except OSError as error:
        raise read_error(path, error) from error
