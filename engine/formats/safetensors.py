"""safetensors: validated by the safetensors library, whose word is final.

The library checks the header (JSON, sizes, offsets, no overlap, no hole); what it has accepted is then read off. As
there are no holes, a tensor begins where the sizes before it end: offset = 8 + header length + sum of the sizes before,
and the last ends where the file does. Only the header is ever read.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoint import Stamp, TensorRef
from ..errors import FormatError, ReadError
from .shard import HEAD_BYTES, Shard, digest, read_error, read_head
from .sniff import describe_head

__all__ = ["BITS", "MAX_HEADER_BYTES", "looks_like_safetensors", "read_safetensors"]

# The library's own limit; repeated here only to name it in a message.
MAX_HEADER_BYTES = 100_000_000

# Bits of one element of every dtype that the library knows, whether or not a kernel can decode it.
BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
}

# What the library takes at most for a byte of a header, in growing a list of numbers of one digit: 33, measured.
_MEMORY_FACTOR = 35
_LARGE_HEADER_BYTES = 8 << 20

# How the library says that the offsets do not end where the file does.
_NOT_COVERED = "not fully covered"

# How to say what the library found, without its Rust vocabulary. Matched against its message, first hit wins.
_FAULTS = (
    ("invalid offset", "offsets in the header overlap or leave a hole ({detail})"),
    ("invalid shape, data type, or offset", "the shape and dtype of a tensor in the header disagree with its offsets"),
    ("overflow", "a tensor in the header has a shape too large for any file"),
    ("byte boundary", "a tensor of a sub-byte dtype in the header does not end on a whole byte"),
    ("invalid JSON", "the header is not valid ({detail})"),
    ("invalid UTF-8", "the header is not valid UTF-8"),
)


def looks_like_safetensors(head: bytes) -> bool:
    """Whether the first bytes can be those of a safetensors file: a sane length, then an opening brace."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def read_safetensors(path: str) -> Shard:
    """The tensors of a safetensors file, from its header alone.

    Raises:
        FormatError: the library refuses the file; says what is wrong with it and gives the two sizes that disagree.
        ReadError: it cannot be read, or its header does not fit into memory.
    """
    read_head(path)  # a pipe, a folder and an empty file have their own sentences
    try:
        with open(path, "rb") as file:
            stamp = Stamp.of(os.fstat(file.fileno()))
            head = file.read(HEAD_BYTES)
            header_bytes = int.from_bytes(head[:8], "little")
            if header_bytes <= min(MAX_HEADER_BYTES, stamp.size - 8):
                _require_memory(path, header_bytes)
                file.seek(0)
                head = file.read(8 + header_bytes)
        described, metadata = _validated(path, head, stamp.size)
    except OSError as error:
        raise read_error(path, error) from error
    except MemoryError as error:
        raise ReadError(
            f'"{path}" has a header of {header_bytes:,} bytes, for which memory does not suffice.'
        ) from error

    tensors = []
    start = offset = 8 + header_bytes
    for name, entry in described:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        if dtype not in BITS:
            raise FormatError(f'tensor "{name}" in "{path}" has the dtype {dtype}, whose size is not known here.')
        nbytes = math.prod(shape) * BITS[dtype] // 8
        tensors.append(TensorRef(name, dtype, shape, nbytes, path, offset, None, stamp))
        offset += nbytes
    if offset != stamp.size:
        raise FormatError(
            f'"{path}" is cut short or has bytes left over: its {stamp.size - start:,} bytes of tensors are not what '
            f"its header describes ({offset - start:,}); if it is still being written, try again when it is complete, "
            "else download or save it again."
        )
    return Shard(path, "safetensors", tuple(tensors), digest(head), metadata)


def _require_memory(path: str, header_bytes: int) -> None:
    """Raise ReadError where a hostile header could need more memory than there is: the library would abort.

    A header of a thousand tensors has 100 KB, one of a million 100 MB; only the latter are looked at twice.
    """
    needed = _MEMORY_FACTOR * header_bytes
    if header_bytes >= _LARGE_HEADER_BYTES and needed > (room := _room_bytes()):
        raise ReadError(
            f'"{path}" announces a header of {header_bytes:,} bytes, which may take {needed:,} of memory to read, '
            f"and there are {room:,}; if it is to be trusted, open it where there is more."
        )


def _room_bytes() -> int:
    """Memory that this process may still have: what is free, and what its limit of address space leaves."""
    rooms = []
    with suppress(OSError, ValueError, ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            rooms.append(max(0, limit - pages * mmap.PAGESIZE))
    with suppress(OSError, ValueError):
        meminfo = Path("/proc/meminfo").read_text()
        rooms.append(1024 * int(meminfo.partition("MemAvailable:")[2].split()[0]))
    return min(rooms, default=1 << 62)


def _validated(path: str, head: bytes, file_bytes: int) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, str]]:
    """The entries of a header in the order of their bytes, and the free-form metadata, if the library accepts them.

    The library is given the length and the header without the bytes of the tensors. Of all its checks the last alone
    then fails, that the offsets end where the file does, and that one is made by the caller. So nothing is mapped: a
    file that is cut short meanwhile cannot hurt, one larger than the address space can be opened, and what is
    validated, read and digested is one and the same copy.
    """
    from safetensors import SafetensorError, deserialize

    try:
        deserialize(head)
    except SafetensorError as error:
        if _NOT_COVERED not in str(error):
            raise FormatError(_explain(path, str(error), head, file_bytes)) from error
    # Names that stand there twice: the last holds, for the library as for Python.
    try:
        entries = json.loads(head[8:])
    except ValueError:  # Python refuses to convert thousands of digits, which may stand where nobody looks
        entries = json.loads(head[8:], parse_int=lambda digits: int(digits) if len(digits) <= 20 else 0)
    metadata = entries.pop("__metadata__", None) or {}
    # Empty tensors begin where another does; the sort is stable and leaves them in the header's order.
    return sorted(entries.items(), key=lambda item: item[1]["data_offsets"]), metadata


def _explain(path: str, message: str, head: bytes, file_bytes: int) -> str:
    """One sentence for a file that the safetensors library refused."""
    again = "download or save it again"
    header_bytes = int.from_bytes(head[:8], "little")
    if file_bytes < 8:
        return f'"{path}" is cut short: it has {file_bytes} bytes, fewer than the 8 of a header length; {again}.'
    if not looks_like_safetensors(head) and (seen := describe_head(head)):
        return f'"{path}" is not a safetensors file: it {seen}.'
    if "header too large" in message or header_bytes > MAX_HEADER_BYTES:
        return (
            f'"{path}" is not a safetensors file: it announces a header of {header_bytes:,} bytes, and at most '
            f"{MAX_HEADER_BYTES:,} are allowed; {again}."
        )
    if "invalid header length" in message:
        return (
            f'"{path}" is cut short: it announces a header of {header_bytes:,} bytes and has {file_bytes - 8:,} '
            f"after the length; {again}."
        )
    detail = message.partition("deserializing: ")[2] or message
    for sign, words in _FAULTS:
        if sign in message:
            return f'"{path}" is damaged: {words.format(detail=detail)}; {again}.'
    return f'"{path}" is not a valid safetensors file ({message}); {again}.'
