"""The readable report on a comparison: summary, what changed most, what was not compared and why, totals."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..table import Comparison
from .document import Column, Document, Section
from .ledger import facts, heading, not_compared
from .text import count, plain, speed, value
from .view import CHANGE_METRICS, DEFAULT_SORT, View, ranked

__all__ = ["comparison_document", "metric_cells"]

DEFAULT_TOP = 10

# Of what was not compared a few names tell what it is; `weighbridge match` lists all of it.
_FEW = 3

# As many as fit 80 columns beside a kind, and beside a tensor's name.
_GROUP_METRICS = ("delta", "cosine", "relative_delta", "max_delta", "changed")
_TENSOR_METRICS = ("relative_delta", "max_delta", "cosine")


def comparison_document(comparison: Comparison, view: View | None = None) -> Document:
    """The report on one comparison; `top` defaults to 10 here."""
    view = view or View()
    top = DEFAULT_TOP if view.top is None else view.top
    by = view.by or "kind"
    sections = []
    if by == "tensor":
        # Asked for the tensors themselves: all of them in file order, unless --sort or --top says otherwise.
        chosen = view.tensors(comparison)
        section = _tensors(comparison, view, chosen, "tensors")
        if more := len(comparison.pair) - len(chosen):
            section.lines.insert(0, (0, f"and {more:,} more; --top 0 shows them all"))
        sections.append(section)
    else:
        sections.append(_groups(comparison, view, by))
        sections.append(_changed_most(comparison, view, top))
    few = _FEW if view.top is None else view.top
    sections += _trouble(comparison, few)
    sections += not_compared(comparison.ledger, few)
    whole = comparison.overall
    matched = count(whole["n"], "tensor")
    footer = f"{matched}, {count(whole['elements'], 'element')}; {speed(comparison.bytes_read, comparison.seconds)}"
    return Document(heading(comparison.ledger), sections, [footer])


def metric_cells(row: dict[str, Any], metrics: tuple[str, ...]) -> list[str]:
    """The metrics of one row or group as text."""
    return [value(row[name], row["cosine_distance"] if name == "cosine" else None) for name in metrics]


def _groups(comparison: Comparison, view: View, by: str) -> Section:
    metrics = view.metrics or _GROUP_METRICS
    groups = [group for group in view.groups(comparison, by) if group["n"]]
    rows = [[_group_name(group[by]), str(group["n"]), *metric_cells(group, metrics)] for group in groups]
    whole = comparison.overall
    pooled = {name: whole[f"pooled_{name}"] for name in (*metrics, "cosine_distance")}
    rows.append(["all matched", str(whole["n"]), *metric_cells(whole, metrics)])
    rows.append(["pooled", "", *metric_cells(pooled, metrics)])
    columns = (Column(by, names=True), Column("n"), *(Column(name) for name in metrics))
    section = Section(f"by {by}: means over tensors; pooled: over all elements as one", columns, rows)
    section.lines += [(0, line) for line in _left_out(comparison)]
    return section


# What a report says of the values that do not exist and so are in no mean.
_WHY_LEFT_OUT = {"cosine": "a zero vector has no direction", "relative_delta": "its base is zero"}


def _left_out(comparison: Comparison) -> list[str]:
    lines = [
        f"{metric} of {count(left_out, 'tensor')} left out of the means: {why}"
        for metric, why in _WHY_LEFT_OUT.items()
        if (left_out := int(np.sum(comparison.undefined(metric) & ~comparison.empty)))
    ]
    if empty := int(np.sum(comparison.empty)):
        lines.append(f"{count(empty, 'empty tensor')} left out of the means of all metrics: no elements")
    return lines


def _group_name(group: str | int | None) -> str:
    if group is None:
        return "in no layer"
    return f"layer {group}" if isinstance(group, int) else group


def _changed_most(comparison: Comparison, view: View, top: int) -> Section:
    metric = view.sort or DEFAULT_SORT
    chosen = ranked(comparison, metric)
    unequal = int(np.sum(~comparison.equal))
    total = len(chosen)
    if metric in CHANGE_METRICS:
        if not unequal:
            return Section("changed most", lines=[(0, f"nothing: {count(total, 'tensor')} equal in every element")])
        chosen = [index for index in chosen if not comparison.equal[index]]
        title = f"changed most, by {metric}"
    else:
        title = f"by {metric}"
    shown = chosen[:top] if top else chosen
    section = _tensors(comparison, view, shown, title, metric)
    if more := len(chosen) - len(shown):
        section.lines.insert(0, (0, f"and {more:,} more; --top 0 shows them all"))
    if equal := total - unequal:
        section.lines.append((0, f"{count(equal, 'tensor')} equal in every element"))
    return section


def _tensors(comparison: Comparison, view: View, chosen: list[int], title: str, metric: str | None = None) -> Section:
    metrics = view.metrics or _TENSOR_METRICS
    if (metric := metric or view.sort) is not None and metric not in metrics:
        metrics = (metric, *metrics)
    matched = comparison.matched
    rows = [[plain(matched[i].tensor), *metric_cells(dict(matched[i].metrics), metrics)] for i in chosen]
    section = Section(title, (Column("tensor", names=True), *(Column(name) for name in metrics)), rows)
    from_zero = comparison.undefined("relative_delta") & np.isinf(comparison.metrics["relative_delta"])
    if "relative_delta" in metrics and from_zero[chosen].any():
        section.lines.append((0, "relative_delta is inf where the base is zero: any change from zero is infinite"))
    return section


def _trouble(comparison: Comparison, top: int) -> list[Section]:
    """What a reader of the numbers must know: values that are not finite, tensors compared in part."""
    sections = []
    sick = [row for row in comparison.matched if row.nonfinite or row.base_nonfinite]
    if sick:
        lines = [
            f"{plain(row.tensor)}: {row.nonfinite:,} in the other, {row.base_nonfinite:,} in the base" for row in sick
        ]
        title = f"NaN or infinity in {count(len(sick), 'tensor')}; it is in their metrics and in the means"
        sections.append(Section(title, lines=facts(lines, top)))
    return sections
