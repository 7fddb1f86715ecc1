"""Many rows -> one: by kind, by layer, over everything.

Every metric is aggregated both ways. The plain name is the mean over the tensors (the notebook's), `pooled_<name>` is
what the metric would be if all tensors of the group were one: computed from the rows' sums added up. Three are no
means: `max_delta` is the greatest, `nonfinite` and `base_nonfinite` are totals, in both forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .metrics import METRICS, pooled
from .options import named

if TYPE_CHECKING:
    from .table import Comparison

__all__ = ["COUNTS", "GROUPINGS", "GROUP_COLUMNS", "KINDS", "UNIONS", "group_rows", "summarise", "summary"]

# The order of the notebook's table. A name that is neither weight nor bias is of kind "other" and in no union.
KINDS = ("layer_norm_bias", "layer_norm_weight", "normal_bias", "normal_weight", "all_bias", "all_weight", "other")
UNIONS = {"all_bias": ("layer_norm_bias", "normal_bias"), "all_weight": ("layer_norm_weight", "normal_weight")}
GROUPINGS = ("kind", "layer", "tensor")
COUNTS = ("nonfinite", "base_nonfinite")

# What a group has besides its metrics.
GROUP_COLUMNS = ("n", "elements", "cosine_n", "relative_delta_n")

_AGGREGATES: dict[str, Callable[[NDArray[np.float64]], Any]] = {
    "max_delta": np.max,
    "nonfinite": np.sum,
    "base_nonfinite": np.sum,
}


def group_rows(comparison: Comparison, by: str) -> list[tuple[Any, NDArray[np.intp]]]:
    """The matched rows of every group: [(kind, layer or tensor, indices into `ledger.matched`)].

    Kinds come in the notebook's order, the six of them always and "other" where there is any; layers in natural order
    with None (no numbered block) last; tensors in the order of the other's file.
    """
    named(by, GROUPINGS, "grouping", "by")
    matched = comparison.ledger.matched
    if by == "kind":
        kinds = np.array([row.kind for row in matched], dtype=object)
        groups = [(kind, np.flatnonzero(np.isin(kinds, UNIONS.get(kind, (kind,))))) for kind in KINDS]
        return [(kind, rows) for kind, rows in groups if kind != "other" or len(rows)]
    if by == "layer":
        found: dict[int | None, list[int]] = {}
        for index, row in enumerate(matched):
            found.setdefault(row.layer, []).append(index)
        order = sorted(found, key=lambda layer: (layer is None, layer or 0))
        return [(layer, np.array(found[layer], dtype=np.intp)) for layer in order]
    return [(row.tensor, np.array([index], dtype=np.intp)) for index, row in enumerate(matched)]


def summarise(comparison: Comparison, rows: NDArray[np.intp]) -> dict[str, Any]:
    """One group's numbers: `GROUP_COLUMNS`, every metric over tensors, every metric pooled over elements.

    A value that does not exist (the cosine of a zero vector, the relative change of one, anything of an empty tensor)
    is left out of the mean; `cosine_n` and `relative_delta_n` count the tensors that are in those of the two. A NaN
    that comes from the data is not left out. A group without tensors has n = 0, counts of 0 and NaN elsewhere.
    """
    out: dict[str, Any] = {
        "n": len(rows),
        "elements": int(np.sum(comparison.other_self[rows, 0])),
        "cosine_n": int(np.sum(~comparison.undefined("cosine")[rows])),
        "relative_delta_n": int(np.sum(~comparison.undefined("relative_delta")[rows])),
    }
    for metric in METRICS:
        column = comparison.metrics[metric][rows]
        there = column[~comparison.undefined(metric)[rows]]
        if metric in COUNTS:
            out[metric] = int(np.sum(column))
        elif len(there):
            with np.errstate(all="ignore"):
                out[metric] = float(_AGGREGATES.get(metric, np.mean)(there))
        else:
            out[metric] = float("nan")
    if len(rows):
        with np.errstate(all="ignore"):
            whole = pooled(comparison.other_self[rows], comparison.base_self[rows], comparison.pair[rows])
    else:
        whole = dict.fromkeys(METRICS, float("nan")) | dict.fromkeys(COUNTS, 0)
    out |= {f"pooled_{name}": int(whole[name]) if name in COUNTS else float(whole[name]) for name in METRICS}
    return out


def summary(comparison: Comparison, by: str = "kind") -> list[dict[str, Any]]:
    """A flat dict per group, the group under the key `by` ("kind", "layer" or "tensor"), then as `summarise` says."""
    return [{by: key, **summarise(comparison, rows)} for key, rows in group_rows(comparison, by)]
