"""A document as GitHub-flavoured Markdown, for pull requests and release notes."""

from __future__ import annotations

import re

from .document import Document, Section

__all__ = ["markdown"]

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")


def markdown(document: Document) -> str:
    """The document as Markdown, ending in a newline; names in tables are code, everything else is escaped text."""
    title, *rest = document.heading
    blocks = [f"### {_text(title)}", "  \n".join(map(_text, rest))]
    for section in document.sections:
        blocks.append(f"**{_text(section.title)}**")
        if section.columns:
            blocks.append(_table(section))
        if section.lines:
            blocks.append("\n".join(f"{'  ' * depth}- {_text(line)}" for depth, line in _outdented(section)))
    blocks += map(_text, document.footer)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _outdented(section: Section) -> list[tuple[int, str]]:
    # The first line of a list cannot be indented: Markdown would take it for a code block.
    least = min(depth for depth, _ in section.lines)
    return [(depth - least, line) for depth, line in section.lines]


def _table(section: Section) -> str:
    head = [_text(column.title) for column in section.columns]
    rule = [":--" if column.names else "--:" for column in section.columns]
    rows = [
        [_code(cell) if column.names else _text(cell) for column, cell in zip(section.columns, row, strict=True)]
        for row in section.rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _text(text: str) -> str:
    # Between letters "_" means nothing; escaping it there would only make names hard to read.
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", _SPECIAL.sub(r"\\\1", text))


def _code(text: str) -> str:
    if not text:
        return ""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")
