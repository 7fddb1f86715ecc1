"""Files of bare tensors, one after the other, and references to them: what `engine.execute` sees of any format."""

import json
import os
from pathlib import Path

import numpy as np

from weighbridge.engine.checkpoint import TensorRef
from weighbridge.kernels.decoders import DECODERS


def write(
    path: Path, tensors: list[tuple[str, np.ndarray]], gaps: list[int] | int = 0, head: int = 11
) -> list[TensorRef]:
    """Tensors as (dtype, bytes), `gaps` bytes before each, after `head` bytes; all that lies between is 0xFF."""
    gaps = [gaps] * len(tensors) if isinstance(gaps, int) else gaps
    refs, parts, offset = [], [b"\xff" * head], head
    for number, ((dtype, raw), gap) in enumerate(zip(tensors, gaps, strict=True)):
        parts += [b"\xff" * gap, raw.tobytes()]
        offset += gap
        elements = raw.size // DECODERS[dtype].itemsize
        refs.append(TensorRef(f"t{number}", dtype, (elements,), raw.size, str(path), offset))
        offset += raw.size
    path.write_bytes(b"".join(parts) + b"\xff" * 5)
    return refs


def sparse_checkpoint(path: Path, elements: int) -> str:
    """A safetensors file of one float32 tensor of zeros that takes no room on disk."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [elements], "data_offsets": [0, 4 * elements]}}).encode()
    header += b" " * (-len(header) % 8)
    path = path.with_suffix(".safetensors")
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 4 * elements)
    return str(path)
