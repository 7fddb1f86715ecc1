"""CSV and TSV: one table for all comparisons, the labels in the first two columns, floats in full.

Names come from strangers. What is unprintable in them is escaped, so that a record is a line and a terminal shows it
as it stands; what a spreadsheet would take for a formula has an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..metrics import METRICS
from ..summary import GROUP_COLUMNS
from ..table import COLUMNS, LEDGER_COLUMNS, Comparison, ledger_row_dict
from .text import plain
from .view import View

if TYPE_CHECKING:
    from ..inspection import Inspection
    from ..matching import Ledger

__all__ = ["comparison_delimited", "inspection_delimited", "ledger_delimited", "delimit"]

# How a formula begins in Excel, LibreOffice and Google Sheets, the full-width forms of the signs included.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_SEPARATORS = {"csv": ",", "tsv": "\t"}


def comparison_delimited(comparison: Comparison, view: View, fmt: str, header: bool = True) -> str:
    """The rows of one comparison, or with `view.by` "kind" or "layer" its summary.

    `top` keeps the tensors that changed most and leaves out what was not compared; `sort` puts what was not compared
    at the end. Cells: nothing where there is no value, `nan` and `inf` as such, lists as JSON.
    """
    labels = {"base": comparison.base, "other": comparison.other}
    metrics = view.metrics or METRICS
    if view.by in ("kind", "layer"):
        pooled = [f"pooled_{name}" for name in metrics]
        columns = ["base", "other", view.by, *GROUP_COLUMNS, *metrics, *pooled]
        return delimit(columns, (labels | group for group in view.cut(view.groups(comparison, view.by))), fmt, header)
    columns = [name for name in COLUMNS if name not in METRICS or name in metrics]
    columns[-1:-1] = [columns.pop(columns.index(name)) for name in metrics]  # in the order that was asked for
    matched = comparison.matched
    if view.sort is None and not view.top:
        rows = comparison.rows
    else:
        rows = [matched[index] for index in view.tensors(comparison)]
        if not view.top:
            rows += [row for row in comparison.rows if row.status != "matched"]
    return delimit(columns, (labels | ledger_row_dict(row.ledger) | dict(row.metrics) for row in rows), fmt, header)


def ledger_delimited(ledger: Ledger, fmt: str) -> str:
    """Every row of a ledger: the comparison's columns without the metrics."""
    labels = {"base": ledger.base.label, "other": ledger.other.label}
    columns = ["base", "other", *LEDGER_COLUMNS, "reason"]
    return delimit(columns, (labels | ledger_row_dict(row) for row in ledger.rows), fmt, True)


def inspection_delimited(inspection: Inspection, fmt: str) -> str:
    """Every tensor of a checkpoint, the checkpoint's label in the first column."""
    columns = ["checkpoint", "tensor", "dtype", "shape", "elements", "bytes", *inspection.statistics]
    label = {"checkpoint": inspection.checkpoint.label}
    return delimit(columns, (label | row for row in inspection.rows), fmt, True)


def delimit(columns: list[str], records: Iterable[Mapping[str, Any]], fmt: str, header: bool) -> str:
    """The cells of `columns` of every record; `fmt` is "csv" or "tsv"."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=_SEPARATORS[fmt], lineterminator="\n")
    if header:
        writer.writerow(columns)
    for record in records:
        writer.writerow([_cell(record.get(name)) for name in columns])
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value)
    text = plain(str(value))
    # A spreadsheet would compute it. Text that really begins so stands unchanged in JSON and Parquet.
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
