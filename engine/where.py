"""Which others and tensors of a sweep are shown: `--where 'pooled_delta > 1e-3'`, `--where 'kind == all_bias'`.

A condition is `COLUMN OP VALUE` with the OPs of `--fail-if`. Conditions on label, source and extra columns choose
others, those on tensor, kind and layer choose the tensors that go into the numbers, those on a metric (or a pooled
metric, or `n`) choose the lines by their values. As in `--fail-if`, NaN makes a condition on a metric hold. Texts are
compared with == and != and may be GLOBs.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import OptionError
from .gate import Condition
from .metrics import METRICS
from .options import named
from .results import OtherRows
from .summary import UNIONS

__all__ = ["Filter"]

_FORM = re.compile(r"\s*(?P<column>[^<>=!]+?)\s*(?P<op>>=|<=|==|!=|>|<)\s*(?P<value>.*\S)\s*")
_OF_OTHERS, _OF_TENSORS = ("label", "source"), ("tensor", "kind", "layer")
_OF_LINES = ("n", *METRICS, *(f"pooled_{name}" for name in METRICS))


@dataclass(frozen=True)
class Filter:
    """Conditions that all must hold.

    Attributes:
        others, tensors, lines: the conditions by what they choose; each is (column, op, value as typed, text).
    """

    others: tuple[tuple[str, str, str, str], ...] = ()
    tensors: tuple[tuple[str, str, str, str], ...] = ()
    lines: tuple[tuple[str, str, str, str], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str], extra: Sequence[str]) -> Filter:
        """A filter of what was typed after --where.

        Args:
            extra: the names of the extra columns.
        Raises:
            OptionError: it is no condition, or there is no such column.
        """
        found: dict[str, list[tuple[str, str, str, str]]] = {"others": [], "tensors": [], "lines": []}
        for text in texts:
            match = _FORM.fullmatch(text)
            if match is None:
                raise OptionError(
                    f"--where {text!r} is not of the form 'COLUMN OP VALUE' with OP one of > >= < <= == !=, as in "
                    "'pooled_delta > 1e-3'."
                )
            of_others = (*_OF_OTHERS, *extra)
            column = named(match["column"], (*of_others, *_OF_TENSORS, *_OF_LINES), "column", f"--where {text!r}")
            value = match["value"].strip("'\"")
            part = "others" if column in of_others else "tensors" if column in _OF_TENSORS else "lines"
            condition = (column, match["op"], value, text)
            if column in (*_OF_OTHERS, "tensor", "kind"):
                _text_holds("", condition)
            elif column not in extra:
                _number(condition)
            found[part].append(condition)
        return cls(**{part: tuple(conditions) for part, conditions in found.items()})

    def apply(self, others: Sequence[OtherRows]) -> list[OtherRows]:
        """The others that are meant, with the tensors that are meant."""
        chosen = [other for other in others if all(_holds(_of_entry(other, c[0]), c) for c in self.others)]
        if not self.tensors:
            return chosen
        # Steps of a run have the same tensors: each distinct value is tested once.
        known: dict[tuple[Any, ...], bool] = {}
        out = []
        for other in chosen:
            keep = np.ones(len(other.kinds), dtype=bool)
            for condition in self.tensors:
                values = {"tensor": other.tensors, "kind": other.kinds, "layer": other.layers}[condition[0]].tolist()
                for value in set(values):
                    if (condition, value) not in known:
                        known[condition, value] = _holds(value, condition)
                keep &= np.array([known[condition, value] for value in values], dtype=bool)
            out.append(other.kept(keep))
        return out

    def shows(self, line: dict[str, Any]) -> bool:
        """Whether a line of a summary is meant; one of which --where left no tensors is not."""
        if self.tensors and not line["n"]:
            return False
        return all(_number(condition).holds(float(line[condition[0]])) for condition in self.lines)


def _of_entry(other: OtherRows, column: str) -> Any:
    return other.entry[column] if column in _OF_OTHERS else other.entry["extra"].get(column)


def _holds(value: Any, condition: tuple[str, str, str, str]) -> bool:
    if value is None:
        return False
    if isinstance(value, str):
        return _text_holds(value, condition)
    if isinstance(value, bool):
        return _text_holds(str(value).lower(), condition)
    return not math.isnan(value) and _number(condition).holds(float(value))


def _text_holds(value: str, condition: tuple[str, str, str, str]) -> bool:
    column, op, wanted, text = condition
    if op not in ("==", "!="):
        raise OptionError(f"--where {text!r} orders the texts of {column}; use == or !=, as in '{column} == a*'.")
    among = UNIONS.get(wanted, ()) if column == "kind" else ()
    return (value in among or value == wanted or fnmatch.fnmatchcase(value, wanted)) == (op == "==")


def _number(condition: tuple[str, str, str, str]) -> Condition:
    column, op, value, text = condition
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise OptionError(f"--where {text!r} compares with {value!r}, which is no number; write for example 1e-6.")
    return Condition(text, None, column, op, number)
