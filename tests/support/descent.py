"""Families of made-up checkpoints, as sums and without files."""

import numpy as np

from weighbridge.engine.lineage.descent import descend
from weighbridge.engine.lineage.family import Family

from .tables import pair_sums, self_sums

SHAPES = {"embed": 3000, "dense": 2000, "other": 1000, "norm": 400, "more": 1500, "bias": 200}
# Tensors of a model differ in the size of their weights, or weight decay could not be told from steps.
SCALES = {"embed": 0.04, "dense": 0.08, "other": 0.02, "norm": 0.2, "more": 0.03, "bias": 0.01}


def fresh(seed, shapes=SHAPES):
    """Weights initialised at random."""
    rng = np.random.default_rng(seed)
    return {name: SCALES.get(name, 0.05) * rng.standard_normal(size) for name, size in shapes.items()}


def step(parent, seed, size=1e-3, decay=0.0, only=None):
    """The parent after a step of a root mean square `size` that knows nothing of it, and weight decay."""
    rng = np.random.default_rng(seed)
    moved = {}
    for name, weights in parent.items():
        noise = size * rng.standard_normal(weights.size)
        moved[name] = weights if only is not None and name not in only else (1.0 - decay) * weights + noise
    return moved


def rounded(weights, dtype=np.float16):
    """The weights in fewer bits, "F16" or by a function of one's own."""
    return {name: values.astype(dtype).astype(np.float64) for name, values in weights.items()}


def family(checkpoints, dtypes=None):
    """The `Family` of dicts label -> dict tensor -> array; `dtypes` label -> dtype, F32 where it says nothing."""
    labels = tuple(checkpoints)
    tensors = list(dict.fromkeys(name for weights in checkpoints.values() for name in weights))
    first, second = np.triu_indices(len(labels), 1)
    selfs = np.zeros((len(tensors), len(labels), 6))
    pairs = np.zeros((len(tensors), len(first), 5))
    compared = np.zeros((len(tensors), len(first)), bool)
    kinds = np.full((len(tensors), len(labels)), "", "U8")
    for k, name in enumerate(tensors):
        for n, label in enumerate(labels):
            if name in checkpoints[label]:
                selfs[k, n] = self_sums(checkpoints[label][name])
                kinds[k, n] = (dtypes or {}).get(label, "F32")
        for p, (a, b) in enumerate(zip(first, second, strict=True)):
            compared[k, p] = name in checkpoints[labels[a]] and name in checkpoints[labels[b]]
            if compared[k, p]:
                pairs[k, p] = pair_sums(checkpoints[labels[a]][name], checkpoints[labels[b]][name])
    whole = np.array([sum(weights.size for weights in checkpoints[label].values()) for label in labels])
    return Family(labels, selfs, pairs, compared, kinds, whole)


def tree_of(checkpoints, base=None, dtypes=None):
    """The estimated tree of such a family."""
    return descend(family(checkpoints, dtypes), None if base is None else list(checkpoints).index(base))


def parents(tree):
    """label -> labels of its parents, of those that are no roots."""
    return {node.label: [tree.labels[parent.node] for parent in node.parents] for node in tree.nodes if node.parents}


def relations(tree):
    """label -> relation."""
    return {node.label: node.relation for node in tree.nodes}
