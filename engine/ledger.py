"""The ledger: every tensor of two checkpoints, each exactly once, and what became of it."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .checkpoint import Checkpoint, TensorRef
from .errors import NothingMatchedError

__all__ = ["STATUSES", "Ledger", "LedgerRow", "require_matches"]

STATUSES = ("matched", "only_in_other", "only_in_base", "shape_mismatch", "outside_base_model", "skipped")


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What became of one tensor, or of one pair.

    Attributes:
        tensor: its name in the other, or None.
        base_tensor: its name in the base, or None.
        status: one of `STATUSES`.
        rule: what decided it: "name" (equal as they stand), or the rules that brought the names together.
        kind: what it is, by its name in the other (`naming.kind_of`).
        layer: the numbered block that it stands in.
        other, base: where it lies on either side.
        rows: (leading rows compared, rows of the larger) where the rows rule applied.
        reason: one phrase for why it was not compared, "" where it was.
    """

    tensor: str | None
    base_tensor: str | None
    status: str
    rule: str
    kind: str
    layer: int | None
    other: TensorRef | None
    base: TensorRef | None
    rows: tuple[int, int] | None
    reason: str

    @property
    def elements(self) -> int:
        """The elements that take part; of a tensor that does not, those that it has."""
        ref = self.other if self.other is not None else self.base
        assert ref is not None
        if self.rows is not None:
            return self.rows[0] * math.prod(ref.shape[1:])
        return ref.elements


@dataclass(frozen=True)
class Ledger:
    """Every tensor of both sides, each exactly once.

    Attributes:
        base, other: the two checkpoints.
        rows: in the order of the other's file; tensors of the base that have no pair come last, in the base's order.
        rules: the rules that brought names together, set heads apart or trimmed rows.
        tried: the rules that might have.
        notes: one phrase for each choice worth telling.
    """

    base: Checkpoint
    other: Checkpoint
    rows: tuple[LedgerRow, ...]
    rules: tuple[str, ...]
    tried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def matched(self) -> tuple[LedgerRow, ...]:
        """The rows of the pairs that are compared."""
        return tuple(row for row in self.rows if row.status == "matched")

    @property
    def totals(self) -> dict[str, int]:
        """Base-model tensors of either side, then rows by status."""
        inside = [row for row in self.rows if row.status != "outside_base_model"]
        status = Counter(row.status for row in self.rows)
        return {
            "other": sum(row.other is not None for row in inside),
            "base": sum(row.base is not None for row in inside),
            **{name: status[name] for name in STATUSES},
        }

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.totals.items() if count and name in STATUSES)
        return f"Ledger({self.other.label!r} against {self.base.label!r}: {counts or 'no tensors'})"


_NEAREST_NAMES, _NEAREST_POOL = 3, 2000  # difflib takes about 20 microseconds for a pair of names


def require_matches(ledger: Ledger) -> Ledger:
    """The ledger itself, if any of its tensors is compared.

    Raises:
        NothingMatchedError: none is; tells the rules that were tried, what was left out and why, and which of the other
            names come nearest to each other.
    """
    if ledger.matched:
        return ledger
    base, other = ledger.base, ledger.other
    parts = [
        f"no tensor of {other.label} ({len(other.tensors)}) matches one of {base.label} ({len(base.tensors)})",
        f"rules tried: {', '.join(ledger.tried) or 'none'}",
    ]
    for status in ("shape_mismatch", "skipped"):
        if rows := [row for row in ledger.rows if row.status == status]:
            parts.append(f'{len(rows)} {status}, such as "{rows[0].tensor or rows[0].base_tensor}": {rows[0].reason}')
    alone = [row for row in ledger.rows if row.status in ("only_in_other", "only_in_base", "outside_base_model")]
    names = [row.tensor for row in alone if row.tensor is not None]
    base_names = [row.base_tensor for row in alone if row.base_tensor is not None]
    if (names and base_names) or len(parts) == 2:
        near = [f'"{name}" and "{close}"' for name, close in _nearest(names, base_names)]
        parts.append(f"nearest names: {', '.join(near)}" if near else "no two names are alike")
        parts.append("rename them with --map 'REGEX=>REPLACEMENT' if they belong together")
    raise NothingMatchedError("; ".join(parts) + ".")


def _nearest(names: Sequence[str], base_names: Sequence[str]) -> list[tuple[str, str]]:
    pool = list(base_names[:_NEAREST_POOL])
    step = max(1, len(names) // 8)
    scored = []
    for name in names[::step][:8]:
        for close in difflib.get_close_matches(name, pool, n=1, cutoff=0.4):
            scored.append((difflib.SequenceMatcher(None, name, close).ratio(), name, close))
    return [(name, close) for _, name, close in sorted(scored, key=lambda item: -item[0])[:_NEAREST_NAMES]]
