"""PyTorch's own files, without running a line of what is in them.

`torch.load(weights_only=True)` rebuilds tensors and plain containers and refuses everything else. A zip (all that
torch.save has written since 1.6) is mapped; where a tensor's bytes lie in the file as one run they are given as file
and offset, and the mapping is let go. What does not (a transposed or expanded view, a compressed or big-endian zip, a
file from before 1.6) is given as memory, laid out as one run when it is first asked for.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..checkpoint import Stamp, TensorRef
from ..errors import FormatError, ReadError, WeighbridgeError
from .contiguous import LazyContiguous, LazyStrided
from .shard import Shard, digest, read_error, read_head
from .sniff import is_zip
from .state_dict import find_state_dict
from .zip_records import locate_mapping, read_records

if TYPE_CHECKING:
    import torch

__all__ = ["read_pytorch"]

# torch dtype -> safetensors name. By text, as older versions of torch lack some of them.
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}

# A view may repeat its elements, as `expand` does; one that is this much larger than its file is an attack.
_MAX_INFLATION, _SMALL_BYTES = 100, 1 << 30

# The legacy format has no directory to take a digest of; its first pickles are the description.
_LEGACY_DIGEST_BYTES = 1 << 16

_ENFORCE = re.compile(r"^\[enforce fail at [^\]]*\][\s.]*")  # where in torch's own source it gave up
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)|type ([\w.]+) was not an allowed")


def read_pytorch(path: str) -> Shard:
    """The tensors of a PyTorch file.

    Raises:
        FormatError: it contains code, is damaged, or holds no state dict; says which.
        ReadError: it cannot be read.
    """
    head, _ = read_head(path)
    try:
        stamp = Stamp.of(os.stat(path))  # before anything is read: what changes from now on is noticed
    except OSError as error:
        raise read_error(path, error) from error
    records = read_records(path) if is_zip(head) else None
    mapped = records is not None and records.mappable
    loaded = _load(path, mapped)
    base = locate_mapping(path, records, _storages(loaded)) if records is not None and mapped else None
    if mapped and base is None:
        loaded = _load(path, False)  # no tensor is left in torch's own mapping, where a file cut short would kill us
    tensors, others = find_state_dict(loaded, path)
    _refuse_inflated(path, tensors, stamp.size)
    refs = tuple(_ref(name, tensor, path, base, stamp) for name, tensor in tensors.items())
    header_digest = records.directory_digest if records is not None else _legacy_digest(path)
    return Shard(path, "pytorch", refs, header_digest, others, _tied(tensors))


def _legacy_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return digest(file.read(_LEGACY_DIGEST_BYTES))
    except OSError as error:
        raise read_error(path, error) from error


def _load(path: str, mapped: bool) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own old storage classes
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except OSError as error:
        raise read_error(path, error) from error
    except WeighbridgeError:
        raise
    except MemoryError as error:
        raise ReadError(f'"{path}" does not fit into memory; convert it to safetensors on a larger machine.') from error
    except Exception as error:  # a hostile pickle can make the unpickler fail in any way there is
        raise FormatError(_explain(path, error)) from error


def _explain(path: str, error: Exception) -> str:
    """One sentence for a file that torch refused, without torch's advice to load it unsafely."""
    message = str(error)
    if isinstance(error, pickle.UnpicklingError) and (match := _GLOBAL.search(message)):
        name = next(group for group in match.groups() if group).rstrip(".")
        return (
            f'"{path}" contains code: its pickle asks for "{name}", and code in a checkpoint is never run; '
            "convert it to safetensors in an environment you trust."
        )
    if "TorchScript" in message:
        return (
            f'"{path}" is a TorchScript program, which contains code, and code is never run; '
            "save its state_dict() as safetensors in an environment you trust."
        )
    # torch puts the unpickler's own words last, after its advice; one sentence of them is enough.
    own = message.partition("WeightsUnpickler error:")[2].strip() or _ENFORCE.sub("", message).strip()
    reason = (own.splitlines() or [""])[0].split(". ")[0].rstrip(".") or type(error).__name__
    if "Unsupported operand" in reason:
        return (
            f'"{path}" is a pickle of another kind than torch.save writes ({reason}); it may contain code, and code in '
            "a checkpoint is never run; convert it to safetensors in an environment you trust."
        )
    return f'"{path}" cannot be read as a PyTorch checkpoint ({reason}); download or save it again.'


def _storages(loaded: Any) -> set[tuple[int, int]]:
    """(address, bytes) of every storage of a loaded object that is not empty, optimizer state and all."""
    import torch

    found = set()
    seen: set[int] = set()
    waiting = [loaded]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue  # a pickle can hold a dict that contains itself
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            if _is_dense(item) and item.untyped_storage().nbytes():
                found.add((item.untyped_storage().data_ptr(), item.untyped_storage().nbytes()))
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple | set):
            waiting.extend(item)
    return found


def _refuse_inflated(path: str, tensors: Mapping[str, torch.Tensor], file_bytes: int) -> None:
    """Refuse views that make one element into terabytes by a stride of 0: they would be laid out in memory.

    Raises:
        FormatError: names the first.
    """
    for name, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.element_size() if _is_dense(tensor) else 0
        if nbytes > max(_MAX_INFLATION * file_bytes, _SMALL_BYTES):
            raise FormatError(
                f'"{path}" is not to be trusted: its tensor "{name}" claims {nbytes:,} bytes out of a file of '
                f"{file_bytes:,}; save it again with clone()."
            )


def _ref(name: str, tensor: torch.Tensor, path: str, base: int | None, stamp: Stamp) -> TensorRef:
    """Where one tensor lies: file and offset if the mapping's base is known, else memory; nothing if not dense."""
    if not _is_dense(tensor):
        return TensorRef(name, _opaque_dtype(tensor), _shape(tensor), _opaque_bytes(tensor), path, None, None, stamp)
    shape = tuple(tensor.shape)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype == "float4_e2m1fn_x2":
        # torch counts pairs, safetensors counts elements
        dtype, shape = "F4", (*shape[:-1], 2 * shape[-1]) if shape else (2,)
    nbytes = tensor.numel() * tensor.element_size()
    code = _CODES.get(dtype, dtype)
    if nbytes == 0:
        return TensorRef(name, code, shape, 0, path, 0, None, stamp)
    one_run = tensor.is_contiguous() and not tensor.is_neg()
    if base is None:
        memory = tensor.detach() if one_run else LazyContiguous(tensor, path)
        return TensorRef(name, code, shape, nbytes, path, None, memory, stamp)
    offset = tensor.data_ptr() - base
    if one_run:
        return TensorRef(name, code, shape, nbytes, path, offset, None, stamp)
    return TensorRef(name, code, shape, nbytes, path, None, LazyStrided(tensor, path, offset, stamp), stamp)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements are plain values in memory."""
    import torch

    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return plain and not tensor.is_quantized and not tensor.is_nested and not tensor.is_conj()


def _opaque_dtype(tensor: torch.Tensor) -> str:
    """A dtype for tensors that are listed and cannot be compared: it names what is in the way."""
    import torch

    dtype = str(tensor.dtype).removeprefix("torch.")
    code = _CODES.get(dtype, dtype)
    if tensor.is_nested:
        return f"nested {code}"
    if tensor.layout is not torch.strided:
        return f"{str(tensor.layout).removeprefix('torch.')} {code}"
    if tensor.device.type != "cpu":
        return f"{tensor.device.type} {code}"
    return f"conjugated {code}" if tensor.is_conj() else code


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return () if tensor.is_nested else tuple(tensor.shape)


def _opaque_bytes(tensor: torch.Tensor) -> int:
    """The bytes that a tensor without plain storage would take, element by element."""
    return 0 if tensor.is_nested else tensor.numel() * tensor.element_size()


def _tied(tensors: dict[str, torch.Tensor]) -> tuple[tuple[str, ...], ...]:
    """Groups of names whose tensors are one and the same run of bytes, read in the same way."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in tensors.items():
        if _is_dense(tensor) and tensor.numel():
            strides = () if tensor.is_contiguous() else (tuple(tensor.shape), tensor.stride())
            key = (tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor.dtype, strides)
            groups.setdefault(key, []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
