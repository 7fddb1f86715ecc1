"""A document drawn for a terminal, or as plain text where there is none; imported only when a table is printed."""

from __future__ import annotations

import io

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .document import Column, Document, Section
from .text import elide

__all__ = ["draw"]

_GAP = 2
_SHORTEST_NAME = 20


def draw(document: Document, width: int | None = None, colour: bool = False) -> str:
    """The document as text, ending in a newline.

    Args:
        width: the terminal's columns; names are elided in the middle and wide tables split so that lines fit. None
            (no terminal): every name in full, lines as long as they are.
        colour: whether ANSI styles may be used.
    """
    sheet = _Sheet(width, colour)
    for index, line in enumerate(document.heading):
        sheet.line(line, "bold" if index == 0 else "")
    for section in document.sections:
        sheet.line("")
        sheet.line(section.title, "bold cyan")
        sheet.table(section)
        for depth, line in section.lines:
            sheet.line("  " * depth + line)
    if document.footer:
        sheet.line("")
    for line in document.footer:
        sheet.line(line, "dim")
    return sheet.text()


class _Sheet:
    def __init__(self, width: int | None, colour: bool) -> None:
        self.width = width
        self.out = io.StringIO()
        self.console = Console(
            file=self.out,
            width=width or 1_000_000,
            force_terminal=colour,
            color_system="standard" if colour else None,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
        )

    def text(self) -> str:
        return "".join(f"{line.rstrip()}\n" for line in self.out.getvalue().splitlines())

    def line(self, text: str, style: str = "") -> None:
        # `fold` breaks a name that is longer than the terminal instead of hiding its end.
        self.console.print(Text(text, style=style, overflow="fold"))

    def table(self, section: Section) -> None:
        if not section.columns:
            return
        widths = [
            max([cell_len(column.title), *(cell_len(row[index]) for row in section.rows)])
            for index, column in enumerate(section.columns)
        ]
        if self._too_wide_for_its_names(section.columns, widths):
            for row in section.rows:
                self.line(row[0])
                self.line("  " + "  ".join(row[1:]))
            return
        for part, limits in self._parts(section.columns, widths):
            table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
            for index in part:
                justify = "left" if section.columns[index].names else "right"
                table.add_column(Text(section.columns[index].title), justify=justify, no_wrap=True)  # type: ignore[arg-type]
            for row in section.rows:
                table.add_row(*(Text(elide(row[index], limits[index])) for index in part))
            needed = sum(min(widths[index], limits[index] or widths[index]) + _GAP for index in part)
            # A terminal narrower than one name and one number wraps the line itself; rich would cut the number.
            self.console.print(table, width=max(needed, self.width or 0), crop=False, no_wrap=True, overflow="ignore")

    def _too_wide_for_its_names(self, columns: tuple[Column, ...], widths: list[int]) -> bool:
        """Whether two names do not fit beside each other: a row then takes two lines, and no name is elided."""
        several = sum(column.names for column in columns) > 1
        return several and self.width is not None and sum(width + _GAP for width in widths) - _GAP > self.width

    def _parts(self, columns: tuple[Column, ...], widths: list[int]) -> list[tuple[list[int], dict[int, int | None]]]:
        """How to cut a table that is too wide: the columns of each piece, the names first, and how long they may be."""
        everything = list(range(len(columns)))
        total = sum(width + _GAP for width in widths) - _GAP
        if self.width is None or total <= self.width:
            return [(everything, dict.fromkeys(everything))]
        name, *numbers = everything
        shortest = min(widths[name], _SHORTEST_NAME)
        parts: list[list[int]] = [[]]
        used = shortest
        for index in numbers:
            if parts[-1] and used + _GAP + widths[index] > self.width:
                parts.append([])
                used = shortest
            parts[-1].append(index)
            used += _GAP + widths[index]
        out = []
        for part in parts:
            room = self.width - sum(_GAP + widths[index] for index in part)
            out.append(([name, *part], {**dict.fromkeys(part), name: max(room, shortest)}))
        return out
