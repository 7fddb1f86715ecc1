"""The notebook that weighbridge grew out of, written down again: float32 torch, one operation after the other."""

from collections.abc import Iterable, Mapping

import torch

GROUPS = {
    "layer_norm_bias": ("layer_norm_bias",),
    "layer_norm_weight": ("layer_norm_weight",),
    "normal_bias": ("normal_bias",),
    "normal_weight": ("normal_weight",),
    "all_bias": ("layer_norm_bias", "normal_bias"),
    "all_weight": ("layer_norm_weight", "normal_weight"),
}


def kind(name: str) -> str:
    return ("layer_norm_" if "LayerNorm" in name else "normal_") + name.rsplit(".", 1)[-1]


def summary(
    other: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor], pairs: Iterable[tuple[str, str]]
) -> dict[str, tuple[int, float, float, float, float]]:
    """kind -> tensors, and the means over them of mean|x|, mean|y|, mean|x-y| and the cosine; x other, y base."""
    by_kind: dict[str, list[tuple[float, float, float, float]]] = {}
    for other_name, base_name in pairs:
        y = base[base_name]
        x = other[other_name][: len(y)]
        cosine = torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), dim=0)
        row = (x.abs().mean().item(), y.abs().mean().item(), (x - y).abs().mean().item(), cosine.item())
        by_kind.setdefault(kind(other_name), []).append(row)
    found = {}
    for group, members in GROUPS.items():
        rows = [row for member in members for row in by_kind[member]]
        means = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        found[group] = (len(rows), *means)
    return found


def text(path: str, total: int, matched: int, rows: Mapping[str, tuple[int, float, float, float, float]]) -> str:
    """What the notebook prints for one checkpoint."""
    lines = [
        f"{path}:",
        f"total_weights (tensors) {total}",
        f"total_transferred_weights (tensors) {matched}",
        "\t".join(("type", "n", "volta_avg", "bert_avg", "delta_avg", "cossim_avg")),
    ]
    for group, (count, *means) in rows.items():
        lines.append("\t".join((group, str(count), *(f"{mean:.5f}" for mean in means))))
    return "\n".join([*lines, "", ""])
