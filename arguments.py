"""The arguments that commands share: their choices, their help, and how they are spelt."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "By",
    "CompareFormat",
    "DeviceMemoryOption",
    "DeviceOption",
    "ExcludeOption",
    "Format",
    "IncludeOption",
    "Io",
    "IoOption",
    "LineageFormat",
    "MapOption",
    "MatrixFormat",
    "OutputOption",
    "PlotKind",
    "QuietOption",
    "Rows",
    "RowsOption",
    "RulesFileOption",
    "RulesOption",
    "ThreadsOption",
]


class By(StrEnum):
    kind = "kind"
    layer = "layer"
    tensor = "tensor"


class Rows(StrEnum):
    overlap = "overlap"
    strict = "strict"


class Io(StrEnum):
    auto = "auto"
    map = "map"
    pread = "pread"


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    tsv = "tsv"
    markdown = "markdown"


class CompareFormat(StrEnum):
    table = "table"
    notebook = "notebook"
    json = "json"
    csv = "csv"
    tsv = "tsv"
    markdown = "markdown"


class LineageFormat(StrEnum):
    table = "table"
    json = "json"
    dot = "dot"


class MatrixFormat(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    tsv = "tsv"
    markdown = "markdown"
    npz = "npz"
    parquet = "parquet"


class PlotKind(StrEnum):
    both = "both"
    drift = "drift"
    heatmap = "heatmap"


RulesOption = Annotated[
    str,
    typer.Option(help="auto: chosen from names and configs; none: names as they stand; or a list: volta,legacy."),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="REGEX=>REPLACEMENT", help="A renaming of your own; repeatable."),
]
RulesFileOption = Annotated[Path | None, typer.Option(help="Renamings of your own, as TOML.")]
IncludeOption = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Compare only tensors whose name matches; repeatable.")
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Leave out tensors whose name matches; repeatable.")
]
RowsOption = Annotated[
    Rows, typer.Option(help="Embeddings of different length: compare the rows that both have, or none of them.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads; all cores by default. Results do not depend on it.")
]
IoOption = Annotated[
    Io, typer.Option(help="How bytes are read: memory maps, pread into buffers, or whichever suits the file system.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="Where sums are computed: auto, cpu, cuda (all GPUs), cuda:N, xpu, or portable (plain torch operations).",
    ),
]
DeviceMemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="The most memory used on each device, as in 8GB; what is free, less a margin, by default."
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there, whole or not at all.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", "--no-progress", help="No progress on stderr.")]
