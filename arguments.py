"""The arguments that commands share: their choices, their help, and how they are spelt.

Those that go to the engine together are one group, a parameter of a command like any other: `grouped` shows typer the
options that it holds.
"""

import inspect
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

__all__ = [
    "MATCHING",
    "RUNNING",
    "By",
    "CompareFormat",
    "Format",
    "LineageFormat",
    "Matching",
    "MatrixFormat",
    "OutputOption",
    "PlotKind",
    "QuietOption",
    "Running",
    "ThreadsOption",
    "grouped",
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


ThreadsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads; all cores by default. Results do not depend on it.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there, whole or not at all.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", "--no-progress", help="No progress on stderr.")]


class Matching(NamedTuple):
    """Which tensors are compared with which."""

    rules: Annotated[
        str,
        typer.Option(help="auto: chosen from names and configs; none: names as they stand; or a list: volta,legacy."),
    ] = "auto"
    map: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="REGEX=>REPLACEMENT", help="A renaming of your own; repeatable."),
    ] = None
    rules_file: Annotated[Path | None, typer.Option(help="Renamings of your own, as TOML.")] = None
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Compare only tensors whose name matches; repeatable.")
    ] = None
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Leave out tensors whose name matches; repeatable.")
    ] = None
    rows: Annotated[
        Rows, typer.Option(help="Embeddings of different length: compare the rows that both have, or none of them.")
    ] = Rows.overlap

    def keywords(self) -> dict[str, Any]:
        """As the engine takes them."""
        several = {name: getattr(self, name) or () for name in ("map", "include", "exclude")}
        return self._asdict() | several | {"rows": self.rows.value}


class Running(NamedTuple):
    """How bytes are read, and where sums are computed."""

    threads: ThreadsOption = None
    io: Annotated[
        Io,
        typer.Option(help="How bytes are read: memory maps, pread into buffers, or whichever suits the file system."),
    ] = Io.auto
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE",
            help="Where sums are computed: auto, cpu, cuda (all GPUs), cuda:N, xpu, mps, or portable (plain torch "
            "operations).",
        ),
    ] = "auto"
    device_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The most memory used on each device, as in 8GB; what is free, less a margin, by default.",
        ),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """As the engine takes them."""
        return self._asdict() | {"io": self.io.value}


MATCHING, RUNNING = Matching(), Running()  # what holds where no option is given


def grouped(body: Callable[..., Any]) -> Callable[..., Any]:
    """A function that takes the options of each group among its parameters, one by one, for one that takes groups."""
    parameters = inspect.signature(body).parameters
    groups: dict[str, Any] = {
        name: p.annotation for name, p in parameters.items() if p.annotation in (Matching, Running)
    }

    @wraps(body)
    def taking_options(**options: Any) -> Any:
        for name, group in groups.items():
            options[name] = group(**{field: options.pop(field) for field in group._fields})
        return body(**options)

    spelt = []
    for name, parameter in parameters.items():
        group = groups.get(name)
        if group is None:
            spelt.append(parameter)
            continue
        for field in group._fields:
            default, annotation = group._field_defaults[field], group.__annotations__[field]
            spelt.append(inspect.Parameter(field, parameter.kind, default=default, annotation=annotation))
    taking_options.__signature__ = inspect.Signature(spelt)  # type: ignore[attr-defined]
    taking_options.__annotations__ = {parameter.name: parameter.annotation for parameter in spelt}
    return taking_options
