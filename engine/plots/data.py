"""What a picture shows, as arrays: pooled metrics of every other by group, and where the others stand on the x axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..metrics import METRICS, compute
from ..options import named
from ..results import OtherRows

__all__ = ["Axis", "pooled_by", "x_axis"]


@dataclass(frozen=True)
class Axis:
    """The x axis.

    Attributes:
        name: what it says: the extra column, or None for the order of the sweep.
        places: (M,) where each other stands, ascending.
        labels: what each is called.
        order: (M,) which of the others stands at each place.
        left_out: how many others have no place, because the extra column is empty for them.
    """

    name: str | None
    places: NDArray[np.float64]
    labels: tuple[str, ...]
    order: NDArray[np.intp]
    left_out: int = 0


def x_axis(others: Sequence[OtherRows], x: str | None, extra: Sequence[str]) -> Axis:
    """Where the others stand: by the numbers of an extra column, or one after the other.

    Raises:
        OptionError: there is no such column, it is not of numbers, or two others stand at one place.
    """
    labels = [str(other.entry["label"]) for other in others]
    if x is None:
        return Axis(None, np.arange(len(others), dtype=np.float64), tuple(labels), np.arange(len(others)))
    if not extra:
        raise OptionError(f"--x {x}: the sweep has no extra columns; leave --x out or sweep with a --manifest.")
    named(x, tuple(extra), "extra column", "--x")
    values = [other.entry["extra"].get(x) for other in others]
    numbers = np.array([_number(value, x) for value in values], dtype=np.float64)
    order = np.argsort(numbers, kind="stable")
    order = order[np.isfinite(numbers[order])]
    places = numbers[order]
    if len(twice := np.flatnonzero(np.diff(places) == 0)):
        one, two = labels[order[twice[0]]], labels[order[twice[0] + 1]]
        raise OptionError(
            f'"{one}" and "{two}" both have {x} {places[twice[0]]:g}; choose one run with --where, or leave --x out.'
        )
    return Axis(x, places, tuple(labels[index] for index in order), order, len(others) - len(order))


def _number(value: Any, x: str) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, (int, float)):
        return float(value)
    raise OptionError(f'--x {x}: "{value}" is no number; choose a column of numbers, or leave --x out.')


def pooled_by(others: Sequence[OtherRows], by: str | None, metric: str) -> tuple[list[Any], NDArray[np.float64]]:
    """A pooled metric of every group of every other.

    Args:
        by: "kind", "layer" or None for all tensors as one.
    Returns:
        The groups (kinds in the notebook's order without the unions, layers ascending with None last), and
        (groups, M) float64, NaN where an other has no tensor of a group.
    """
    named(metric, METRICS, "metric", "--metric")
    columns = [_pooled(other, by, metric) for other in others]
    met = dict.fromkeys(group for column in columns for group in column)
    groups = sorted(met, key=lambda group: (group is None, group)) if by == "layer" else list(met)
    return groups, np.array([[column.get(group, np.nan) for column in columns] for group in groups], dtype=np.float64)


def _pooled(other: OtherRows, by: str | None, metric: str) -> dict[Any, float]:
    found = [(key, rows) for key, rows in other.groups(by) if len(rows) and key not in ("all_bias", "all_weight")]
    if not found:
        return {}
    sums = other.sums
    with np.errstate(all="ignore"):
        joined = [
            np.stack([_total(part[rows], largest) for _, rows in found])
            for part, largest in ((sums.other_self, 4), (sums.base_self, 4), (sums.pair, 3))
        ]
    return dict(zip((key for key, _ in found), compute(*joined)[metric].tolist(), strict=True))


def _total(sums: NDArray[np.float64], largest: int) -> NDArray[np.float64]:
    total = sums.sum(axis=0)
    total[largest] = sums[:, largest].max()
    return total
