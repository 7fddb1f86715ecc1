"""Tables for notebooks: what Jupyter shows of a Comparison or an Inspection. Everything from a file is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .document import Column, Document, Section

if TYPE_CHECKING:
    from ..inspection import Inspection
    from ..table import Comparison

__all__ = ["comparison_html", "draw_html", "inspection_html"]


def comparison_html(comparison: Comparison) -> str:
    """The same report as on the terminal."""
    from .overview import comparison_document

    return draw_html(comparison_document(comparison))


def inspection_html(inspection: Inspection) -> str:
    """The same tables as on the terminal."""
    from .contents import inspection_document

    return draw_html(inspection_document(inspection))


def draw_html(document: Document) -> str:
    """The document as one <div> without scripts and without styles that reach outside it."""
    title, *rest = document.heading
    parts = [f"<p><strong>{escape(title)}</strong><br>{'<br>'.join(map(escape, rest))}</p>"]
    for section in document.sections:
        parts.append(f"<p><strong>{escape(section.title)}</strong></p>")
        if section.columns:
            parts.append(_table(section))
        if section.lines:
            parts.append(f"<ul>{''.join(f'<li>{escape(line)}</li>' for _, line in section.lines)}</ul>")
    parts += [f"<p><small>{escape(line)}</small></p>" for line in document.footer]
    return f'<div class="weighbridge">{"".join(parts)}</div>'


def _table(section: Section) -> str:
    head = "".join(_cell("th", column.title, column) for column in section.columns)
    rows = "".join(
        f"<tr>{''.join(_cell('td', cell, column) for cell, column in zip(row, section.columns, strict=True))}</tr>"
        for row in section.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(tag: str, text: str, column: Column) -> str:
    return f'<{tag} style="text-align:{"left" if column.names else "right"}">{escape(text)}</{tag}>'
