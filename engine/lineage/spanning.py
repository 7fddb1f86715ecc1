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
from itertools import pairwise
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

# Descendants of a merge are seen from it at right angles to the line between its parents, up to this cosine: three
# times what steps lean together.
_RIGHT_ANGLE = 0.1

_CONSIDERED = 64  # alternatives looked at, the nearest first
_LEAST = 0.05  # alternatives less probable than this are not told


@dataclass(frozen=True)
class Alternative:
    """An edge that could stand in the place of one of the tree, and how probable that is."""

    edge: Edge
    probability: float


def spanning_edges(family: Family, members: Sequence[int], merges: Mapping[int, Merge], base: int | None) -> list[Edge]:
    """The edges of the shortest spanning forest; relatives only are joined.

    A merge lies between its parents, nearer to both than they are to their own ancestors, and would draw the tree to
    itself, and so would what descends from it. So the tree is drawn without these. Then each merge is hung on the
    heavier of its parents, and what seems to descend from it is added where the forest stays shortest; no edge on the
    way between two parents of a merge gives way.

    Args:
        members: the checkpoints that take part.
        merges: which of them are averages of which.
        base: the one known to be nobody's child, if any.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    far = np.where(family.correlation >= RELATED, family.separation, np.inf)
    after = _after_merges(family, members, merges, base)
    plain = np.array([number for number in members if number not in after], np.intp)
    table = np.triu(far[np.ix_(plain, plain)], 1)
    upper = np.triu(np.ones(table.shape, bool), 1)
    least = table[upper & np.isfinite(table)].min(initial=0.0)
    # For scipy 0 and infinity are no edges, so all are shifted to 1 or more.
    found = minimum_spanning_tree(np.where(upper, table - least + 1.0, 0.0)).tocoo()
    edges = [(int(plain[a]), int(plain[b])) for a, b in zip(found.row, found.col, strict=True)]
    inside, kept = set(plain.tolist()), set[frozenset[int]]()
    while after:
        # The first whose prerequisites are there; a circle of them is cut at its first.
        node = next((number for number, needed in after.items() if not needed & after.keys()), next(iter(after)))
        del after[node]
        if node in merges:
            kept.add(frozenset((node, merges[node].parents[0])))
            kept.update(frozenset(edge) for edge in _steps(path(edges, *merges[node].parents)))
            edges.append((node, merges[node].parents[0]))
        edges = _shortest(far, [*edges, *((node, other) for other in inside)], kept)
        inside.add(node)
    return edges


def _after_merges(
    family: Family, members: Sequence[int], merges: Mapping[int, Merge], base: int | None
) -> dict[int, set[int]]:
    """Merges and what seems to descend from them -> what must be in the tree before.

    From a merge x of a and b its descendants y are seen at right angles to the line: the cosine of y-x and a-x is 0 but
    for what steps lean together. Descendants of a are not: y-x = (y-a) + (a-x).
    """
    after = {merge: set(merges[merge].parents) for merge in merges}
    total, far = family.total, family.separation
    for x, merge in merges.items():
        seen = set()
        for y in members:
            if y in (x, base) or y in merges or y in merge.parents or family.correlation[x, y] < RELATED:
                continue
            cosines = [
                (total[x, y] + total[x, a] - total[y, a]) / (2.0 * np.sqrt(total[x, y] * total[x, a]))
                for a in merge.parents
                if total[x, y] > 0
            ]
            if max(map(abs, cosines), default=0.0) < _RIGHT_ANGLE:
                seen.add(y)
        # An ancestor of both parents may be seen so by chance; but then it has nearer kin, and they do too.
        others = [number for number in members if number != x and number not in merges]
        while strays := {y for y in seen if any(far[y, z] < far[y, x] for z in others if z not in seen)}:
            seen -= strays
        for y in seen:
            after.setdefault(y, set()).add(x)
    return after


def _shortest(far: NDArray[np.float64], edges: Sequence[Edge], kept: set[frozenset[int]]) -> list[Edge]:
    """The shortest spanning forest of some edges that holds those kept (Kruskal's algorithm)."""
    group: dict[int, int] = {}

    def leader(node: int) -> int:
        while (up := group.setdefault(node, node)) != node:
            group[node] = node = group.setdefault(up, up)
        return node

    out = []
    for edge in sorted(edges, key=lambda edge: (frozenset(edge) not in kept, far[edge], edge)):
        one, two = map(leader, edge)
        if one != two and (np.isfinite(far[edge]) or frozenset(edge) in kept):
            group[one] = two
            out.append(edge)
    return out


def _steps(nodes: Sequence[int]) -> list[Edge]:
    return list(pairwise(nodes))


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
    hidden = _between(edges, here, merges)
    found: list[tuple[Edge, float]] = []
    for at in order:
        x, y = int(one[at // len(two)]), int(two[at % len(two)])
        if (x, y) == edge or not np.isfinite(far.flat[at]) or x in hidden or y in hidden:
            continue
        beyond = _normal_tail(_score(family, edge, (x, y), correlation))
        found.append(((x, y), beyond / (1.0 - beyond) if beyond < 1.0 else 1.0))
    whole = 1.0 + max((odds for _, odds in found), default=0.0)
    likely = [Alternative(other, odds / whole) for other, odds in found if odds / whole >= _LEAST]
    return 1.0 / whole, sorted(likely, key=lambda alternative: -alternative.probability)


def _between(edges: Sequence[Edge], here: set[int], merges: Mapping[int, Merge]) -> set[int]:
    """Merges of a parent on one side and one on the other, with all that hangs on them: they join the sides anyway."""
    out = set[int]()
    for number, merge in merges.items():
        if len({parent in here for parent in merge.parents}) > 1:
            out |= side(edges, (number, merge.parents[0]))
    return out


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
