"""Raw sums of all pairs -> N x N matrices of metrics, over any group of tensors.

Entry [i, j] is what `compare` says of checkpoint i against checkpoint j as the base: the same sums, added in the same
order (that of the file of i), through the same formulas. On the diagonal a checkpoint meets itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.wanted import Wanted
from .all_pairs import AllPairs
from .metrics import compute

__all__ = ["MATRIX_METRICS", "Entries", "entries"]

MATRIX_METRICS = ("delta", "cosine", "cosine_distance", "l2_delta", "relative_delta", "max_delta", "changed")

Floats = NDArray[np.float64]

_AT_ONCE = 1 << 20  # values of one metric; some thirty arrays of that size are held at a time
_NO_DIRECTION = ("cosine", "cosine_distance")


@dataclass(frozen=True, eq=False)
class Entries:
    """The matrices of one group of tensors.

    Attributes:
        n, elements: (N, N) int64, the tensors and elements that a pair is compared in.
        means: metric -> (N, N), the mean over the tensors (of `max_delta` the greatest), NaN where there are none.
        pooled: metric -> (N, N), all tensors taken as one.
    """

    n: NDArray[np.int64]
    elements: NDArray[np.int64]
    means: dict[str, Floats]
    pooled: dict[str, Floats]


def entries(found: AllPairs, tensors: NDArray[np.intp], metrics: Sequence[str] = MATRIX_METRICS) -> Entries:
    """The matrices of a group.

    Args:
        found: the raw sums.
        tensors: the numbers of the tensors of the group.
        metrics: which of `MATRIX_METRICS`.
    """
    count = len(found.labels)
    out = Entries(
        np.zeros((count, count), np.int64),
        np.zeros((count, count), np.int64),
        {metric: np.full((count, count), np.nan) for metric in metrics},
        {metric: np.full((count, count), np.nan) for metric in metrics},
    )
    for i, j, rows, pair in _alike(found, tensors):
        if not len(rows):
            continue
        step = max(1, _AT_ONCE // len(rows))
        for start in range(0, len(i), step):
            x, y = i[start : start + step], j[start : start + step]
            of_x, of_y = (found.selfs[rows[None, :], which[:, None]] for which in (x, y))  # (C, R, 6)
            at = None if pair is None else pair[start : start + step]
            between = _to_itself(of_x) if at is None else found.sums[rows[None, :], at[:, None]]
            if not found.wanted & Wanted.MAX_DIFF:
                _stand_in_for_maximum(between)
            out.n[x, y] = len(rows)
            out.elements[x, y] = of_x[..., 0].sum(axis=1)
            for metric, values in _means(of_x, of_y, between, metrics):
                out.means[metric][x, y] = values
            pooled = compute(_total(of_x, 4), _total(of_y, 4), _total(between, 3), metrics=metrics)
            for metric in metrics:
                out.pooled[metric][x, y] = pooled[metric]
    return out


def _alike(
    found: AllPairs, tensors: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp] | None]]:
    """(i, j, tensors in the order of i's file, pairs) of all (i, j) that are compared in the same tensors.

    Pairs is None for the diagonal.
    """
    count = len(found.labels)
    orders = _orders(found, tensors)
    first, second = found.pairs.T
    shared = found.compared[tensors].T  # (P, R)
    patterns, which = _distinct(shared)
    order_rows, order_of = _distinct(orders)
    for x, y in ((first, second), (second, first)):
        kind = which * len(order_rows) + order_of[x]
        for value in np.unique(kind):
            chosen = np.flatnonzero(kind == value)
            order, pattern = order_rows[value % len(order_rows)], patterns[value // len(order_rows)]
            yield x[chosen], y[chosen], tensors[order[pattern[order]]], chosen
    for number in range(count):
        here = _largest_parts(found, tensors, number)
        chosen = orders[number][here[orders[number]]]
        yield np.array([number]), np.array([number]), tensors[chosen], None


def _orders(found: AllPairs, tensors: NDArray[np.intp]) -> NDArray[np.intp]:
    """(N, R) of each checkpoint: the places within `tensors` in the order of its file; what it lacks comes last."""
    place = np.full((len(found.labels), len(tensors)), np.iinfo(np.int64).max)
    positions = [{name: at for at, name in enumerate(c.tensors)} for c in found.ledger.checkpoints]
    for r, k in enumerate(tensors.tolist()):
        for number, ref in found.tensors[k].refs.items():
            place[number, r] = positions[number][ref.name]
    return np.argsort(place, axis=1, kind="stable")


def _distinct(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The distinct rows of a matrix, and of each row which of them it is."""
    seen: dict[bytes, int] = {}
    which = np.array([seen.setdefault(row.tobytes(), len(seen)) for row in np.ascontiguousarray(rows)], np.intp)
    return rows[np.unique(which, return_index=True)[1]], which


def _largest_parts(found: AllPairs, tensors: NDArray[np.intp], number: int) -> NDArray[np.bool_]:
    """(R,) the tensors that a checkpoint has; of one that is several in the ledger, the one of most elements."""
    best: dict[str, int] = {}
    for r, k in enumerate(tensors.tolist()):
        tensor = found.tensors[k]
        if number in tensor.refs:
            name = tensor.refs[number].name
            if name not in best or tensor.elements > found.tensors[tensors[best[name]]].elements:
                best[name] = r
    out = np.zeros(len(tensors), bool)
    out[list(best.values())] = True
    return out


def _to_itself(selfs: Floats) -> Floats:
    """The pair sums of operands with themselves: nothing differs; NaN where a difference has no value."""
    out = np.zeros((*selfs.shape[:-1], 5))
    out[..., 2] = selfs[..., 3]
    out[selfs[..., 5] > 0] = np.nan
    return out


def _stand_in_for_maximum(between: Floats) -> None:
    """Pair sums without max|d| get Σ|d| or Σd² in its place, of which formulas ask only what holds of both.

    That is whether it is 0, infinite or NaN. Where float64 has not the range for that, max|d| is there.
    """
    other = np.where(np.isnan(between[..., 0]), between[..., 1], between[..., 0])
    between[..., 3] = np.where(np.isnan(between[..., 3]), other, between[..., 3])


_REDUCE: dict[str, Callable[..., Any]] = {"max_delta": np.max}


def _means(x: Floats, y: Floats, pair: Floats, metrics: Sequence[str]) -> Iterator[tuple[str, Floats]]:
    """Each metric of C pairs over R tensors; what does not exist is left out, as `Comparison.undefined` says."""
    values = compute(x, y, pair, metrics=metrics)
    finite = (x[..., 5] == 0) & (y[..., 5] == 0)
    empty = x[..., 0] == 0
    nothing = dict.fromkeys(_NO_DIRECTION, empty | (x[..., 3] == 0) | (y[..., 3] == 0))
    nothing["relative_delta"] = empty | (y[..., 3] == 0)
    for metric in metrics:
        column = np.ascontiguousarray(values[metric])
        left_out = ~np.isfinite(column) & nothing.get(metric, empty) & finite
        reduce = _REDUCE.get(metric, np.mean)
        out = np.full(len(column), np.nan)
        with np.errstate(all="ignore"):
            if not left_out.any():
                out[:] = reduce(column, axis=1)
            else:
                patterns, which = _distinct(left_out)
                for number, pattern in enumerate(patterns):
                    if not pattern.all():
                        here = which == number
                        out[here] = reduce(np.ascontiguousarray(column[here][:, ~pattern]), axis=1)
        yield metric, out


def _total(sums: Floats, maximum: int) -> Floats:
    """(C, R, S) added up over the tensors, the column `maximum` by its largest; as `metrics.pooled` does."""
    with np.errstate(all="ignore"):
        total: Floats = sums.sum(axis=1)
        total[:, maximum] = sums[:, :, maximum].max(axis=1, initial=0.0)
    return total
