"""N checkpoints and rules -> a joint ledger: which tensor of which checkpoint is compared with which of which other.

Two checkpoints are matched as `compare` matches them, the earlier one as the base, so that what a pair has in common
does not depend on who else is in the family. Checkpoints of equal names, shapes, dtypes and configs match alike: they
are one class, and only classes are matched with each other. A family of five hundred fine-tunes is one class.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.decoders import DECODERS
from .checkpoint import Checkpoint, TensorRef
from .ledger import Ledger
from .matching import match
from .naming import kind_of, layer_of

__all__ = ["JointLedger", "JointTensor", "Standing", "join", "pairs_of"]

# Of a tensor that is compared with none, what the ledgers say of it in order of how much that tells.
_TELLING = ("shape_mismatch", "skipped", "outside_base_model", "only_in_base", "only_in_other")


@dataclass(frozen=True, eq=False)
class JointTensor:
    """One tensor in those checkpoints of the family that have it.

    A pair's sums depend on how many elements take part and on whether one of the two needs float64. Where that is not
    the same for all pairs (embeddings of different length, mixed dtypes), a tensor is several of these under one name,
    which follow each other and are computed from one reading of its bytes.

    Attributes:
        name: what the tensor is called in the first checkpoint that has it, the base before all others.
        kind, layer: by that name, as `naming` says.
        whole: a number that the parts of one tensor have in common.
        elements: how many leading elements take part.
        rows: (leading rows that take part, rows of the largest) where the rows rule applied.
        refs: checkpoint number -> its tensor.
        pairs: (Q,) ascending places in `pairs_of(N)` of the pairs that are compared in it.
    """

    name: str
    kind: str
    layer: int | None
    whole: int
    elements: int
    rows: tuple[int, int] | None
    refs: Mapping[int, TensorRef]
    pairs: NDArray[np.int64]

    @property
    def dtypes(self) -> dict[int, str]:
        """Checkpoint number -> the dtype it stores the tensor in."""
        return {number: ref.dtype for number, ref in self.refs.items()}


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of one tensor of one checkpoint.

    Attributes:
        checkpoint: its number.
        ref: the tensor.
        status: "matched" where it is compared with one or more others, else as in `ledger.STATUSES`, or "only_in_one".
        others: how many checkpoints it is compared with.
        reason: one phrase for why it is compared with none.
    """

    checkpoint: int
    ref: TensorRef
    status: str
    others: int
    reason: str


@dataclass(frozen=True, eq=False)
class JointLedger:
    """Every tensor of N checkpoints, and who shares it.

    Attributes:
        checkpoints: N of them.
        base: the number of the base, or None.
        tensors: those that two or more share, in the order of the base's file (without one, the first's), then of the
            next that has more.
        standings: every tensor of every checkpoint, exactly once, in the order of the files.
        notes: one phrase for each choice worth telling.
    """

    checkpoints: tuple[Checkpoint, ...]
    base: int | None
    tensors: tuple[JointTensor, ...]
    standings: tuple[Standing, ...]
    notes: tuple[str, ...]

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """(K, N) which checkpoint has which tensor."""
        out = np.zeros((len(self.tensors), len(self.checkpoints)), bool)
        for k, tensor in enumerate(self.tensors):
            out[k, list(tensor.refs)] = True
        return out

    @property
    def totals(self) -> list[dict[str, int]]:
        """Of each checkpoint: how many tensors it has, and how many of each status."""
        counts = [Counter[str]() for _ in self.checkpoints]
        for standing in self.standings:
            counts[standing.checkpoint][standing.status] += 1
        return [{"tensors": count.total(), **count} for count in counts]

    def __repr__(self) -> str:
        return f"JointLedger({len(self.checkpoints)} checkpoints, {len(self.tensors)} tensors shared)"


def pairs_of(count: int) -> NDArray[np.int64]:
    """(P, 2) all pairs i < j of N checkpoints, P = N (N - 1) / 2, in the order of `numpy.triu_indices(N, 1)`."""
    return np.stack(np.triu_indices(count, 1), axis=1).astype(np.int64)


def join(checkpoints: Sequence[Checkpoint], base: int | None = None, **matching: Any) -> JointLedger:
    """Match every checkpoint with every other; reads no tensor bytes.

    Args:
        checkpoints: the family.
        base: the number of the one whose names come first.
        matching: the options of `matching.match`.
    Raises:
        RulesError, OptionError: as `matching.match`.
    """
    classes = _classes(checkpoints, base)
    graph = _Graph(checkpoints, classes)
    for a, members in enumerate(classes):
        if len(members) > 1:
            graph.add(a, a, match(checkpoints[members[0]], checkpoints[members[1]], **matching))
        for b in range(a + 1, len(classes)):
            graph.add(a, b, match(checkpoints[members[0]], checkpoints[classes[b][0]], **matching))
    tensors = tuple(graph.tensors())
    return JointLedger(tuple(checkpoints), base, tensors, tuple(graph.standings(tensors)), tuple(graph.notes))


def _classes(checkpoints: Sequence[Checkpoint], base: int | None) -> list[list[int]]:
    """Checkpoints that match alike, the base's class first."""
    found: dict[Any, list[int]] = {}
    order = sorted(range(len(checkpoints)), key=lambda number: number != base)
    for number in order:
        found.setdefault(_alike(checkpoints[number]), []).append(number)
    return list(found.values())


def _alike(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """All that matching looks at: names, shapes, dtypes, ties, and of the config the model type, lists and maps."""
    config = {
        key: value
        for key, value in checkpoint.config.items()
        if key == "model_type" or isinstance(value, (list, tuple, Mapping))
    }
    tensors = tuple((name, ref.shape, ref.dtype) for name, ref in checkpoint.tensors.items())
    return tensors, checkpoint.tied, json.dumps(config, sort_keys=True, default=str)


_Node = tuple[int, str]  # a class, and a tensor's name in it


@dataclass(frozen=True, slots=True)
class _Edge:
    elements: int
    rows: tuple[int, int] | None
    wide: bool


class _Graph:
    """Tensors of classes, joined where a ledger pairs them."""

    def __init__(self, checkpoints: Sequence[Checkpoint], classes: list[list[int]]) -> None:
        self.checkpoints, self.classes = checkpoints, classes
        self.edges: dict[_Node, dict[_Node, _Edge]] = {}
        self.why: dict[_Node, dict[str, str]] = {}
        self.notes: dict[str, None] = {}
        self._place = np.zeros((len(checkpoints), len(checkpoints)), np.int64)
        first, second = np.triu_indices(len(checkpoints), 1)
        self._place[first, second] = self._place[second, first] = np.arange(len(first))
        self._patterns: dict[tuple[tuple[int, int], ...], NDArray[np.int64]] = {}

    def add(self, a: int, b: int, ledger: Ledger) -> None:
        """What a ledger of class a (as the base) and class b says."""
        self.notes |= dict.fromkeys(ledger.notes)
        for row in ledger.rows:
            if row.status == "matched" and row.base is not None and row.other is not None:
                one, two = (a, row.base.name), (b, row.other.name)
                wide = any(DECODERS[ref.dtype].wide == "f64" for ref in (row.base, row.other))
                edge = _Edge(row.elements, row.rows, wide)
                self.edges.setdefault(one, {})[two] = edge
                self.edges.setdefault(two, {})[one] = edge
                continue
            for number, ref in ((a, row.base), (b, row.other)):
                if ref is not None:
                    self.why.setdefault((number, ref.name), {}).setdefault(row.status, row.reason)

    def tensors(self) -> Iterable[JointTensor]:
        """The joint tensors: nodes that are joined, one of each class; what is left of the edges begins anew."""
        whole = 0
        for number, members in enumerate(self.classes):
            for name in self.checkpoints[members[0]].tensors:
                while self.edges.get((number, name)):
                    yield from self._tensor((number, name), whole)
                    whole += 1

    def _tensor(self, start: _Node, whole: int) -> Iterable[JointTensor]:
        chosen = {start[0]: start}
        queue = [start]
        for node in queue:  # it grows meanwhile
            for near in self.edges[node]:
                if near[0] not in chosen:
                    chosen[near[0]] = near
                    queue.append(near)
        ways: dict[tuple[int, bool], list[tuple[_Node, _Node, _Edge]]] = {}
        nodes = [chosen[number] for number in sorted(chosen)]
        for place, one in enumerate(nodes):
            for two in nodes[place:]:
                edge = self.edges[one].pop(two, None)
                if edge is not None:
                    self.edges[two].pop(one, None)
                    ways.setdefault((edge.elements, edge.wide), []).append((one, two, edge))
        if not ways:  # a tensor that its own class pairs with another of its own: no ledger does that
            raise AssertionError(f"{start} is paired with itself under another name")
        name = start[1]
        for (elements, _), edges in ways.items():
            used = sorted({node for one, two, _ in edges for node in (one, two)})
            refs = {n: self.checkpoints[n].tensors[node[1]] for node in used for n in self.classes[node[0]]}
            rows = max((edge.rows for _, _, edge in edges if edge.rows), key=lambda r: r[1], default=None)
            pairs = self._pairs(tuple((one[0], two[0]) for one, two, _ in edges))
            ordered = {n: refs[n] for n in sorted(refs)}
            yield JointTensor(name, kind_of(name), layer_of(name), whole, elements, rows, ordered, pairs)

    def _pairs(self, pattern: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
        """The places of all pairs of checkpoints of these pairs of classes; one array for one pattern."""
        if pattern not in self._patterns:
            found = []
            for a, b in pattern:
                one, two = np.array(self.classes[a]), np.array(self.classes[b])
                block = self._place[np.ix_(one, two)]
                found.append(block[np.triu_indices(len(one), 1)] if a == b else block.ravel())
            self._patterns[pattern] = np.sort(np.concatenate(found))
        return self._patterns[pattern]

    def standings(self, tensors: Sequence[JointTensor]) -> Iterable[Standing]:
        """Every tensor of every checkpoint with what became of it."""
        count = len(self.checkpoints)
        ends = pairs_of(count)
        degrees: dict[int, NDArray[np.int64]] = {}  # of one pattern: with how many each checkpoint is compared
        others = Counter[tuple[int, str]]()
        for tensor in tensors:
            key = id(tensor.pairs)
            if key not in degrees:
                degrees[key] = np.bincount(ends[tensor.pairs].ravel(), minlength=count)
            for number, ref in tensor.refs.items():
                others[number, ref.name] += int(degrees[key][number])
        of_class = {n: a for a, members in enumerate(self.classes) for n in members}
        for number, checkpoint in enumerate(self.checkpoints):
            for name, ref in checkpoint.tensors.items():
                if compared := others[number, name]:
                    yield Standing(number, ref, "matched", compared, "")
                    continue
                why = self.why.get((of_class[number], name), {})
                status = next((status for status in _TELLING if status in why), "only_in_base")
                reason = why.get(status, "")
                if status.startswith("only_in"):
                    status, reason = "only_in_one", "no other checkpoint has a tensor of that name"
                yield Standing(number, ref, status, 0, reason)
