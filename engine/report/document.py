"""A report as data: tables and lines, before anybody draws them on a terminal, in Markdown or in HTML."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Column", "Document", "Section"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, and whether it holds names: they stand on the left and may be elided on a terminal."""

    title: str
    names: bool = False


@dataclass(slots=True)
class Section:
    """A title, a table (none when there are no columns), and lines under it, each with its depth (0, 1 or 2)."""

    title: str
    columns: tuple[Column, ...] = ()
    rows: list[list[str]] = field(default_factory=list)
    lines: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True)
class Document:
    """Lines at the head (the first is the title), sections, lines at the foot."""

    heading: list[str]
    sections: list[Section]
    footer: list[str] = field(default_factory=list)
