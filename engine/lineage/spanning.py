"""The undirected tree: who hangs on whom, and how far the sums can tell.

In a space of millions of dimensions a step of training knows nothing of the steps before it: they are nearly at right
angles, and squared distances add up along the tree, |a - c|² = |a - b|² + |b - c|² where b lies between. Every inner
node has been seen (the checkpoints are all there is), so the tree is the spanning tree in which each path's ends are
farther apart than any two neighbours on it: the minimum spanning tree of any measure that grows with the distance. That
measure is `Family.separation`, a mean of logarithms over the tensors, because a child is often a thousand times farther
from its parent than the parent from its other children: in a sum over the tensors the few with the longest steps would
drown all others, while a logarithm hears each tensor as loudly, above all one that was left untouched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .family import Family

if TYPE_CHECKING:
    from .merges import Merge

__all__ = ["Alternative", "Edge", "path", "spanning_edges", "support"]

Edge = tuple[int, int]

RELATED = 0.1
"""The correlation from which two are relatives. Initialised apart, MiniLM has 0.0002; a long fine-tune keeps 0.9."""

STEP_CORRELATION = 0.04
"""How far two steps are from a right angle: the standard deviation of the cosine between steps of training that meet at
a checkpoint. 98 pairs in four families of MiniLM have 0.030 (mean 0.017, the largest 0.096): see docs/lineage.md."""

_ROUNDING_CORRELATION = 0.002  # of a rounding error and a step: no cause but chance, 1/sqrt(elements)

_CONSIDERED = 64  # alternatives looked at, the nearest first
_LEAST = 0.05  # alternatives less probable than this are not told


@dataclass(frozen=True)
class Alternative:
    """An edge that could stand in the place of one of the tree, and how probable that is."""

    edge: Edge
    probability: float


def spanning_edges(family: Family, members: Sequence[int], merges: Mapping[int, Merge]) -> list[Edge]:
    """The edges of the shortest spanning forest; relatives only are joined.

    A merge lies between its parents, nearer to both than they are to their own ancestors, and would draw the tree to
    itself. So the tree is drawn without merges, and each is then hung on the heavier of its parents; edges move to it
    where that is shorter, those between its parents excepted.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    related = family.correlation >= RELATED
    far = np.where(related, family.separation, np.inf)
    plain = np.array([number for number in members if number not in merges], np.intp)
    table = np.triu(far[np.ix_(plain, plain)], 1)
    finite = table[np.isfinite(table)]
    # For scipy 0 and infinity are no edges: all are shifted to 1 or more.
    shifted = np.where(np.isfinite(table), table - finite.min(initial=0.0) + 1.0, np.inf)
    found = minimum_spanning_tree(np.where(np.triu(np.ones_like(table), 1) > 0, shifted, 0.0)).tocoo()
    edges = [(int(plain[a]), int(plain[b])) for a, b in zip(found.row, found.col, strict=True)]
    waiting = dict(merges)
    while waiting:
        # Parents before children: `find_merges` leaves no circles.
        ready = next(number for number, merge in waiting.items() if not set(merge.parents) & set(waiting))
        _insert(edges, ready, waiting.pop(ready).parents, far)
    return edges


def _insert(edges: list[Edge], merge: int, parents: tuple[int, int], far: NDArray[np.float64]) -> None:
    """Hangs a merge on its heavier parent and lets edges move to it."""
    nodes = {node for edge in edges for node in edge} - {merge}
    kept = {frozenset(edge) for edge in _steps(path(edges, *parents))}
    kept.add(frozenset((merge, parents[0])))
    edges.append((merge, parents[0]))
    for node in sorted(nodes, key=lambda node: (far[node, merge], node)):
        if node in parents or not np.isfinite(far[node, merge]):
            continue
        movable = [edge for edge in _steps(path(edges, node, merge)) if frozenset(edge) not in kept]
        longest = max(movable, key=lambda edge: far[edge], default=None)
        if longest is not None and far[longest] > far[node, merge]:
            edges[:] = [edge for edge in edges if set(edge) != set(longest)]
            edges.append((node, merge))


def _steps(nodes: Sequence[int]) -> list[Edge]:
    return list(zip(nodes[:-1], nodes[1:], strict=True))


def neighbours(edges: Sequence[Edge]) -> dict[int, list[int]]:
    """node -> those it has an edge with."""
    out: dict[int, list[int]] = {}
    for a, b in edges:
        out.setdefault(a, []).append(b)
        out.setdefault(b, []).append(a)
    return out


def path(edges: Sequence[Edge], start: int, end: int) -> list[int]:
    """The nodes from start to end in a forest, both included; none where no path leads there."""
    near, came = neighbours(edges), {start: start}
    queue = [start]
    for node in queue:
        for other in near.get(node, ()):
            if other not in came:
                came[other] = node
                queue.append(other)
    if end not in came:
        return []
    out = [end]
    while out[-1] != start:
        out.append(came[out[-1]])
    return out[::-1]


def side(edges: Sequence[Edge], edge: Edge) -> set[int]:
    """The nodes on the side of edge[0] when the edge is cut."""
    near, found = neighbours([other for other in edges if set(other) != set(edge)]), {edge[0]}
    queue = [edge[0]]
    for node in queue:
        for other in near.get(node, ()):
            if other not in found:
                found.add(other)
                queue.append(other)
    return found


def support(
    family: Family, edges: Sequence[Edge], edge: Edge, merges: Mapping[int, Merge], rounded: bool
) -> tuple[float, list[Alternative]]:
    """How probable an edge of the tree is, and what could stand in its place.

    For an edge c-p and another x-y across the same cut, the difference of `separation` is compared with its standard
    error. Two sources of error are added: tensors that disagree, sqrt(Σ w² (δ - mean)²) with w the share of a tensor's
    elements and δ its difference, and steps that are not quite at right angles: an angle with cosine ρ moves ln d² by
    2 ρ r, r the length of what lies between the two edges over that of the edge. Odds of all alternatives are added.

    Args:
        edge: one of `edges`, none between a merge and its parent.
        rounded: whether it joins a checkpoint and its rounded copy; rounding errors correlate with nothing.
    Returns:
        The probability, and the alternatives from 5 % on, most probable first.
    """
    here = side(edges, edge)
    reach = side(edges, edge[::-1])
    one, two = (np.array(sorted(nodes), np.intp) for nodes in (here, reach))
    far = np.where(family.correlation >= RELATED, family.separation, np.inf)[np.ix_(one, two)]
    order = np.argsort(far, axis=None, kind="stable")[: _CONSIDERED + 1]
    correlation = _ROUNDING_CORRELATION if rounded else STEP_CORRELATION
    found: list[tuple[Edge, float]] = []
    for at in order:
        x, y = int(one[at // len(two)]), int(two[at % len(two)])
        if (x, y) == edge or not np.isfinite(far.flat[at]) or _through_merge(x, y, here, merges):
            continue
        beyond = _normal_tail(_score(family, edge, (x, y), correlation))
        found.append(((x, y), beyond / (1.0 - beyond) if beyond < 1.0 else 1.0))
    whole = 1.0 + sum(odds for _, odds in found)
    likely = [Alternative(other, odds / whole) for other, odds in found if odds / whole >= _LEAST]
    return 1.0 / whole, sorted(likely, key=lambda alternative: -alternative.probability)


def _through_merge(x: int, y: int, here: set[int], merges: Mapping[int, Merge]) -> bool:
    """Whether an edge leads from a merge to the side on which one of its parents is: that one explains it."""
    for end, inside in ((x, True), (y, False)):
        if end in merges and any((parent in here) != inside for parent in merges[end].parents):
            return True
    return False


def _score(family: Family, edge: Edge, other: Edge, correlation: float) -> float:
    """By how many standard errors the other edge is longer."""
    at, instead = family.place[edge], family.place[other]
    both = family.measured[:, at] & family.measured[:, instead]
    if not both.any():
        return 0.0
    weight = family.elements[both] / family.elements[both].sum()
    difference = family.logs[both, instead] - family.logs[both, at]
    mean = float(weight @ difference)
    tensors = float(((weight * (difference - mean)) ** 2).sum())
    length = np.sqrt(family.squared[both, at])
    detour = np.sqrt(family.squared[both, family.place[edge[0], other[0]]])
    detour = detour + np.sqrt(family.squared[both, family.place[edge[1], other[1]]])
    # Where the edge has no length, no angle can change that the tensor is the same.
    ratio = np.where(length > 0, np.minimum(detour / np.where(length > 0, length, 1.0), 1.0), 0.0)
    angles = 2.0 * correlation * float(weight @ ratio)
    error = math.sqrt(tensors + angles**2)
    return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0


def _normal_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2.0))
