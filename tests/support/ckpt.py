"""Bytes of opened tensors, and safetensors files that no library would write."""

import ctypes
import json
import struct
from pathlib import Path

from weighbridge.engine.checkpoint import TensorRef


def tensor_bytes(ref: TensorRef) -> bytes:
    """The bytes of one tensor, read as `engine.execute` would: from the file, else from memory."""
    if ref.offset is None:
        return ctypes.string_at(ref.memory.data_ptr(), ref.nbytes)
    with open(ref.file, "rb") as file:
        file.seek(ref.offset)
        return file.read(ref.nbytes)


def raw_safetensors(path: Path, header: dict | bytes, body_bytes: int = 0, announced: int | None = None) -> Path:
    """A file with the header and so many zero bytes after it, and any header length announced."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if announced is None else announced
    path.write_bytes(struct.pack("<Q", length) + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + body_bytes)  # a hole in the file where the file system has them
    return path


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict:
    """One tensor of a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
