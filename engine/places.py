"""Where tensors lie, links resolved: which of them are the very same bytes, without reading any."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from .checkpoint import Checkpoint, TensorRef

__all__ = ["Places", "files_id"]


class Places:
    """The places of the tensors of some checkpoints.

    Hard links, the links of hub snapshots to one blob, and one path under two names lead to one place.

    Args:
        checkpoints: whose files are looked up at once, each once.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        paths = dict.fromkeys(path for checkpoint in checkpoints for path in checkpoint.files)
        self._files = {path: _file_id(path) for path in paths}

    def of(self, ref: TensorRef) -> tuple[Any, ...]:
        """Equal for two tensors of one dtype that begin at the same byte of the same file."""
        if ref.offset is None:  # in memory only: its own place
            return ("memory", id(ref.memory), ref.name, ref.dtype)
        return (*(self._files.get(ref.file) or _file_id(ref.file)), ref.offset, ref.dtype)


def files_id(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Equal for two checkpoints that are the same files, whatever they are called."""
    return tuple(_file_id(path) for path in checkpoint.files)


def _file_id(path: str) -> tuple[Any, ...]:
    try:
        status = os.stat(path)
    except OSError:  # whoever reads it says what is wrong with it
        return ("path", path)
    return (status.st_dev, status.st_ino)
