"""Puts the recorded rows into README.md, between their markers; with --check, says whether they are there already."""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from measuring.accuracy import Errors, recorded_errors
from measuring.results import Row, recorded

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
ACCURACY_BEGIN, ACCURACY_END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
README = Path(__file__).parent.parent / "README.md"


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown, a table for each machine, what was missed included."""
    by_machine: dict[str, list[Row]] = {}
    for row in rows:
        by_machine.setdefault(_machine(row.machine), []).append(row)
    parts = []
    for title, members in by_machine.items():
        lines = [
            f"{title}:",
            "",
            "| question | timed | against | asked for | measured | | ceiling of the machine |",
            "|---|---|---|---|---|---|---|",
        ]
        before = None
        for row in members:
            ours, theirs, ceiling = (row.seconds[name] for name in (row.subject, row.against, row.ceiling))
            cells = (
                "" if row.question == before else _escape(row.in_words),
                f"{_escape(row.subject)}: {_seconds(ours)}",
                f"{_escape(row.against)}: {_seconds(theirs)}",
                _asked(row),
                f"**{row.ratio:.3g} ×**",
                "met" if row.met else "**missed**",
                f"{_escape(row.ceiling)}: {_seconds(ceiling)}",
            )
            before = row.question
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
        parts += sorted({_stamp(vars(row), f"Medians of {_rounds(members, row)} rounds in turn") for row in members})
    return "\n\n".join(parts)


def accuracy_table(rows: Iterable[Errors], stamp: dict[str, Any]) -> str:
    """The errors as Markdown: ours, torch's, and which sum was the worst."""
    lines = [
        "| data | dtype | elements | worst sum, relative error | torch's worst | cosine distance | torch's |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            _escape(row.case),
            row.dtype,
            f"{row.elements:,}",
            _error(row.sums) + (f" ({row.worst})" if row.worst else ""),
            _error(row.torch_sums) + (f" ({row.torch_worst})" if row.torch_worst else ""),
            _error(row.cosine_distance),
            _error(row.torch_cosine_distance),
        )
        lines.append("| " + " | ".join(cells) + " |")
    if stamp:
        lines += ["", _stamp(stamp, "torch in float32, in float64 for F64")]
    return "\n".join(lines)


def replaced(text: str, between: str, begin: str = BEGIN, end: str = END) -> str:
    """The text with what stands between two markers renewed."""
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"README.md must hold the lines {begin} and {end} once each")
    place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return place.sub(lambda _: f"{begin}\n{between}\n{end}", text)


def _asked(row: Row) -> str:
    sign, bound = row.asked.split()
    return f"≤ {bound} × its time" if sign == "<=" else f"≥ {bound} × its speed"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _error(error: float | None) -> str:
    if error is None:
        return ""
    if error == 0:
        return "0"
    return "∞" if error == float("inf") else f"{error:.0e}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _machine(machine: dict[str, Any]) -> str:
    gpu = f"{machine['gpu']}; " if "gpu" in machine else ""
    return f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['kernel']}"


def _rounds(members: list[Row], like: Row) -> str:
    """How many rounds the rows with this row's versions, commit and date are medians of: "3 to 21"."""
    rounds = sorted(
        {row.rounds for row in members if _stamp(vars(row), "") == _stamp(vars(like), "")},
    )
    return str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"


def _stamp(made: dict[str, Any], what: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return f"{what}, {made['date']}, commit {made['commit']}; {versions}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when README.md is not up to date")
    arguments = parser.parse_args()
    old = README.read_text()
    new = replaced(old, table(recorded()))
    new = replaced(new, accuracy_table(*recorded_errors()), ACCURACY_BEGIN, ACCURACY_END)
    if arguments.check:
        sys.exit(old != new)
    README.write_text(new)


if __name__ == "__main__":
    main()
