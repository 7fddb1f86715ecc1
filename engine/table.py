"""The answer to a comparison: a row for every tensor of both sides, and their summaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .inspection import Inspection
from .metrics import METRICS, compute
from .options import names
from .strict import exact
from .summary import COUNTS, summarise, summary

if TYPE_CHECKING:
    import pandas

    from .matching import Ledger, LedgerRow

__all__ = ["COLUMNS", "LEDGER_COLUMNS", "Comparison", "Inspection", "Row", "ledger_dict", "ledger_row_dict"]

LEDGER_COLUMNS = (
    "tensor",
    "base_tensor",
    "status",
    "rule",
    "kind",
    "layer",
    "shape",
    "dtype",
    "base_dtype",
    "rows",
    "elements",
)

# The columns of CSV, TSV, Parquet and pandas. The labels come first so that the tables of several comparisons can be
# put under each other.
COLUMNS = ("base", "other", *LEDGER_COLUMNS, *METRICS, "reason")

# What a metric is for two tensors that are equal throughout, where its formula says 0/0.
_OF_EQUALS = {"cosine": 1.0}

_NO_DIRECTION = ("cosine", "cosine_distance")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ledger with its metrics.

    Attributes:
        ledger: names, status, rule, kind, layer, shapes and dtypes; see `LedgerRow`.
        metrics: metric -> value, counts as int; empty unless the row is matched.
    """

    ledger: LedgerRow
    metrics: Mapping[str, float]

    def __getattr__(self, name: str) -> Any:
        # `row.tensor`, `row.status`, `row.delta`: what the two parts know, without a second list of their fields.
        if name in METRICS:
            return self.metrics.get(name, float("nan"))
        return getattr(object.__getattribute__(self, "ledger"), name)

    def to_dict(self, metrics: Iterable[str] = METRICS) -> dict[str, Any]:
        """The row as in the JSON's `tensors`; NaN and infinity, and metrics of what was not compared, are None."""
        out = ledger_row_dict(self.ledger)
        reason = out.pop("reason")
        return out | {name: exact(self.metrics.get(name)) for name in metrics} | {"reason": reason}


@dataclass(eq=False)
class Comparison:
    """Two checkpoints, what was compared of them, and how they differ.

    Attributes:
        ledger: every tensor of both sides; R of its rows are matched.
        other_self, base_self: (R, 6) float64: elements, Σ|x|, Σx, Σx², max|x|, non-finite elements.
        pair: (R, 5) float64: Σ|x-y|, Σ(x-y)², Σxy, max|x-y|, elements that differ.
        bytes_read: the bytes of the tensors that were read.
        seconds: how long that took.
    """

    ledger: Ledger
    other_self: NDArray[np.float64]
    base_self: NDArray[np.float64]
    pair: NDArray[np.float64]
    bytes_read: int = 0
    seconds: float = 0.0

    @property
    def base(self) -> str:
        """The label of the base."""
        return self.ledger.base.label

    @property
    def other(self) -> str:
        """The label of the other."""
        return self.ledger.other.label

    @property
    def totals(self) -> dict[str, int]:
        """How many tensors each side has, and how many rows of the ledger each status."""
        return dict(self.ledger.totals)

    @cached_property
    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """Metric -> (R,) float64, one value per matched row."""
        with np.errstate(all="ignore"):
            return compute(self.other_self, self.base_self, self.pair)

    @cached_property
    def rows(self) -> list[Row]:
        """Every row of the ledger, in its order, with its metrics."""
        columns = {name: self.metrics[name].tolist() for name in METRICS}
        columns |= {name: [int(value) for value in columns[name]] for name in COUNTS}
        out, index = [], 0
        for row in self.ledger.rows:
            if row.status == "matched":
                out.append(Row(row, {name: columns[name][index] for name in METRICS}))
                index += 1
            else:
                out.append(Row(row, {}))
        return out

    @property
    def matched(self) -> list[Row]:
        """The rows that were compared."""
        return [row for row in self.rows if row.status == "matched"]

    @cached_property
    def equal(self) -> NDArray[np.bool_]:
        """(R,) whether a matched row's tensors are equal in every element, all of them finite."""
        finite = (self.other_self[:, 5] == 0) & (self.base_self[:, 5] == 0)
        return finite & (self.pair[:, 4] == 0)

    @cached_property
    def empty(self) -> NDArray[np.bool_]:
        """(R,) whether a matched row has no elements."""
        return self.other_self[:, 0] == 0

    def undefined(self, metric: str) -> NDArray[np.bool_]:
        """(R,) where a metric of finite data is NaN or infinite because it does not exist: something over 0.

        A zero vector has no direction, an empty tensor no mean, and a change from zero no ratio to what was there.
        """
        nothing = self.empty
        if metric in _NO_DIRECTION:
            nothing = nothing | (self.other_self[:, 3] == 0) | (self.base_self[:, 3] == 0)
        elif metric == "relative_delta":
            nothing = nothing | (self.base_self[:, 3] == 0)
        finite = (self.other_self[:, 5] == 0) & (self.base_self[:, 5] == 0)
        return ~np.isfinite(self.metrics[metric]) & nothing & finite

    def settled(self, metric: str) -> NDArray[np.float64]:
        """(R,) the metric, with 0/0 settled for tensors that are equal throughout: cosine 1, everything else 0.

        For sorting and gates: two zero biases are equal, whatever their direction. What is still NaN is trouble.
        """
        values = self.metrics[metric]
        return np.where(np.isnan(values) & self.equal, _OF_EQUALS.get(metric, 0.0), values)

    def summary(self, by: str = "kind") -> list[dict[str, Any]]:
        """A dict per kind, layer or tensor: n, elements, each metric as mean over tensors and as pooled_<metric>.

        `max_delta` is the greatest of the group; `nonfinite` and `base_nonfinite` are totals. Values that do not exist
        are left out of the means: `cosine_n` and `relative_delta_n` say how many are in those of the two.

        Raises:
            OptionError: `by` is none of "kind", "layer", "tensor".
        """
        return summary(self, by)

    @cached_property
    def overall(self) -> dict[str, Any]:
        """The summary of all matched tensors as one group."""
        return summarise(self, np.arange(len(self.pair)))

    def to_dict(self, metrics: str | Iterable[str] | None = None) -> dict[str, Any]:
        """What `--format json` writes: strict JSON values, None for NaN, infinity and what was not compared.

        Args:
            metrics: the metrics that the tensors carry; all of them when None.
        Raises:
            OptionError: an unknown metric.
        """
        chosen = names(metrics, METRICS, "metric", "metrics") or METRICS
        mean_keys = ("mean_abs", "base_mean_abs", "delta", "cosine", "pooled_delta", "pooled_cosine")
        return {
            "base": self.base,
            "other": self.other,
            "rules": list(self.ledger.rules),
            "totals": self.totals,
            "kinds": {
                group["kind"]: {"n": group["n"]} | {key: exact(group[key]) for key in mean_keys}
                for group in self.summary("kind")
            },
            "tensors": [row.to_dict(chosen) for row in self.rows],
        }

    def to_pandas(self) -> pandas.DataFrame:
        """All rows as a data frame with the columns of the CSV; NaN where a row was not compared.

        Raises:
            OptionError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            from .errors import OptionError

            raise OptionError("to_pandas() needs pandas; install weighbridge[pandas].") from error
        records = [
            {"base": self.base, "other": self.other, **ledger_row_dict(row.ledger), **row.metrics} for row in self.rows
        ]
        frame = pd.DataFrame(records, columns=list(COLUMNS))
        floats = {name: "float64" for name in METRICS if name not in COUNTS}
        return frame.astype(floats | {"layer": "Int64", "elements": "int64"} | dict.fromkeys(COUNTS, "Int64"))

    def __repr__(self) -> str:
        from .report.text import size, value

        whole, totals = self.overall, self.totals
        return (
            f"Comparison({self.other!r} against {self.base!r})\n"
            f"  matched {totals['matched']} of {totals['other']} tensors (the base has {totals['base']}), "
            f"{whole['elements']:,} elements, {size(self.bytes_read)} read\n"
            f"  over tensors  delta {value(whole['delta'])}  "
            f"cosine {value(whole['cosine'], whole['cosine_distance'])}  max_delta {value(whole['max_delta'])}\n"
            f"  pooled        delta {value(whole['pooled_delta'])}  "
            f"cosine {value(whole['pooled_cosine'], whole['pooled_cosine_distance'])}  "
            f"relative_delta {value(whole['pooled_relative_delta'])}"
        )

    def _repr_html_(self) -> str:
        from .report.html_table import comparison_html

        return comparison_html(self)


def ledger_row_dict(row: LedgerRow) -> dict[str, Any]:
    """A row of the ledger under its column names; `shape` is the other's, or the base's where only that is there."""
    there = row.other if row.other is not None else row.base
    return {
        "tensor": row.tensor,
        "base_tensor": row.base_tensor,
        "status": row.status,
        "rule": row.rule,
        "kind": row.kind,
        "layer": row.layer,
        "shape": list(there.shape) if there is not None else [],
        "dtype": row.other.dtype if row.other is not None else "",
        "base_dtype": row.base.dtype if row.base is not None else "",
        "rows": list(row.rows) if row.rows is not None else None,
        "elements": int(row.elements),
        "reason": row.reason,
    }


def ledger_dict(ledger: Ledger) -> dict[str, Any]:
    """What `weighbridge match --format json` writes: the comparison's object without kinds and metrics."""
    return {
        "base": ledger.base.label,
        "other": ledger.other.label,
        "rules": list(ledger.rules),
        "totals": dict(ledger.totals),
        "tensors": [ledger_row_dict(row) for row in ledger.rows],
    }
