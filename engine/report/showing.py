"""A sweep's results to the screen, to a file, to a picture: what `weighbridge show` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..results import Results
from .sink import Output, drawer
from .sweep_lines import Lines, labels_of, lines_delimited, lines_document, lines_object
from .view import View

__all__ = ["draw_results", "print_results"]


def print_results(results: Results, output: Output, fmt: str, view: View, where: Sequence[str]) -> None:
    """Prints the results in one of `sink.FORMATS`.

    Raises:
        OptionError: a condition of `where` is none, or none for this format.
        OutputError: the file could not be written.
    """
    if fmt == "notebook":
        from .notebook import notebook_text

        for label in labels_of(results, where):
            output.write(notebook_text(results[label]))
        output.close()
        return
    lines = Lines.of(results, view, where)
    if fmt == "json":
        from .json_text import dump

        output.write(dump(lines_object(lines)))
    elif fmt in ("csv", "tsv"):
        output.write(lines_delimited(lines, fmt))
    elif fmt == "markdown":
        from .markdown import markdown

        output.write(markdown(lines_document(lines)))
    else:
        output.write(drawer(output)(lines_document(lines)))
    output.close()


def draw_results(
    results: Results, path: Path, view: View, where: Sequence[str], kind: str, metric: str, x: str | None
) -> None:
    """Draws the others that have a line, and of them the tensors that --where leaves; --top does not count.

    Raises:
        OptionError: there is nothing to draw, or `x` is no column of numbers.
        OutputError: the file could not be written.
    """
    from ..plots.figure import picture
    from .files import write_whole
    from .html_table import draw_html

    lines = Lines.of(results, view, where)
    labels = {line["label"] for line in lines.lines}
    others = [other for other in lines.others if other.entry["label"] in labels]
    fmt = path.suffix.lower()[1:]
    table = draw_html(lines_document(lines)) if fmt == "html" else ""
    write_whole(path, picture(results, others, fmt, kind=kind, metric=metric, x=x, table=table))
