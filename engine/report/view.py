"""What of a comparison is shown: grouping, order, how many, which metrics. One meaning for every format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..metrics import METRICS
from ..options import named, names
from ..summary import GROUPINGS
from ..table import Comparison

__all__ = ["ASCENDING", "CHANGE_METRICS", "DEFAULT_SORT", "View", "order", "ranked"]

DEFAULT_SORT = "relative_delta"

# The smaller the cosine, the more has changed; of everything else the greater.
ASCENDING = frozenset({"cosine"})

# These say how far two tensors are apart; the rest says how large they are.
CHANGE_METRICS = frozenset({"delta", "cosine", "cosine_distance", "l2_delta", "relative_delta", "max_delta", "changed"})


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a comparison.

    Attributes:
        by: "kind", "layer" or "tensor"; None leaves it to the format (tables: kind, CSV and TSV: tensor).
        sort: the metric by which tensors are ordered, most changed first; None: the format's own order.
        top: how many tensors (lines in CSV and TSV) are shown, 0 for all; None leaves it to the format.
        metrics: the metrics that are shown; None leaves it to the format.
    """

    by: str | None = None
    sort: str | None = None
    top: int | None = None
    metrics: tuple[str, ...] | None = None

    @classmethod
    def checked(
        cls,
        by: str | None = None,
        sort: str | None = None,
        top: int | None = None,
        metrics: str | Iterable[str] | None = None,
    ) -> View:
        """A view of what a user typed.

        Raises:
            OptionError: an unknown grouping or metric, or a negative `top`.
        """
        if by is not None:
            named(by, GROUPINGS, "grouping", "--by")
        if sort is not None:
            named(sort, METRICS, "metric", "--sort")
        if top is not None and top < 0:
            raise OptionError(f"--top is {top}; give the number of tensors to show, or 0 for all of them.")
        return cls(by, sort, top, names(metrics, METRICS, "metric", "--metrics"))

    def tensors(self, comparison: Comparison) -> list[int]:
        """Indices of the matched rows to show: sorted where `sort` or `top` was given, cut after `top`."""
        if self.sort is None and not self.top:
            return list(range(len(comparison.pair)))
        return self.cut(ranked(comparison, self.sort or DEFAULT_SORT))

    def groups(self, comparison: Comparison, by: str) -> list[dict[str, Any]]:
        """The summary by kind or layer, sorted where `sort` was given."""
        groups = comparison.summary(by)
        if self.sort is None:
            return groups
        values = np.array([group[self.sort] for group in groups], dtype=np.float64)
        return [groups[index] for index in order(values, self.sort)]

    def cut(self, items: list[Any]) -> list[Any]:
        """The first `top` items; all of them where `top` is 0 or was not given."""
        return items[: self.top] if self.top else items


def order(values: NDArray[np.float64], metric: str) -> list[int]:
    """Indices with the most changed first; NaN before everything, equals in the order they came in."""
    keys = values if metric in ASCENDING else -values
    keys = np.where(np.isnan(keys), -np.inf, keys)
    return np.argsort(keys, kind="stable").tolist()


def ranked(comparison: Comparison, metric: str) -> list[int]:
    """Indices of all matched rows, most changed first."""
    return order(comparison.settled(metric), metric)
