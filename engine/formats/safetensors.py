"""safetensors: validated by the safetensors library, read by nobody else.

The library checks the header (JSON, sizes, offsets, no overlap, no hole, no byte left over) and gives the names in the
order of their bytes, the dtypes and the shapes. As there are no holes, a tensor begins where the sizes before it end:
offset = 8 + header length + sum of the sizes before. Only the header's pages are ever touched.
"""

from __future__ import annotations

import math

from ..checkpoint import TensorRef
from ..errors import FormatError
from .shard import Shard, digest, read_error, read_head
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
        ReadError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    head, file_bytes = read_head(path)
    header_bytes = int.from_bytes(head[:8], "little")
    try:
        # Not framework="pt": with NumPy the library never imports torch, and here it makes no array at all.
        with safe_open(path, framework="np") as handle:
            names = handle.offset_keys()
            slices = [handle.get_slice(name) for name in names]
            described = [(view.get_dtype(), tuple(view.get_shape())) for view in slices]
            metadata = handle.metadata() or {}
        with open(path, "rb") as file:
            header = file.read(8 + header_bytes)
    except SafetensorError as error:
        raise FormatError(_explain(path, str(error), head, header_bytes, file_bytes)) from error
    except OSError as error:
        raise read_error(path, error) from error

    tensors = []
    start = offset = 8 + header_bytes
    for name, (dtype, shape) in zip(names, described, strict=True):
        if dtype not in BITS:
            raise FormatError(f'tensor "{name}" in "{path}" has the dtype {dtype}, whose size is not known here.')
        nbytes = math.prod(shape) * BITS[dtype] // 8
        tensors.append(TensorRef(name, dtype, shape, nbytes, path, offset))
        offset += nbytes
    if offset != file_bytes:
        # The library has checked this; it can only differ if the file changed in between.
        raise FormatError(
            f'"{path}" has {file_bytes - start:,} bytes of tensors where its header asks for {offset - start:,}; '
            "if it is still being written, try again when it is complete."
        )
    return Shard(path, "safetensors", tuple(tensors), digest(header), metadata)


def _explain(path: str, message: str, head: bytes, header_bytes: int, file_bytes: int) -> str:
    """One sentence for a file that the safetensors library refused."""
    again = "download or save it again"
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
    if "not fully covered" in message:
        return (
            f'"{path}" is cut short or has bytes left over: its {file_bytes - 8 - header_bytes:,} bytes of tensors '
            f"are not what its header describes; {again}."
        )
    detail = message.partition("header: ")[2] or message
    for sign, words in _FAULTS:
        if sign in message:
            return f'"{path}" is damaged: {words.format(detail=detail)}; {again}.'
    return f'"{path}" is not a valid safetensors file ({message}); {again}.'
