"""All pairs of N checkpoints as they are read: matrices over all tensors and by group, and what is written of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .all_pairs import AllPairs
from .entries import Entries, entries
from .identical import Identical, identical
from .joint import JointLedger
from .options import named
from .strict import exact
from .summary import GROUPINGS, KINDS, UNIONS
from .task_vectors import TaskVectors

__all__ = ["TASK_COSINE", "Matrix"]

TASK_COSINE = "task_cosine"


@dataclass(eq=False)
class Matrix:
    """All pairs of N checkpoints.

    Every matrix is (N, N) float64; its entry [i, j] is what `compare` says of checkpoint i with checkpoint j as the
    base on the same device, bit for bit, and NaN where the two have no tensor in common.

    Attributes:
        sums: the joint ledger, and the raw sums of every tensor, checkpoint and pair.
        metrics: the metrics that were asked for.
        tasks: the products of task vectors, where `task_cosine` is among them.
    """

    sums: AllPairs
    metrics: tuple[str, ...]
    tasks: TaskVectors | None = None

    @property
    def ledger(self) -> JointLedger:
        """Every tensor of every checkpoint, and who shares it."""
        return self.sums.ledger

    @property
    def labels(self) -> tuple[str, ...]:
        """What the N checkpoints are called."""
        return self.sums.labels

    @property
    def base(self) -> str | None:
        """The label of the base that task vectors start from, if there is one."""
        return None if self.ledger.base is None else self.labels[self.ledger.base]

    @property
    def bytes_read(self) -> int:
        """The bytes that were read: those of every file once, and of tensors whose task vectors asked for it again."""
        return self.sums.bytes_read + (self.tasks.bytes_read if self.tasks else 0)

    @property
    def seconds(self) -> float:
        """How long reading and computing took."""
        return self.sums.seconds

    @cached_property
    def overall(self) -> Entries:
        """The matrices over all tensors."""
        return self._entries(np.arange(len(self.sums.tensors)))

    @property
    def n(self) -> NDArray[np.int64]:
        """(N, N) in how many tensors each pair is compared."""
        return self.overall.n

    def __getitem__(self, metric: str) -> NDArray[np.float64]:
        """(N, N) a metric pooled over all tensors.

        Raises:
            OptionError: it is none of `metrics`.
        """
        return self.overall.pooled[named(metric, self.metrics, "metric", "metric")]

    def mean(self, metric: str) -> NDArray[np.float64]:
        """(N, N) the mean of a metric over the tensors of each pair; of `max_delta` the greatest."""
        return self.overall.means[named(metric, self.metrics, "metric", "metric")]

    def groups(self, by: str) -> dict[Any, Entries]:
        """The matrices of every kind, layer or tensor.

        Kinds come in the notebook's order; layers in natural order, None (no numbered block) last. A tensor's kind and
        layer follow from its name in the first checkpoint that has it, the base before all others.

        Raises:
            OptionError: `by` is none of "kind", "layer", "tensor".
        """
        named(by, GROUPINGS, "grouping", "by")
        if by not in self._groups:
            self._groups[by] = {key: self._entries(rows) for key, rows in self._members(by).items()}
        return self._groups[by]

    @cached_property
    def _groups(self) -> dict[str, dict[Any, Entries]]:
        return {}

    def _members(self, by: str) -> dict[Any, NDArray[np.intp]]:
        tensors = self.sums.tensors
        if by == "kind":
            kinds = np.array([tensor.kind for tensor in tensors], dtype=object)
            found = {kind: np.flatnonzero(np.isin(kinds, UNIONS.get(kind, (kind,)))) for kind in KINDS}
            return {kind: rows for kind, rows in found.items() if kind != "other" or len(rows)}
        met: dict[Any, list[int]] = {}
        first: dict[str, int] = {}
        for k, tensor in enumerate(tensors):
            # Two tensors may have one name, where what checkpoints call by it is paired by rules with another.
            own = first.setdefault(tensor.name, tensor.whole) == tensor.whole
            name = tensor.name if own else f"{tensor.name} ({tensor.whole})"
            met.setdefault(tensor.layer if by == "layer" else name, []).append(k)
        order = sorted(met, key=lambda layer: (layer is None, layer or 0)) if by == "layer" else list(met)
        return {key: np.array(met[key], np.intp) for key in order}

    def _entries(self, rows: NDArray[np.intp]) -> Entries:
        found = entries(self.sums, rows, [metric for metric in self.metrics if metric != TASK_COSINE])
        if self.tasks is not None:
            mean, pooled = self.tasks.cosines(rows, len(self.labels))
            found.means[TASK_COSINE], found.pooled[TASK_COSINE] = mean, pooled
        return found

    @cached_property
    def identical(self) -> list[Identical]:
        """Which tensors are equal in which checkpoints, most elements first."""
        return identical(self.sums)

    @property
    def strangers(self) -> list[tuple[int, int]]:
        """The pairs of checkpoints that have no tensor in common."""
        return [(int(i), int(j)) for i, j in np.argwhere(self.n == 0) if i < j]

    def to_dict(self, by: str | None = None) -> dict[str, Any]:
        """What `--format json` writes: strict JSON values, None for NaN and infinity.

        Args:
            by: "layer" or "tensor" adds the matrices of every one of them; those of the kinds are always there.
        """
        out: dict[str, Any] = {
            "checkpoints": list(self.labels),
            "base": self.base,
            "n": self.n.tolist(),
            "elements": self.overall.elements.tolist(),
            "metrics": {metric: _exact(self.overall.means[metric]) for metric in self.metrics},
            "pooled": {metric: _exact(self.overall.pooled[metric]) for metric in self.metrics},
            "kinds": self._group_dicts("kind"),
        }
        if by is not None and named(by, GROUPINGS, "grouping", "by") != "kind":
            out[f"{by}s"] = self._group_dicts(by)
        out["identical"] = [group.to_dict(self.labels) for group in self.identical]
        out["totals"] = self.ledger.totals
        out["not_compared"] = [
            {
                "checkpoint": self.labels[standing.checkpoint],
                "tensor": standing.ref.name,
                "status": standing.status,
                "reason": standing.reason,
            }
            for standing in self.ledger.standings
            if standing.status != "matched"
        ]
        return out

    def _group_dicts(self, by: str) -> dict[str, Any]:
        out = {}
        for key, found in self.groups(by).items():
            matrices = {metric: _exact(found.means[metric]) for metric in self.metrics}
            matrices |= {f"pooled_{metric}": _exact(found.pooled[metric]) for metric in self.metrics}
            out["none" if key is None else str(key)] = {"n": found.n.tolist(), **matrices}
        return out

    def records(self, by: str | None = None) -> Iterable[dict[str, Any]]:
        """A flat dict for every two checkpoints i != j (and with `by` for every group): other, base, n, numbers.

        What pairs have none of (no tensor of that layer, say) has no line.
        """
        found: dict[Any, Entries] = {None: self.overall} if by is None else self.groups(by)
        for key, group in found.items():
            head = {} if by is None else {by: key}
            for i, j in np.argwhere(group.n > 0).tolist():
                if i == j:
                    continue
                line = {"other": self.labels[i], "base": self.labels[j]} | head
                line |= {"n": int(group.n[i, j]), "elements": int(group.elements[i, j])}
                line |= {metric: float(group.means[metric][i, j]) for metric in self.metrics}
                yield line | {f"pooled_{metric}": float(group.pooled[metric][i, j]) for metric in self.metrics}

    def columns(self, by: str | None = None) -> list[str]:
        """The keys of `records`, in order."""
        head = ["other", "base", *([] if by is None else [by]), "n", "elements"]
        return [*head, *self.metrics, *(f"pooled_{metric}" for metric in self.metrics)]

    def to_arrays(self, by: str | None = None) -> dict[str, NDArray[Any]]:
        """What `--format npz` holds: `checkpoints`, `n`, `elements`, `mean/METRIC`, `pooled/METRIC`, all (N, N).

        With `by`: `groups` besides, and all but `checkpoints` are (groups, N, N).
        """
        found = {None: self.overall} if by is None else self.groups(by)
        out: dict[str, NDArray[Any]] = {"checkpoints": np.array(self.labels)}
        if by is not None:
            out["groups"] = np.array(["none" if key is None else str(key) for key in found])
        for name in ("n", "elements"):
            out[name] = np.stack([getattr(group, name) for group in found.values()])
        for metric in self.metrics:
            out[f"mean/{metric}"] = np.stack([group.means[metric] for group in found.values()])
            out[f"pooled/{metric}"] = np.stack([group.pooled[metric] for group in found.values()])
        return out if by is not None else {k: v if k == "checkpoints" else v[0] for k, v in out.items()}

    def __repr__(self) -> str:
        count = len(self.labels)
        return f"Matrix({count} checkpoints, {count * (count - 1) // 2} pairs, {len(self.sums.tensors)} tensors shared)"


def _exact(matrix: NDArray[np.float64]) -> list[list[Any]]:
    return [[exact(value) for value in row] for row in matrix.tolist()]
