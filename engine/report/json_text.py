"""Strict JSON: floats in full, null for NaN and infinity, ASCII only, so that any pipe and terminal can carry it."""

from __future__ import annotations

import json
from typing import Any

from ..metrics import METRICS
from ..strict import exact
from ..summary import GROUP_COLUMNS
from ..table import Comparison
from .view import View

__all__ = ["comparison_object", "dump"]


def comparison_object(comparison: Comparison, view: View) -> dict[str, Any]:
    """The object of one comparison.

    `metrics` narrows what the tensors carry; `sort` and `top` order and cut `tensors` (the totals stay whole); `by`
    "layer" adds "layers", the summary by layer. Without any of them it is `Comparison.to_dict()`.
    """
    out = comparison.to_dict(view.metrics)
    if view.sort is not None or view.top:
        matched = [row for row in out["tensors"] if row["status"] == "matched"]
        rest = [row for row in out["tensors"] if row["status"] != "matched"]
        out["tensors"] = [matched[index] for index in view.tensors(comparison)] + ([] if view.top else rest)
    if view.by == "layer":
        metrics = view.metrics or METRICS
        keys = ["layer", *GROUP_COLUMNS, *metrics, *(f"pooled_{name}" for name in metrics)]
        out["layers"] = [{key: exact(group[key]) for key in keys} for group in view.groups(comparison, "layer")]
    return out


def dump(value: Any) -> str:
    """The value as indented JSON, rows of tensors a line each, ending in a newline."""
    return _pretty(value, 0) + "\n"


def _pretty(value: Any, depth: int) -> str:
    # json's own indent puts every number of every shape on a line of its own: 20 lines a tensor instead of one.
    inner = "  " * (depth + 1)
    if isinstance(value, dict) and depth < 2 and any(isinstance(item, (dict, list)) for item in value.values()):
        items = [f"{inner}{json.dumps(str(key))}: {_pretty(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + "  " * depth + "}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(f"{inner}{_pretty(item, depth + 1)}" for item in value) + "\n" + "  " * depth + "]"
    return json.dumps(value, allow_nan=False)
