"""The lines of a sweep's results, as a document, as JSON and as CSV: one per other, or per other and group."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import OptionError
from ..ledger import STATUSES
from ..metrics import METRICS
from ..results import OtherRows, Results, summaries
from ..strict import exact
from ..summary import COUNTS, GROUP_COLUMNS
from ..where import Filter
from .delimited import delimit
from .document import Column, Document, Section
from .overview import metric_cells
from .text import count, plain, value
from .view import View, order

__all__ = ["Lines", "labels_of", "lines_delimited", "lines_document", "lines_object", "states"]

_DEFAULT_TOP = 20  # of tensors, in tables
_FAILURES = 10  # that a table names
_METRICS = ("delta", "cosine_distance", "relative_delta")


@dataclass(frozen=True)
class Lines:
    """What is shown of a sweep.

    Attributes:
        results: the sweep.
        view: grouping, order, how many, metrics.
        others: the others and tensors that --where left.
        lines: `Results.summary` of them, those that --where left, in the order that was asked for; not cut.
    """

    results: Results
    view: View
    others: list[OtherRows]
    lines: list[dict[str, Any]]

    @classmethod
    def of(cls, results: Results, view: View, where: Iterable[str]) -> Lines:
        """
        Raises:
            OptionError: a condition of `where` is none.
        """
        chosen = Filter.parse(where, results.extra)
        others = chosen.apply(results.columns_of_others)
        make = _tensor_lines if view.by == "tensor" else summaries
        lines = [line for line in make(others, results.extra, view.by) if chosen.shows(line)]
        if view.sort is not None:
            values = np.array([line[view.sort] for line in lines], dtype=np.float64)
            lines = [lines[index] for index in order(values, view.sort)]
        return cls(results, view, others, lines)

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The lines that --top leaves."""
        return self.view.cut(self.lines)


def _tensor_lines(others: Iterable[OtherRows], extra: Iterable[str], by: str | None) -> Iterable[dict[str, Any]]:
    """`summaries` for by "tensor", where mean, pooled and the tensor's own value are one number each."""
    names = list(extra)
    for other in others:
        sums = other.sums
        head = {"label": other.entry["label"], **{name: other.entry["extra"].get(name) for name in names}}
        head |= other.counts
        columns = {name: sums.metrics[name].tolist() for name in METRICS}
        columns |= {name: [int(number) for number in columns[name]] for name in COUNTS}
        there = {f"{name}_n": (~sums.undefined(name)).astype(int).tolist() for name in ("cosine", "relative_delta")}
        undefined = {name: sums.undefined(name).tolist() for name in METRICS if name not in COUNTS}
        for index, tensor in enumerate(other.tensors):
            line = head | {"tensor": tensor, "n": 1, "elements": int(sums.other_self[index, 0])}
            line |= {name: column[index] for name, column in there.items()}
            own = {name: columns[name][index] for name in METRICS}
            line |= own | {name: math.nan for name, gone in undefined.items() if gone[index]}
            yield line | {f"pooled_{name}": number for name, number in own.items()}


def states(results: Results) -> list[str]:
    """What a reader must know of a sweep that is not whole: how many others are pending, and how many failed."""
    out = []
    if results.pending:
        total = len(results.others)
        out.append(f"{len(results.labels):,} of {total:,} others are done, {results.pending:,} are not computed yet")
    if results.failures:
        out.append(f"{count(len(results.failures), 'other')} failed")
    return out


def lines_document(lines: Lines) -> Document:
    """The readable report; with by "tensor" `top` defaults to 20 here."""
    results, view = lines.results, lines.view
    top = _DEFAULT_TOP if view.top is None and view.by == "tensor" else view.top or 0
    shown = lines.lines[:top] if top else lines.lines
    names = [Column("other", names=True), *(Column(name) for name in results.extra)]
    if view.by is not None:
        names.append(Column(view.by, names=view.by != "layer"))
    metrics = view.metrics or _METRICS
    if view.sort is not None and view.sort not in metrics:
        metrics = (view.sort, *metrics)
    forms = metrics if view.by == "tensor" else tuple(f for m in metrics for f in (m, f"pooled_{m}"))
    rows = []
    for line in shown:
        cells = [plain(line["label"]), *(_extra_cell(line[name]) for name in results.extra)]
        if view.by is not None:
            cells.append("none" if line[view.by] is None else plain(str(line[view.by])))
        if view.by is None:
            cells += [f"{line['n']:,}", f"{sum(line[status] for status in STATUSES) - line['matched']:,}"]
        elif view.by != "tensor":
            cells.append(f"{line['n']:,}")
        rows.append(cells + _cells(line, forms))
    counts = {None: ["matched", "not matched"], "tensor": []}.get(view.by, ["n"])
    columns = (*names, *(Column(name) for name in (*counts, *forms)))
    title = "by other" if view.by is None else f"by other and {view.by}"
    note = "" if view.by == "tensor" else ": means over tensors; pooled: over all elements as one"
    section = Section(title + note, columns, rows)
    if more := len(lines.lines) - len(shown):
        section.lines.append((0, f"and {more:,} more; --top 0 shows them all"))
    if not rows:
        section = Section(title, lines=[(0, "nothing to show")])
    sections = [section]
    if failures := results.failures:
        told = [(0, f"{plain(each['label'])}: {plain(each['reason'])}") for each in failures[:_FAILURES]]
        if more := len(failures) - len(told):
            told.append((0, f"and {more:,} more; --format json lists them all"))
        sections.append(Section("failed", lines=told))
    heading = [f"{count(len(results.labels), 'other')} against {plain(results.base)}", plain(str(results.path))]
    return Document(heading, sections, states(results))


def _cells(line: dict[str, Any], forms: Iterable[str]) -> list[str]:
    cells = []
    for form in forms:
        prefix = "pooled_" if form.startswith("pooled_") else ""
        pair = {name: line[prefix + name] for name in (form.removeprefix("pooled_"), "cosine_distance")}
        cells += metric_cells(pair, (form.removeprefix("pooled_"),))
    return cells


def _extra_cell(extra: Any) -> str:
    if extra is None or isinstance(extra, str):
        return plain(extra or "")
    return str(extra) if isinstance(extra, (bool, int)) else value(extra)


def _keys(lines: Lines) -> list[str]:
    metrics = lines.view.metrics or METRICS
    group = [] if lines.view.by is None else [lines.view.by]
    pooled = [f"pooled_{name}" for name in metrics]
    return ["label", *lines.results.extra, *STATUSES, *group, *GROUP_COLUMNS, *metrics, *pooled]


def lines_object(lines: Lines) -> dict[str, Any]:
    """Strict JSON: base, how many others there are, are done and pending, failures with reasons, and the lines."""
    results, keys = lines.results, _keys(lines)
    return {
        "base": results.base,
        "others": len(results.others),
        "done": len(results.labels),
        "pending": results.pending,
        "failures": results.failures,
        "lines": [{key: _strict(line[key]) for key in keys} for line in lines.shown],
    }


def _strict(cell: Any) -> Any:
    return exact(cell) if isinstance(cell, float) else cell


def lines_delimited(lines: Lines, fmt: str) -> str:
    """CSV or TSV with a header."""
    return delimit(_keys(lines), lines.shown, fmt, True)


def labels_of(results: Results, where: Iterable[str]) -> list[str]:
    """The labels that --where leaves, for a format that shows comparisons whole.

    Raises:
        OptionError: a condition is on anything but label, source and extra columns.
    """
    chosen = Filter.parse(where, results.extra)
    if chosen.tensors or chosen.lines:
        raise OptionError("--format notebook shows others whole; let --where choose by label, source or extra columns.")
    return [other.entry["label"] for other in chosen.apply(results.columns_of_others)]
