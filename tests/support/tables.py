"""Comparisons of small arrays, made without files and without kernels."""

import re

import numpy as np

from weighbridge.engine.checkpoint import Checkpoint, TensorRef
from weighbridge.engine.matching import match
from weighbridge.engine.table import Comparison

ANSI = re.compile(r"\x1b\[")


def checkpoint(label, arrays):
    refs, offset = {}, 0
    for name, array in arrays.items():
        refs[name] = TensorRef(name, "F32", array.shape, array.size * 4, f"{label}.safetensors", offset)
        offset += array.size * 4
    return Checkpoint(label, label, "safetensors", refs, {}, (f"{label}.safetensors",), label)


def self_sums(x):
    x = np.asarray(x, dtype=np.float64).ravel()
    with np.errstate(all="ignore"):
        largest = np.max(np.abs(x), initial=0.0)
        return [x.size, np.sum(np.abs(x)), np.sum(x), np.sum(x * x), largest, np.sum(~np.isfinite(x))]


def pair_sums(x, y):
    x, y = (np.asarray(side, dtype=np.float64).ravel() for side in (x, y))
    with np.errstate(all="ignore"):
        d = x - y
        return [np.sum(np.abs(d)), np.sum(d * d), np.sum(x * y), np.max(np.abs(d), initial=0.0), np.sum(x != y)]


def compared(base, other, base_label="base", other_label="other", **options):
    """A Comparison of two dicts of arrays, by name and the rules in `options`."""
    base = {name: np.asarray(array, dtype=np.float32) for name, array in base.items()}
    other = {name: np.asarray(array, dtype=np.float32) for name, array in other.items()}
    ledger = match(checkpoint(base_label, base), checkpoint(other_label, other), **options)
    xs, ys = [], []
    for row in ledger.matched:
        x, y = other[row.tensor], base[row.base_tensor]
        rows = row.rows[0] if row.rows else None
        xs.append(x[:rows] if rows else x)
        ys.append(y[:rows] if rows else y)
    return Comparison(
        ledger=ledger,
        other_self=np.array([self_sums(x) for x in xs]).reshape(-1, 6),
        base_self=np.array([self_sums(y) for y in ys]).reshape(-1, 6),
        pair=np.array([pair_sums(x, y) for x, y in zip(xs, ys, strict=True)]).reshape(-1, 5),
        bytes_read=sum(x.nbytes + y.nbytes for x, y in zip(xs, ys, strict=True)),
        seconds=0.25,
    )


def small():
    """Two layers, a norm, an embedding with a row too many, one tensor of each status but outside_base_model."""
    base = {
        "word_embeddings.weight": np.arange(1.0, 7.0).reshape(3, 2),
        "layer.0.LayerNorm.bias": [0.0, 0.0],
        "layer.0.LayerNorm.weight": [1.0, 1.0],
        "layer.0.dense.weight": [[1.0, 2.0], [3.0, 4.0]],
        "layer.0.dense.bias": [0.5, 0.25],
        "layer.10.dense.weight": [[1.0, 0.0], [0.0, 1.0]],
        "layer.2.dense.weight": [[1.0, 0.0], [0.0, 1.0]],
        "scale": [2.0],
        "odd.weight": [1.0, 2.0, 3.0],
        "gone.bias": [1.0],
    }
    other = {
        **base,
        "word_embeddings.weight": np.arange(1.0, 9.0).reshape(4, 2),
        "layer.0.dense.weight": [[1.0, 2.0], [3.0, 5.0]],
        "layer.0.dense.bias": [0.5, 0.5],
        "layer.2.dense.weight": [[1.0, 0.001], [0.0, 1.0]],
        "odd.weight": [[1.0, 2.0]],
        "new.weight": [4.0],
        "mask.weight": [9.0],
    }
    del other["gone.bias"]
    return compared(base, other, exclude=["mask*"])
