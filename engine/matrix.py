"""The act of a matrix: open N checkpoints, match them, compare all pairs; and the answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.wanted import Wanted
from .all_pairs import AllPairs, gather
from .checkpoint import Checkpoint
from .devices import arithmetic_here, check_device
from .entries import MATRIX_METRICS, Entries, entries
from .errors import NothingMatchedError, OptionError
from .formats import open_checkpoint
from .identical import Identical, identical
from .joint import JointLedger, join
from .ledger import require_matches
from .matching import match
from .metrics import needed
from .options import named, names
from .strict import exact
from .summary import GROUPINGS, KINDS, UNIONS
from .task_vectors import TaskVectors, task_vectors

if TYPE_CHECKING:
    from .execute import Progress
    from .loading import Say

__all__ = ["ALL_METRICS", "TASK_COSINE", "Matrix", "chosen_metrics", "matrix", "open_matrix"]

TASK_COSINE = "task_cosine"
ALL_METRICS = (*MATRIX_METRICS, TASK_COSINE)

Source = str | os.PathLike[str] | Checkpoint


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


def matrix(
    checkpoints: Sequence[Source],
    *,
    base: Source | None = None,
    metrics: str | Iterable[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    rules: str | Sequence[str] = "auto",
    map: Sequence[str] = (),
    rules_file: str | os.PathLike[str] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rows: str = "overlap",
    threads: int | None = None,
    io: str = "auto",
    device: str = "auto",
    device_memory: str | int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Matrix:
    """Compare every two of N checkpoints, each byte of them read once.

    Args:
        checkpoints: two or more: paths, hub ids or opened checkpoints. One that is named twice is there twice.
        base: the one that task vectors start from; it comes first where it is not among the checkpoints.
        metrics: which of `ALL_METRICS`, a list or joined by commas; all, `task_cosine` only where there is a base. Sums
            that none of them needs are not computed.
        out: a folder for the raw sums: a run that was stopped goes on where it was, and `open_matrix` reads it.
        force: throw away what is in `out`.
        rules, map, rules_file, include, exclude, rows: as for `match`.
        threads, io, progress, say: as for `compare`.
        device, device_memory: as for `compare`. With `out`, "auto" is the processor: for the rest of a matrix it might
            choose another device than for its beginning, and each kind has last digits of its own. So a folder that
            was begun on a GPU fast at float64 is not taken up on one that is slow at it.
    Returns:
        A `Matrix`.
    Raises:
        OptionError: fewer than two checkpoints, `task_cosine` without a base, or `out` keeps other sums than `metrics`
            need.
        NothingMatchedError: no two of them have a tensor in common.
        WeighbridgeError: a checkpoint cannot be opened or read, or `out` is the folder of something else.
    """
    chosen = chosen_metrics(metrics, base is not None)
    opened, number = _opened(checkpoints, base)
    matching = {
        "rules": rules,
        "map": map,
        "rules_file": rules_file,
        "include": include,
        "exclude": exclude,
        "rows": rows,
    }
    device = check_device(device)
    if out is not None and device == "auto":
        device = "cpu"
    ledger = join(opened, number, **matching)
    if not ledger.tensors:
        _nothing_matched(opened, matching)
    store = None
    wanted = Wanted.ALL if metrics is None else _sums_of(chosen)
    if out is not None:
        from .matrix_store import MatrixStore

        store = MatrixStore(out)
        options = _plain_options(matching) | {"device": arithmetic_here(device)}
        wanted = store.begin(ledger, options, wanted, force=force)
    sums = gather(
        ledger,
        wanted=wanted,
        kept=store,
        threads=threads,
        io=io,
        device=device,
        device_memory=device_memory,
        progress=progress,
        say=say,
    )
    tasks = None
    if TASK_COSINE in chosen and number is not None:
        tasks = store.load_tasks(sums) if store else None
        if tasks is None:
            tasks = task_vectors(sums, number, io=io)
            if store:
                store.save_tasks(tasks)
    return Matrix(sums, chosen, tasks)


def open_matrix(path: str | os.PathLike[str], metrics: str | Iterable[str] | None = None) -> Matrix:
    """The matrix that lies in a folder of `out`, without its checkpoints being there.

    Args:
        path: the folder.
        metrics: as for `matrix`; all that follow from the sums that are there. `task_cosine` only where it was asked
            for when the folder was written.
    Raises:
        FormatError: there is none, it is not finished, or it is damaged.
        OptionError: a metric is asked for whose sums, or whose products of task vectors, are not there.
    """
    from .matrix_store import MatrixStore

    store = MatrixStore(path)
    sums = store.read()
    tasks = store.load_tasks(sums)
    if (
        tasks is None
        and metrics is not None
        and TASK_COSINE in (names(metrics, ALL_METRICS, "metric", "metrics") or ())
    ):
        raise OptionError(f'"{path}" holds no {TASK_COSINE}; run the matrix again with --base and without --metrics.')
    chosen = chosen_metrics(metrics, tasks is not None)
    if metrics is None:
        chosen = tuple(metric for metric in chosen if not _sums_of([metric]) & ~sums.wanted)
    else:
        store.require(_sums_of(chosen))
    return Matrix(sums, chosen, tasks if TASK_COSINE in chosen else None)


def _sums_of(metrics: Iterable[str]) -> Wanted:
    """The sums that metrics are computed from; cosines of task vectors from squared differences."""
    metrics = list(metrics)
    return needed(metrics) | (Wanted.SQ_DIFF if TASK_COSINE in metrics else Wanted(0))


def chosen_metrics(metrics: str | Iterable[str] | None, base: bool) -> tuple[str, ...]:
    """The metrics that are computed: those asked for; without, all, and `task_cosine` only where there is a base.

    Raises:
        OptionError: an unknown metric, or `task_cosine` without a base.
    """
    chosen = names(metrics, ALL_METRICS, "metric", "--metrics")
    if chosen is None:
        return ALL_METRICS if base else MATRIX_METRICS
    if TASK_COSINE in chosen and not base:
        raise OptionError(f"{TASK_COSINE} is the cosine of what was added to a base; name one with --base.")
    return chosen


def _opened(checkpoints: Sequence[Source], base: Source | None) -> tuple[list[Checkpoint], int | None]:
    """The checkpoints under labels of their own, and the number of the base."""
    opened = [open_checkpoint(source) for source in checkpoints]
    number = None
    if base is not None:
        start = open_checkpoint(base)
        real = [os.path.realpath(checkpoint.path) for checkpoint in opened]
        there = os.path.realpath(start.path)
        if there not in real:
            opened.insert(0, start)
        number = real.index(there) if there in real else 0
    if len(opened) < 2:
        given = f'"{opened[0].label}" alone' if opened else "none"
        raise OptionError(f"a matrix is of two or more checkpoints and this is {given}; see one with `inspect`.")
    seen: dict[str, int] = {}
    out = []
    for checkpoint in opened:
        label = checkpoint.label
        while label in seen:
            seen[checkpoint.label] += 1
            label = f"{checkpoint.label} ({seen[checkpoint.label]})"
        seen[label] = 1
        out.append(checkpoint if label == checkpoint.label else replace(checkpoint, label=label))
    return out, number


def _nothing_matched(opened: Sequence[Checkpoint], matching: dict[str, Any]) -> None:
    try:
        require_matches(match(opened[0], opened[1], **matching))
    except NothingMatchedError as error:
        if len(opened) == 2:
            raise
        raise NothingMatchedError(
            f"no two of the {len(opened)} checkpoints have a tensor in common: {error}"
        ) from error


def _plain_options(matching: dict[str, Any]) -> dict[str, Any]:
    """The matching options as JSON; a file of rules by what is in it."""
    out = {
        key: value if isinstance(value, str) else [str(v) for v in value or ()]
        for key, value in matching.items()
        if key != "rules_file"
    }
    if matching["rules_file"] is not None:
        with open(matching["rules_file"], encoding="utf-8") as file:
            out["rules_file"] = file.read()
    return out
