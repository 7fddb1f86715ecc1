"""Where results go: a file that is written whole at the end, or standard output as they come."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import OutputError
from ..table import Comparison
from .files import check_writable, write_whole
from .view import View

__all__ = ["FORMATS", "ComparisonSink", "Output", "drawer"]

FORMATS = ("table", "notebook", "json", "csv", "tsv", "markdown")


class Output:
    """Text goes in piece by piece; it is on standard output at once, or in the file after `close`.

    A reader that closes the pipe (`| head`) has read enough: what follows is dropped, and that is no error.

    Args:
        path: the file; None or "-" is standard output.
    Raises:
        OutputError: the file cannot be written, found out before any work is done.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None or os.fspath(path) == "-" else Path(path)
        self.pieces: list[str] = []
        self.closed_by_reader = False
        if self.path is not None:
            check_writable(self.path)

    @property
    def width(self) -> int | None:
        """The terminal's columns, None where the output is no terminal."""
        if self.path is None and sys.stdout is not None and sys.stdout.isatty():
            from shutil import get_terminal_size

            return max(get_terminal_size().columns, 40)
        return None

    @property
    def colour(self) -> bool:
        """Whether ANSI styles may be used: on a terminal that can, unless NO_COLOR is set."""
        return self.width is not None and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def write(self, text: str) -> None:
        """Takes the next piece.

        Raises:
            OutputError: standard output could not take it.
        """
        if self.path is not None:
            self.pieces.append(text)
        elif not self.closed_by_reader:
            _to_stdout(self, text)

    def close(self) -> None:
        """Writes the file.

        Raises:
            OutputError: it could not be written; nothing of it is left.
        """
        if self.path is not None and self.pieces:
            write_whole(self.path, "".join(self.pieces))


def _to_stdout(output: Output, text: str) -> None:
    if sys.stdout is None:
        raise OutputError("standard output is closed; open it or choose a file with -o.")
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        output.closed_by_reader = True
        _silence_stdout()
    except OSError as error:
        _silence_stdout()
        raise OutputError(
            f"standard output could not take the result: {error.strerror or error}; choose a file with -o."
        ) from error


def _silence_stdout() -> None:
    # What is still buffered would raise again when the interpreter flushes at exit.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def drawer(output: Output) -> Callable[..., str]:
    """`terminal.draw` with the output's width and colours."""
    from .terminal import draw

    return lambda document: draw(document, output.width, output.colour)


class ComparisonSink:
    """Comparisons in, one format out; each is out as soon as it can be, so that a later failure loses nothing.

    Args:
        output: where the text goes.
        fmt: one of FORMATS.
        view: what is shown.
        several: whether JSON is a list.
    """

    def __init__(self, output: Output, fmt: str, view: View, several: bool) -> None:
        self.output, self.fmt, self.view, self.several = output, fmt, view, several
        self.count = 0
        self.objects: list[dict] = []

    def add(self, comparison: Comparison) -> None:
        """Takes the next comparison."""
        if self.fmt == "json":
            from .json_text import comparison_object

            self.objects.append(comparison_object(comparison, self.view))
        else:
            self.output.write(self._text(comparison))
        self.count += 1

    def state(self, wanted: int) -> str:
        """What there is of the output before it is closed, for who must leave early."""
        if self.output.path is not None:
            return f"{self.output.path} was not written; run the same command again."
        printed = 0 if self.fmt == "json" else self.count
        return f"{printed} of {wanted} comparisons were printed; run the same command again for the rest."

    def close(self) -> None:
        """Ends the output; without any comparison there is none."""
        if self.objects:
            from .json_text import dump

            self.output.write(dump(self.objects if self.several else self.objects[0]))
        self.output.close()

    def _text(self, comparison: Comparison) -> str:
        if self.fmt == "notebook":
            from .notebook import notebook_text

            return notebook_text(comparison)
        if self.fmt in ("csv", "tsv"):
            from .delimited import comparison_delimited

            return comparison_delimited(comparison, self.view, self.fmt, header=self.count == 0)
        from .overview import comparison_document

        between = "\n" if self.count else ""
        document = comparison_document(comparison, self.view)
        if self.fmt == "markdown":
            from .markdown import markdown

            return between + markdown(document)
        return between + drawer(self.output)(document)
