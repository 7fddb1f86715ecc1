"""Checkpoints without files, for tests of what needs names, dtypes and shapes only."""

import math
from collections.abc import Iterable, Mapping

from weighbridge.engine.checkpoint import Checkpoint, TensorRef


def checkpoint(
    tensors: Mapping[str, tuple[int, ...]] | Iterable[str],
    label: str = "handmade",
    config: Mapping[str, object] | None = None,
    dtypes: Mapping[str, str] | None = None,
    tied: tuple[tuple[str, ...], ...] = (),
) -> Checkpoint:
    """A checkpoint of these names and shapes ((4, 4) where only names are given), F32 unless said otherwise."""
    shapes = dict(tensors) if isinstance(tensors, Mapping) else dict.fromkeys(tensors, (4, 4))
    refs = {
        name: TensorRef(name, (dtypes or {}).get(name, "F32"), tuple(shape), 4 * math.prod(shape), "none", 0)
        for name, shape in shapes.items()
    }
    return Checkpoint(label, label, "safetensors", refs, dict(config or {}), ("none",), label, tied=tied)
