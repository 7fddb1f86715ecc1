"""Recorded errors: one JSON file with a row for each case, and who was measured against exact arithmetic."""

import datetime
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .results import ACCURACY, commit, machine, versions


@dataclass(frozen=True)
class Errors:
    """How far from exact arithmetic one case came out, here and in torch.

    Attributes:
        case: what data, in words.
        dtype: of both operands.
        elements: of each operand.
        sums: the largest relative error among the eleven sums (an exact sum of zero counts as met or not at all).
        worst: which sum that is; "" where all are exact.
        cosine_distance: the relative error of 1 - cosine; None where a vector has no direction or the distance is zero.
        torch_sums, torch_worst, torch_cosine_distance: the same of torch's operations in `torch_dtype`.
        torch_dtype: what torch computed in.
    """

    case: str
    dtype: str
    elements: int
    sums: float
    worst: str
    cosine_distance: float | None
    torch_sums: float
    torch_worst: str
    torch_cosine_distance: float | None
    torch_dtype: str


def relative_error(found: float, exact: float) -> float:
    """|found - exact| / |exact|; 0 where they are the same, infinite where only one is finite or the exact one is 0."""
    if found == exact or (math.isnan(found) and math.isnan(exact)):
        return 0.0
    comparable = exact != 0 and math.isfinite(exact) and math.isfinite(found)
    return abs(found - exact) / abs(exact) if comparable else math.inf


def largest_error(names: Sequence[str], found: Iterable[float], exact: Iterable[float]) -> tuple[float, str]:
    """The largest relative error and the name that goes with it."""
    errors = [
        (relative_error(f, e), name) for name, f, e in zip(names, map(float, found), map(float, exact), strict=True)
    ]
    error, name = max(errors, key=lambda pair: pair[0])
    return error, name if error else ""


def record_errors(rows: Sequence[Errors], path: Path = ACCURACY) -> None:
    """Writes the rows, in the place of those that were there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        # JSON has no infinity: it is written as a string, which float() reads again.
        "rows": [
            {key: str(value) if value == math.inf else value for key, value in asdict(row).items()} for row in rows
        ],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def recorded_errors(path: Path = ACCURACY) -> tuple[list[Errors], dict[str, Any]]:
    """The rows, and where and with what they came about; nothing where nothing was recorded."""
    if not path.exists():
        return [], {}
    document = json.loads(path.read_text())
    rows = [
        Errors(**{key: math.inf if value == "inf" else value for key, value in row.items()})
        for row in document.pop("rows")
    ]
    return rows, document
