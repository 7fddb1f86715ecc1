"""Conditions that fail a release: `--fail-if 'max_delta > 1e-6'`.

A condition is `QUANTITY OP NUMBER` with OP one of > >= < <= == !=, and QUANTITY one of

- a metric (`max_delta`): tested on every matched tensor, holds if it holds for any of them;
- a kind's metric (`layer_norm_bias.delta`): tested on the kind's summary, so on the mean over its tensors
  (`max_delta`: the greatest; `nonfinite`: the total), or with `pooled_` before the metric on the pooled value;
- a pooled metric (`pooled_cosine`): tested on all matched tensors as one;
- a total (`only_in_base`, `matched` ...): tested on the ledger.

A release must not pass on NaN: a NaN makes any condition hold. The one exception is 0/0 between two tensors that are
equal in every element (both all zero, both empty): these count as what equal tensors are, cosine 1 and the rest 0. So
two zero biases pass `cosine < 0.999`, and a bias that was zero and is not any more fails it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError
from .metrics import METRICS
from .options import named
from .report.text import count, plain
from .report.view import order
from .summary import KINDS, UNIONS
from .table import Comparison

__all__ = ["TOTALS", "Condition", "Finding", "check", "parse"]

TOTALS = (
    "other",
    "base",
    "matched",
    "only_in_other",
    "only_in_base",
    "shape_mismatch",
    "outside_base_model",
    "skipped",
)

_POOLED = tuple(f"pooled_{name}" for name in METRICS)
_OPERATORS: dict[str, Any] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*(?:(?P<kind>\w+)\.)?(?P<quantity>\w+)\s*(?P<op>>=|<=|==|!=|>|<)\s*(?P<number>\S+)\s*")
_NAMED = 10  # tensors that a finding names; it says how many more there are


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition.

    Attributes:
        text: as it was typed.
        kind: the kind it is about, or None.
        quantity: a metric, a pooled metric or a total.
        op: the comparison.
        number: what is compared with.
    """

    text: str
    kind: str | None
    quantity: str
    op: str
    number: float

    def holds(self, measured: float) -> bool:
        """Whether a measured value makes the condition hold; NaN always does."""
        return math.isnan(measured) or bool(_OPERATORS[self.op](measured, self.number))


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition that holds.

    Attributes:
        condition: which.
        headline: what holds, of what, in one sentence.
        tensors: the tensors concerned, each with its value as text ("" where there is none), the worst first.
    """

    condition: Condition
    headline: str
    tensors: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [self.headline]
        lines += [f"  {name}{f'  {text}' if text else ''}" for name, text in self.tensors[:_NAMED]]
        if (more := len(self.tensors) - _NAMED) > 0:
            lines.append(f"  and {more:,} more")
        return "\n".join(lines)


def parse(text: str) -> Condition:
    """A condition from what was typed after --fail-if.

    Raises:
        OptionError: it is no condition, names no metric, kind or total that there is, or its number is none.
    """
    where = f"--fail-if {text!r}"
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise OptionError(
            f"{where} is not of the form 'METRIC OP NUMBER' with OP one of > >= < <= == !=, as in 'max_delta > 1e-6'."
        )
    kind, quantity, op = match["kind"], match["quantity"], match["op"]
    if kind is None:
        if quantity not in _POOLED and quantity not in TOTALS:
            named(quantity, METRICS + TOTALS, "metric or total", where)
    else:
        named(kind, KINDS, "kind", where)
        if quantity not in _POOLED:
            named(quantity, METRICS, "metric", where)
    try:
        number = float(match["number"])
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise OptionError(f"{where} compares with {match['number']!r}, which is no number; write for example 1e-6.")
    return Condition(text.strip(), kind, quantity, op, number)


def check(conditions: Iterable[Condition], comparison: Comparison) -> list[Finding]:
    """The conditions that hold for a comparison.

    Raises:
        OptionError: a condition is about a kind of which no tensor was compared, so that it cannot be tested.
    """
    return [finding for condition in conditions if (finding := _check(condition, comparison)) is not None]


def _check(condition: Condition, comparison: Comparison) -> Finding | None:
    if condition.kind is None and condition.quantity in TOTALS:
        return _check_total(condition, comparison)
    if condition.kind is None and condition.quantity in METRICS:
        return _check_tensors(condition, comparison)
    return _check_group(condition, comparison)


def _check_tensors(condition: Condition, comparison: Comparison) -> Finding | None:
    values = comparison.settled(condition.quantity)
    holding = [index for index in range(len(values)) if condition.holds(float(values[index]))]
    if not holding:
        return None
    of = f"{len(holding):,} of {count(len(values), 'matched tensor')}"
    return Finding(
        condition,
        _headline(condition, comparison, f"holds for {of}"),
        _worst_first(condition, comparison, condition.quantity, np.array(holding, dtype=np.intp)),
    )


def _check_group(condition: Condition, comparison: Comparison) -> Finding | None:
    metric = condition.quantity.removeprefix("pooled_")
    if condition.kind is None:
        rows = np.arange(len(comparison.pair))
        group = comparison.overall
    else:
        kinds = UNIONS.get(condition.kind, (condition.kind,))
        rows = np.array([i for i, row in enumerate(comparison.ledger.matched) if row.kind in kinds], dtype=np.intp)
        group = next((group for group in comparison.summary("kind") if group["kind"] == condition.kind), {"n": 0})
    if not group["n"]:
        raise OptionError(
            f"--fail-if {condition.text!r} cannot be tested: no tensor of kind {condition.kind} was compared "
            f"between {plain(comparison.other)} and {plain(comparison.base)}; leave the condition out."
        )
    measured = float(group[condition.quantity])
    settled = comparison.settled(metric)[rows]
    if np.isnan(measured) and bool(np.all(comparison.equal[rows])):
        measured = float(settled[0])  # all 0/0 of equal tensors: what each of them counts as
    if metric == condition.quantity:
        # The summary leaves what does not exist out of the mean (a zero vector's cosine is NaN, a change from zero
        # infinitely large beside it); a gate must not.
        left_out = settled[comparison.undefined(metric)[rows] & ~np.isfinite(settled)]
        measured = float(np.sum(left_out)) if len(left_out) else measured
    if not condition.holds(measured):
        return None
    return Finding(
        condition,
        _headline(condition, comparison, f"holds: it is {_exact(measured)} over {count(len(rows), 'tensor')}"),
        _worst_first(condition, comparison, metric, rows),
    )


def _check_total(condition: Condition, comparison: Comparison) -> Finding | None:
    total = comparison.totals[condition.quantity]
    if not condition.holds(total):
        return None
    if condition.quantity in ("other", "base"):
        rows = []
    elif condition.quantity == "matched":
        # Too few matched: the ones that did not are what the reader looks for.
        rows = [row for row in comparison.ledger.rows if row.status not in ("matched", "only_in_base")]
    else:
        rows = [row for row in comparison.ledger.rows if row.status == condition.quantity]
    tensors = [(plain(row.tensor or row.base_tensor or ""), row.reason) for row in rows]
    return Finding(
        condition,
        _headline(condition, comparison, f"holds: it is {total}"),
        tuple((name, plain(reason)) for name, reason in tensors),
    )


def _headline(condition: Condition, comparison: Comparison, what: str) -> str:
    return f"--fail-if {condition.text!r} {what} ({plain(comparison.other)} against {plain(comparison.base)})"


def _worst_first(
    condition: Condition, comparison: Comparison, metric: str, rows: NDArray[np.intp]
) -> tuple[tuple[str, str], ...]:
    values = comparison.settled(metric)[rows]
    # The direction of the condition, not of the metric: what fails `delta < 1` worst is the smallest delta.
    direction = "cosine" if condition.op in ("<", "<=") else "delta"
    ranks = order(values, direction) if condition.op not in ("==", "!=") else range(len(rows))
    matched = comparison.ledger.matched
    return tuple((plain(matched[rows[i]].tensor or ""), f"{metric} = {_exact(float(values[i]))}") for i in ranks)


def _exact(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
