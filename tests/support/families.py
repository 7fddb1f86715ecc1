"""A small family of checkpoints in which everything happens that can: dtypes, lengths, gaps, copies, links."""

import os

import torch
from safetensors.torch import save_file

LAYERS = 3


def write(folder):
    """Eight checkpoints; returns their paths. The last is the first, under its own name once more."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    base = {"embeddings.word_embeddings.weight": normal(30, 8), "n": torch.arange(5), "x.bias": normal(10).double()}
    for layer in range(LAYERS):
        base[f"layer.{layer}.dense.weight"] = normal(70, 1000)  # more than a chunk of 65,536
        base[f"layer.{layer}.LayerNorm.bias"] = torch.zeros(10) if layer == 1 else normal(10)
    paths = []
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32, torch.bfloat16)
    for number, dtype in enumerate(dtypes):
        other = {
            name: (t + 0.01 * number * normal(*t.shape)).to(dtype) if t.is_floating_point() else t
            for name, t in base.items()
        }
        if number == 1:
            other["embeddings.word_embeddings.weight"] = normal(35, 8).bfloat16()
        if number == 3:
            del other["x.bias"]
            other["head.weight"] = normal(3, 4)
            other = dict(sorted(other.items(), reverse=True))  # another order in the file
        if number == 4:
            other["embeddings.word_embeddings.weight"] = normal(33, 8)
            other["head.weight"] = normal(3, 4)
            other["layer.0.dense.weight"] = base["layer.0.dense.weight"]
            other["layer.2.LayerNorm.bias"][3] = torch.nan
        if number == 5:
            other["layer.0.dense.weight"] = normal(7).bfloat16()
            other["alone"] = normal(2)
        paths.append(folder / f"{number}.safetensors")
        save_file(other, paths[-1])
    os.link(paths[0], folder / "link.safetensors")
    return [*paths, folder / "link.safetensors", paths[0]]


def write_mixed(folder, dtypes, rows):
    """Checkpoints of a dtype and a number of embeddings each, all of whose bytes some pair compares; their paths.

    A tensor of each has more than a chunk, and one is of integers, wide ones beside float64.
    """
    generator = torch.Generator().manual_seed(0)
    paths = []
    for number, (dtype, length) in enumerate(zip(dtypes, rows, strict=True)):
        shapes = {"embeddings.word_embeddings.weight": (length, 8), "layer.0.dense.weight": (70, 1000), "x.bias": (11,)}
        state = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
        whole = torch.int64 if dtype == torch.float64 else torch.int16
        state["steps"] = torch.randint(-900, 900, (3000,), generator=generator).to(whole)
        paths.append(folder / f"{number}.safetensors")
        save_file(state, paths[-1])
    return paths
