"""A checkpoint: names -> `TensorRef`, never the bytes themselves.

Opening one reads headers only. The bytes are reached later, by `engine.execute`, through `TensorRef.file` and
`TensorRef.offset`, or through `TensorRef.memory` for the few tensors that do not lie in a file as one run of elements.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Stamp(NamedTuple):
    """What a file looked like when its header was read; if a later look differs, the header may be another's.

    Attributes:
        device, inode: which file it was, whatever its name.
        size: in bytes.
        mtime_ns: when it was last written to.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp in what `os.stat` and `os.fstat` return."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where one tensor of a checkpoint lies, and how to read it.

    Attributes:
        name: the tensor's name as it stands in the file.
        dtype: the safetensors name of its dtype (`F32`, `BF16`, `I64` ...), whatever the format.
        shape: its dimensions; `()` is a scalar.
        nbytes: its size in bytes.
        file: the path of the file that holds it.
        offset: the first byte within `file`, or None when it is only to be had through `memory`.
        memory: None, or an object with `data_ptr()` (a contiguous torch tensor) that keeps the bytes alive.
        stamp: what `file` looked like when its header was read, or None where nobody looked.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    offset: int | None
    memory: Any = field(default=None, compare=False, repr=False)
    stamp: Stamp | None = field(default=None, compare=False, repr=False)

    @property
    def elements(self) -> int:
        """The number of elements (1 for a scalar, 0 when a dimension is 0)."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: what tensors there are and where, without their bytes.

    Attributes:
        label: how the user called it (a path or a hub id); used in tables and errors.
        path: the file or folder that it was resolved to.
        format: "safetensors" or "pytorch".
        tensors: name -> TensorRef in file order (shards in the order of their names, file order within each).
        config: the model's `config.json`, or {} where there is none.
        files: the files that hold the tensors, in the order in which `tensors` meets them.
        identity: a digest that changes when the checkpoint does (hub blob hash, else path, size, mtime, header).
        metadata: the file's own free-form metadata (safetensors `__metadata__`), merged over shards.
        tied: groups of names that are one and the same run of bytes, where the format says so.
    """

    label: str
    path: str
    format: str
    tensors: Mapping[str, TensorRef]
    config: Mapping[str, Any]
    files: tuple[str, ...]
    identity: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()

    @property
    def names(self) -> list[str]:
        """The tensors' names, in file order."""
        return list(self.tensors)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors together."""
        return sum(ref.nbytes for ref in self.tensors.values())

    @property
    def parameters(self) -> int:
        """The elements of all tensors together."""
        return sum(ref.elements for ref in self.tensors.values())

    def __repr__(self) -> str:
        return (
            f"Checkpoint({self.label!r}, {self.format}, {len(self.tensors)} tensors, "
            f"{self.parameters:,} parameters, {self.nbytes:,} bytes)"
        )
