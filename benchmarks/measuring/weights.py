"""Checkpoints to measure with: large safetensors files written quickly, of values whose sums are known.

A file's data is one block of values over and over, so that its sums are those of the block times a number: the answer
to a question about gigabytes is checked against float64 arithmetic on a megabyte. Every repetition lies in memory of
its own, so caches gain nothing from it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from weighbridge import Checkpoint, TensorRef
from weighbridge.engine.plan import Joined
from weighbridge.kernels import reference
from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.sums import PAIR_SUMS, SELF_SUMS

from .ceiling import Span
from .size import SCALE, scaled

if TYPE_CHECKING:
    import torch

ELEMENTS = 1024 * (1013 if SCALE >= 1 else 61)
"""Of a block, unless told. No power of two: no operand lies a power of two away from another, where caches alias."""

TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
}
"""The dtypes in which weights are made up, and what torch calls them."""

# Weights of a dtype of 8 bits are stored with a scale that fills its range.
_SCALED = {"F8_E4M3": 500.0, "F8_E5M2": 500.0, "I8": 500.0}


class Block(NamedTuple):
    """A run of elements of two checkpoints, as bytes."""

    base: np.ndarray
    other: np.ndarray


def related(code: str, elements: int = ELEMENTS, noise: float = 0.01, seed: int = 1) -> Block:
    """N(0, 0.04²), and the same plus N(0, noise²): a layer before and after fine-tuning; stored as dtype `code`.

    The seed is that of the noise: the base is always the same.
    """
    base = 0.04 * np.random.default_rng(0).standard_normal(elements)
    other = base + noise * np.random.default_rng(seed).standard_normal(elements)
    return Block(_stored(base, code), _stored(other, code))


def _stored(values: np.ndarray, code: str) -> np.ndarray:
    import torch

    tensor = torch.from_numpy(values * _SCALED.get(code, 1.0))
    if code == "I8":
        tensor = tensor.round().clamp(-127, 127)
    return tensor.to(torch_dtype(code)).view(torch.uint8).numpy()


def torch_dtype(code: str) -> torch.dtype:
    """Torch's dtype for one of ours."""
    import torch

    found: torch.dtype = getattr(torch, TORCH_NAMES[code])
    return found


def write(path: Path, shapes: Mapping[str, Sequence[int]], code: str, data: Iterable[np.ndarray]) -> Path:
    """A safetensors file of tensors of one dtype, its data taken from an iterable of bytes; kept if it is there.

    It is on the disk when this returns: nothing is written back while something is timed.
    """
    sizes = {name: math.prod(shape) * DECODERS[code].itemsize for name, shape in shapes.items()}
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [end, end := end + sizes[name]]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if path.exists() and path.stat().st_size == 8 + len(text) + end:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = end
        for piece in data:
            left -= file.write(memoryview(piece[:left]))
            if not left:
                break
        assert not left, f"{left} bytes short"
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def write_pair(folder: Path, block: Block, tensors: int, nbytes: int) -> list[Path]:
    """A base and an other of so many bytes at this scale: float32 tensors of equal size, which hold the block anew.

    Returns:
        The two files, `<elements>-base.safetensors` and `<elements>-other.safetensors`.
    """
    elements = scaled(nbytes, tensors * block.base.size) // tensors // 4
    shapes = {f"layer.{number}.weight": (elements // 1024, 1024) for number in range(tensors)}
    return [
        write(folder / f"{elements}-{side}.safetensors", shapes, "F32", itertools.repeat(data))
        for side, data in zip(Block._fields, block, strict=True)
    ]


def joined(*checkpoints: Checkpoint) -> list[Joined]:
    """The tensors that stand under one name in all checkpoints, the first being the base."""
    base, *others = checkpoints
    return [
        Joined(index, (ref, *(other.tensors[name] for other in others)), ref.elements)
        for index, (name, ref) in enumerate(base.tensors.items())
    ]


def moved(ref: TensorRef, first: int, elements: int) -> TensorRef:
    """The run of a tensor's elements from `first` on, as a tensor."""
    size = DECODERS[ref.dtype].itemsize
    assert ref.offset is not None and first + elements <= ref.elements
    return replace(ref, shape=(elements,), nbytes=elements * size, offset=ref.offset + first * size)


def spans(tensors: Iterable[Joined]) -> list[Span]:
    """Where the bytes lie that take part."""
    return [
        Span(Path(ref.file), ref.offset, ref.offset + tensor.elements * DECODERS[ref.dtype].itemsize)
        for tensor in tensors
        for ref in tensor.operands
    ]


def plainly(base: np.ndarray, other: np.ndarray, code: str, times: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The sums of `times` repetitions of two runs of bytes, (base, other) then the pair (other, base), in float64.

    Independent of the kernels under test: `reference`'s own tables decode, NumPy multiplies, math.fsum adds.
    """
    y, x = (reference.decode(raw, code).astype(np.float64) for raw in (base, other))
    selfs = np.array([[len(v), *_fsums(np.abs(v), v, v * v), np.abs(v).max(), (~np.isfinite(v)).sum()] for v in (y, x)])
    d = x - y
    pair = np.array([[*_fsums(np.abs(d), d * d, x * y), np.abs(d).max(), (x != y).sum()]])
    for sums, names in ((selfs, SELF_SUMS), (pair, PAIR_SUMS)):
        sums[:, [not name.startswith("max") for name in names]] *= times
    return selfs, pair


def _fsums(*terms: np.ndarray) -> list[float]:
    return [math.fsum(each.tolist()) for each in terms]
