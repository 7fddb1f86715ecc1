"""Tensors that do not lie in a file or in memory as one run of elements: laid out as one when first asked for."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ..checkpoint import Stamp
from ..errors import ReadError
from .shard import read_error

if TYPE_CHECKING:
    import torch

__all__ = ["LazyContiguous", "LazyStrided"]


class LazyContiguous:
    """A tensor in memory that is not one run; copied into one on the first `data_ptr()`, then kept."""

    __slots__ = ("_copy", "_lock", "_path", "_view")

    def __init__(self, view: torch.Tensor, path: str) -> None:
        self._view = view.detach()
        self._path = path
        self._copy: torch.Tensor | None = None
        self._lock = threading.Lock()

    def data_ptr(self) -> int:
        """The address of the first element of the contiguous copy.

        Raises:
            ReadError: memory does not suffice for it.
        """
        with self._lock:
            if self._copy is None:
                self._copy = _one_run(self._view, self._path)
            return int(self._copy.data_ptr())


class LazyStrided:
    """A tensor of a file that does not lie in it as one run; its span is read on the first `data_ptr()`.

    It is read and not mapped: of what a file that is cut short leaves of a map, nobody but the owner of the map would
    know, and torch's maps are not ours.

    Args:
        view: the tensor; its shape, strides and dtype are kept, not its bytes.
        path: its file.
        offset: where in the file its first element lies.
        stamp: what the file looked like when its header was read.
    """

    __slots__ = ("_copy", "_dtype", "_lock", "_negative", "_offset", "_path", "_shape", "_stamp", "_strides")

    def __init__(self, view: torch.Tensor, path: str, offset: int, stamp: Stamp) -> None:
        self._shape, self._strides, self._dtype, self._negative = view.shape, view.stride(), view.dtype, view.is_neg()
        self._path, self._offset, self._stamp = path, offset, stamp
        self._copy: torch.Tensor | None = None
        self._lock = threading.Lock()

    def data_ptr(self) -> int:
        """The address of the first element of a contiguous copy.

        Raises:
            ReadError: the file cannot be read, is no longer what its header was read from, or memory does not suffice.
        """
        with self._lock:
            if self._copy is None:
                self._copy = self._read()
            return int(self._copy.data_ptr())

    def _read(self) -> torch.Tensor:
        import torch

        span = 1 + sum((size - 1) * stride for size, stride in zip(self._shape, self._strides, strict=True))
        try:
            buffer = bytearray(span * self._dtype.itemsize)
            with open(self._path, "rb", buffering=0) as file:
                file.seek(self._offset)
                done = 0
                while done < len(buffer) and (got := file.readinto(memoryview(buffer)[done:])):
                    done += got
                unchanged = done == len(buffer) and Stamp.of(os.fstat(file.fileno())) == self._stamp
        except OSError as error:
            raise read_error(self._path, error) from error
        except MemoryError as error:
            raise _too_large(self._path, span * self._dtype.itemsize) from error
        if not unchanged:
            raise ReadError(f'"{self._path}" changed since it was opened; compare it again when nothing writes to it.')
        view = torch.frombuffer(buffer, dtype=self._dtype).as_strided(self._shape, self._strides)
        return _one_run(torch.neg(view) if self._negative else view, self._path)


def _one_run(view: torch.Tensor, path: str) -> torch.Tensor:
    nbytes = view.numel() * view.element_size()
    try:
        return view.resolve_neg().contiguous()
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError where it cannot allocate
        raise _too_large(path, nbytes) from error


def _too_large(path: str, nbytes: int) -> ReadError:
    return ReadError(
        f'"{path}" has a tensor of {nbytes:,} bytes that must be laid out anew, for which memory does not suffice.'
    )
