"""The readable report on a ledger: what is compared with what, and what is not, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .document import Column, Document, Section
from .text import count, plain

if TYPE_CHECKING:
    from ..matching import Ledger, LedgerRow

__all__ = ["facts", "heading", "ledger_document", "not_compared"]

_MEANINGS = {
    "only_in_other": "nothing in the base to compare with",
    "only_in_base": "nothing in the other to compare with",
    "shape_mismatch": "the shapes differ",
    "outside_base_model": "outside the base model (heads)",
    "skipped": "left out",
}


def heading(ledger: Ledger) -> list[str]:
    """What is compared with what, by which rules, and how much of it matched."""
    totals = ledger.totals
    rest = ", ".join(f"{totals[status]} {status}" for status in _MEANINGS if totals[status])
    matched = f"matched {totals['matched']} of {totals['other']} tensors (the base has {totals['base']})"
    return [
        f"{plain(ledger.other.label)} against {plain(ledger.base.label)}",
        f"rules: {', '.join(map(plain, ledger.rules)) or 'none, names as they stand'}",
        matched,
        *([f"not compared: {rest}"] if rest else []),
        *(f"note: {plain(note)}" for note in ledger.notes),
    ]


def ledger_document(ledger: Ledger) -> Document:
    """Every row of the ledger: the pairs in the other's file order, then what has no pair."""
    rows = []
    for row in ledger.matched:
        name, base_name = plain(row.tensor or ""), plain(row.base_tensor or "")
        rows.append([name, "=" if base_name == name else base_name, plain(row.rule)])
    columns = (Column("tensor", names=True), Column("base tensor", names=True), Column("rule"))
    sections = [Section("matched (= the same name)", columns, rows)] if rows else []
    return Document(heading(ledger), sections + not_compared(ledger, top=0))


def not_compared(ledger: Ledger, top: int) -> list[Section]:
    """A section for the tensors compared in part and one for each status but matched, `top` names each (0: all)."""
    sections = []
    if part := [row for row in ledger.matched if row.rows is not None]:
        lines = [f"{plain(row.tensor or '')}: rows {row.rows[0]} of {row.rows[1]}" for row in part if row.rows]
        sections.append(Section(f"compared in part: {count(len(part), 'tensor')}", lines=facts(lines, top)))
    for status, meaning in _MEANINGS.items():
        by_reason: dict[str, list[str]] = {}
        for row in ledger.rows:
            if row.status == status:
                by_reason.setdefault(row.reason, []).append(_name(row))
        if by_reason:
            sections.append(_by_reason(status, meaning, by_reason, top))
    return sections


def _by_reason(status: str, meaning: str, by_reason: Mapping[str, Sequence[str]], top: int) -> Section:
    """The names of one status; a reason that several share is said once, above them or, where all do, in the title."""
    total = sum(map(len, by_reason.values()))
    if len(by_reason) == 1:
        (reason, names), *_ = by_reason.items()
        return Section(f"not compared, {status} {total:,}: {plain(reason) or meaning}", lines=facts(names, top))
    section = Section(f"not compared, {status} {total:,}: {meaning}")
    for reason, names in by_reason.items():
        if len(names) > 1:
            section.lines += [(1, f"{plain(reason)} ({len(names):,}):"), *facts(names, top, depth=2)]
    alone = [f"{names[0]}: {plain(reason)}" for reason, names in by_reason.items() if len(names) == 1]
    section.lines += facts(alone, top)
    return section


def facts(lines: Sequence[str], top: int, depth: int = 1) -> list[tuple[int, str]]:
    """The first `top` lines, and how many more there are; all of them when `top` is 0."""
    shown = lines[:top] if top else lines
    out = [(depth, line) for line in shown]
    if more := len(lines) - len(shown):
        out.append((depth, f"and {more:,} more; --top 0 shows them all"))
    return out


def _name(row: LedgerRow) -> str:
    names = dict.fromkeys(plain(name) for name in (row.tensor, row.base_tensor) if name is not None)
    return " against ".join(names)
