"""Puts the recorded rows into README.md, between its two markers; with --check, says whether they are there already."""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from measuring.results import Row, recorded

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
README = Path(__file__).parent.parent / "README.md"


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown, a table for each machine, what was missed included."""
    by_machine: dict[str, list[Row]] = {}
    for row in rows:
        machine = row.machine
        title = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['kernel']}"
        by_machine.setdefault(title, []).append(row)
    parts = []
    for title, members in by_machine.items():
        lines = [
            f"{title}:",
            "",
            "| timed | seconds | against | seconds | ratio | asked for | ceiling of the machine |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in members:
            ours, theirs, ceiling = (row.seconds[name] for name in (row.subject, row.against, row.ceiling))
            met = "" if row.met else ", missed"
            cells = (
                _escape(row.subject),
                f"{ours:.3f}",
                _escape(row.against),
                f"{theirs:.3f}",
                f"**{row.ratio:.2f}**",
                f"{row.asked}{met}",
                f"{_escape(row.ceiling)}: {ceiling:.3f} s",
            )
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
        for stamp in sorted({_stamp(row) for row in members}):
            parts.append(stamp)
    return "\n\n".join(parts)


def replaced(text: str, rows: Iterable[Row]) -> str:
    """The text with what stands between the markers renewed."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"README.md must hold the lines {BEGIN} and {END} once each")
    between = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    return between.sub(lambda _: f"{BEGIN}\n{table(rows)}\n{END}", text)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _stamp(row: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row.versions.items())
    return f"Medians of {row.rounds} rounds in turn, {row.date}, commit {row.commit}; {versions}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when README.md is not up to date")
    arguments = parser.parse_args()
    old = README.read_text()
    new = replaced(old, recorded())
    if arguments.check:
        sys.exit(old != new)
    README.write_text(new)


if __name__ == "__main__":
    main()
