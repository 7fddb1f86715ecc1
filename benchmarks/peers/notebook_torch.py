"""The comparison as the notebook does it, in torch: load both files, then one formula after the other.

Arguments: the two files, a JSON file of [other's name, base's name] pairs, and the dtype to compute in (float32, as the
notebook does, or float64). Prints the means over all tensors and the seconds that loading and computing took, Python's
start and imports left out.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file


def formulas(x: torch.Tensor, y: torch.Tensor) -> list[float]:
    """mean|x|, mean|y|, mean|x-y| and the cosine of two tensors, one torch operation after the other."""
    cosine = torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0)
    return [x.abs().mean().item(), y.abs().mean().item(), (x - y).abs().mean().item(), cosine.item()]


def main(base_path: str, other_path: str, pairs_path: str, dtype: str = "float32") -> None:
    pairs = json.loads(Path(pairs_path).read_text())
    started = time.perf_counter()
    base, other = load_file(base_path), load_file(other_path)
    rows = []
    for other_name, base_name in pairs:
        y = base[base_name].to(getattr(torch, dtype))  # no copy where it is that already
        x = other[other_name][: len(y)].to(y.dtype)
        rows.append(formulas(x, y))
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    print(json.dumps({"means": means, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
