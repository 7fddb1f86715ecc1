"""A matrix as people and programs read it: tables, CSV, JSON, NumPy and Parquet files, pictures."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..entries import Entries
from ..errors import OptionError
from ..matrix import chosen_metrics
from ..matrix_table import TASK_COSINE, Matrix
from ..options import named
from .document import Column, Document, Section
from .sink import Output, drawer
from .text import count, elide, plain, short_names, speed, value

__all__ = ["MATRIX_FORMATS", "MatrixOutput", "matrix_document"]

MATRIX_FORMATS = ("table", "json", "csv", "tsv", "markdown", "npz", "parquet")
_BINARY = ("npz", "parquet")

_WHOLE = 24  # checkpoints whose matrix is a table; of more, each one's nearest and farthest
_FEW = 5
_SHOWN = ("relative_delta", "cosine", TASK_COSINE)
_LIKENESS = ("cosine", TASK_COSINE)  # great where two are near; all else is a distance


class MatrixOutput:
    """Where a matrix goes, and how; what a typing mistake can spoil is found out before the first byte is read.

    Args:
        path: the file of the text or the arrays, None for standard output.
        fmt: one of `MATRIX_FORMATS`.
        by: None, "kind", "layer" or "tensor".
        plot: the file of a picture, or None.
        metric: what is drawn; relative_delta, or the first that is computed.
        metrics: what is computed, as the user typed it.
        base: whether there is one.
    Raises:
        OptionError: a binary format without a file, a table or a panel for every tensor, a metric that is not computed.
        OutputError: a file cannot be written.
    """

    def __init__(
        self,
        path: Path | None,
        fmt: str,
        by: str | None = None,
        plot: Path | None = None,
        metric: str | None = None,
        metrics: str | None = None,
        base: bool = False,
    ) -> None:
        self.output, self.fmt, self.by, self.plot = Output(path), fmt, by, plot
        chosen = chosen_metrics(metrics, base)
        self.metric = metric or ("relative_delta" if "relative_delta" in chosen else chosen[0])
        named(self.metric, chosen, "metric", "--metric")
        if fmt in _BINARY and self.output.path is None:
            raise OptionError(f"--format {fmt} is no text; name a file with -o.")
        if by == "tensor" and (fmt in ("table", "markdown") or plot is not None):
            where = "--plot" if plot is not None else fmt
            raise OptionError(f"--by tensor is too much for {where}; take --format csv, json, npz or parquet.")
        if plot is not None:
            from ..plots.figure import check_plot
            from ..plots.matrix import check_scipy
            from .files import check_writable

            check_plot(plot)
            check_scipy()
            check_writable(plot)

    def write(self, matrix: Matrix) -> None:
        """Prints the matrix, and draws it.

        Raises:
            OptionError: there is nothing to draw.
            OutputError: a file could not be written.
        """
        if self.fmt in _BINARY:
            from .files import write_whole

            assert self.output.path is not None
            write_whole(self.output.path, (_npz if self.fmt == "npz" else _parquet)(matrix, self.by))
        else:
            self.output.write(self._text(matrix))
            self.output.close()
        if self.plot is not None:
            self._draw(matrix, self.plot)

    def _text(self, matrix: Matrix) -> str:
        if self.fmt == "json":
            from .json_text import dump

            return dump(matrix.to_dict(self.by))
        if self.fmt in ("csv", "tsv"):
            from .delimited import delimit

            return delimit(matrix.columns(self.by), matrix.records(self.by), self.fmt, True)
        document = matrix_document(matrix, self.by)
        if self.fmt == "markdown":
            from .markdown import markdown

            return markdown(document)
        return drawer(self.output)(document)

    def _draw(self, matrix: Matrix, path: Path) -> None:
        from ..plots.matrix import matrix_picture
        from .files import write_whole
        from .html_table import draw_html

        fmt = path.suffix.lower()[1:]
        table = draw_html(matrix_document(matrix, self.by)) if fmt == "html" else ""
        write_whole(path, matrix_picture(matrix, fmt, metric=self.metric, by=self.by, table=table))


def _npz(matrix: Matrix, by: str | None) -> bytes:
    out = io.BytesIO()
    np.savez(out, **matrix.to_arrays(by))  # type: ignore[arg-type]
    return out.getvalue()


def _parquet(matrix: Matrix, by: str | None) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = list(matrix.records(by))
    kinds = {"other": pa.string(), "base": pa.string(), "n": pa.int64(), "elements": pa.int64()}
    kinds |= {"kind": pa.string(), "tensor": pa.string(), "layer": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in matrix.columns(by)])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(records, schema=schema), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def matrix_document(matrix: Matrix, by: str | None = None) -> Document:
    """The readable report: who takes part, the matrices, what is equal, what was not compared."""
    labels = matrix.labels
    start, names = short_names(labels)
    total = len(labels) * (len(labels) - 1) // 2
    heading = [f"{count(len(labels), 'checkpoint')}, {count(total, 'pair')}"]
    heading += [f"all in {start}"] if start else []
    heading += [f"base: {names[labels.index(matrix.base)]}"] if matrix.base is not None else []
    sections = [_checkpoints(matrix, names)]
    shown = [metric for metric in _SHOWN if metric in matrix.metrics] or list(matrix.metrics[:1])
    if set(matrix.metrics) <= {*_SHOWN} or len(matrix.metrics) <= len(_SHOWN):
        shown = list(matrix.metrics)
    groups: dict[Any, Entries] = {None: matrix.overall} if by is None else matrix.groups(by)
    for key, group in groups.items():
        if not (group.n > 0).any():
            continue
        title = "" if by is None else f"{key}: " if by == "kind" else "no layer: " if key is None else f"layer {key}: "
        draw = _table if len(labels) <= _WHOLE else _neighbours
        sections += [draw(group, metric, names, title) for metric in shown]
    sections += _identical(matrix, names) + _not_compared(matrix, names)
    read = speed(matrix.bytes_read, matrix.seconds) if matrix.bytes_read else "read back from results"
    if matrix.sums.same_bytes:
        read += f"; {matrix.sums.same_bytes:,} bytes recognised and not read again"
    return Document(heading, sections, [f"{count(len(matrix.sums.tensors), 'tensor')} shared; {read}"])


def _checkpoints(matrix: Matrix, names: list[str]) -> Section:
    columns = (
        Column("checkpoint", names=True),
        Column("no."),
        Column("tensors"),
        Column("compared"),
        Column("elements"),
    )
    rows = []
    for number, (name, totals) in enumerate(zip(names, matrix.ledger.totals, strict=True)):
        elements = sum(ref.elements for ref in matrix.ledger.checkpoints[number].tensors.values())
        rows.append([name, str(number + 1), str(totals["tensors"]), str(totals.get("matched", 0)), f"{elements:,}"])
    return Section("checkpoints", columns, rows)


def _table(group: Entries, metric: str, names: list[str], title: str) -> Section:
    """The whole matrix: a line for each checkpoint as the other, a column for each as the base."""
    distances = group.pooled.get("cosine_distance") if metric == "cosine" else None
    cells = [
        [
            _cell(float(number), None if distances is None else float(distances[i, j]), int(group.n[i, j]))
            for j, number in enumerate(row)
        ]
        for i, row in enumerate(group.pooled[metric])
    ]
    columns = (Column("", names=True), *(Column(str(number + 1)) for number in range(len(names))))
    rows = [[f"{number + 1} {name}", *cells[number]] for number, name in enumerate(names)]
    note = "; the column is the base" if metric == "relative_delta" else ""
    return Section(f"{title}{metric}, pooled over elements{note}", columns, rows)


def _cell(number: float, distance: float | None, tensors: int) -> str:
    return value(number, distance) if tensors else "-"


def _neighbours(group: Entries, metric: str, names: list[str], title: str) -> Section:
    """Of each checkpoint the nearest and the farthest, where a whole matrix would not be read."""
    numbers = group.pooled[metric].copy()
    np.fill_diagonal(numbers, np.nan)
    distances = group.pooled.get("cosine_distance") if metric == "cosine" else None
    away = -numbers if metric in _LIKENESS else numbers
    columns = (Column("checkpoint", names=True), Column("nearest"), Column(metric), Column("farthest"), Column(metric))
    rows = []
    for i, name in enumerate(names):
        cells = ["-"] * 4
        if not np.isnan(away[i]).all():
            near, far = int(np.nanargmin(away[i])), int(np.nanargmax(away[i]))
            cells = []
            for j in (near, far):
                distance = None if distances is None else float(distances[i, j])
                cells += [elide(f"{j + 1} {names[j]}", 30), value(float(numbers[i, j]), distance)]
        rows.append([f"{i + 1} {name}", *cells])
    return Section(f"{title}{metric}, pooled over elements; -o FILE.npz --format npz has all", columns, rows)


def _identical(matrix: Matrix, names: list[str]) -> list[Section]:
    found = matrix.identical
    if not found:
        return []
    lines = []
    for group in found[:_FEW]:
        who = ", ".join(names[number] for number in group.checkpoints[:_FEW])
        more = len(group.checkpoints) - _FEW
        who += f" and {more} more" if more > 0 else ""
        how = "the same bytes of one file" if group.same_file else "equal in every element"
        lines.append((0, f"{count(len(group.tensors), 'tensor')}, {count(group.elements, 'element')}, {how}: {who}"))
        some = ", ".join(plain(name) for name in group.tensors[:3])
        lines.append((1, some + (f" and {len(group.tensors) - 3} more" if len(group.tensors) > 3 else "")))
    if len(found) > _FEW:
        lines.append((0, f"and {len(found) - _FEW:,} more groups; --format json lists them all"))
    return [Section("identical tensors", lines=lines)]


def _not_compared(matrix: Matrix, names: list[str]) -> list[Section]:
    lines: list[tuple[int, str]] = []
    if strangers := matrix.strangers:
        some = ", ".join(f"{names[i]} and {names[j]}" for i, j in strangers[:3])
        more = f" and {len(strangers) - 3:,} more pairs" if len(strangers) > 3 else ""
        lines.append((0, f"no tensor in common: {some}{more}"))
    alone = [standing for standing in matrix.ledger.standings if standing.status != "matched"]
    for (number, status), tensors in Counter((s.checkpoint, s.status) for s in alone).items():
        here = [s for s in alone if s.checkpoint == number and s.status == status]
        lines.append((0, f"{names[number]}: {count(tensors, 'tensor')} {status}"))
        lines += [(1, f"{plain(s.ref.name)}: {plain(s.reason)}") for s in here[:2]]
    if len(lines) > 8 * _FEW:
        left = len(lines) - 8 * _FEW
        lines = [*lines[: 8 * _FEW], (0, f"and {left:,} more lines; --format json lists them all")]
    return [Section("not compared", lines=lines)] if lines else []
