"""The readable report on one checkpoint: its tensors, dtypes, sizes and statistics."""

from __future__ import annotations

from ..inspection import STATISTICS, Inspection
from .document import Column, Document, Section
from .text import count, plain, size, speed, value

__all__ = ["inspection_document"]


def inspection_document(inspection: Inspection) -> Document:
    """Totals, a table by dtype, a table of all tensors, and the statistics where they were computed."""
    checkpoint, totals = inspection.checkpoint, inspection.totals
    heading = [
        plain(checkpoint.label),
        f"{checkpoint.format}, {count(len(checkpoint.files), 'file')}, {count(totals['tensors'], 'tensor')}, "
        f"{count(totals['elements'], 'element')}, {size(totals['bytes'])}",
    ]
    dtypes = [
        [plain(dtype), f"{counts['tensors']:,}", f"{counts['elements']:,}", size(counts["bytes"])]
        for dtype, counts in inspection.dtypes.items()
    ]
    by_dtype = (Column("dtype", names=True), Column("tensors"), Column("elements"), Column("bytes"))
    sections = [Section("by dtype", by_dtype, dtypes)]
    tensors = [
        [plain(row["tensor"]), plain(row["dtype"]), "x".join(map(str, row["shape"])) or "scalar", size(row["bytes"])]
        for row in inspection.rows
    ]
    of_tensors = (Column("tensor", names=True), Column("dtype"), Column("shape"), Column("bytes"))
    sections.append(Section("tensors", of_tensors, tensors))
    footer = []
    if inspection.self_sums is not None:
        of_statistics = (Column("tensor", names=True), *(Column(name) for name in STATISTICS))
        rows = [[plain(row["tensor"]), *(value(row[name]) for name in STATISTICS)] for row in inspection.rows]
        sections.append(Section("statistics", of_statistics, rows))
        footer.append(speed(inspection.bytes_read, inspection.seconds))
    if checkpoint.tied:
        lines = [(1, " = ".join(plain(name) for name in group)) for group in checkpoint.tied]
        sections.append(Section("tied: names of the same bytes", lines=lines))
    return Document(heading, sections, footer)
