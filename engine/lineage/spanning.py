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

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .family import Family
from .graph import Edge, path, steps

if TYPE_CHECKING:
    from .merges import Merge

__all__ = ["RELATED", "reachable", "rounding_deviation", "spanning_edges"]

RELATED = 0.1
"""The correlation from which two are relatives. Initialised apart, MiniLM has 0.0002; a long fine-tune keeps 0.9."""

# Descendants of a merge are seen from it at right angles to the line between its parents, up to this cosine: three
# times what steps lean together.
_RIGHT_ANGLE = 0.1


def reachable(family: Family, rounded: Mapping[int, int]) -> NDArray[np.float64]:
    """(N, N) `separation` of those that may be joined, infinite for all others.

    Unrelated ones may not, and not two rounded copies of one source either: what was rounded to few bits is as near to
    the source rounded to more, for the first rounding was on the way to the second. All others are a little farther
    from a rounded copy than it seems, by three times what chance can make of a rounding error: that it is nearer than
    its source must be more than chance.

    Args:
        rounded: checkpoint -> what it is a rounded copy of.
    """
    far = np.where(family.correlation >= RELATED, family.separation, np.inf)
    for one, source in rounded.items():
        for other, same in rounded.items():
            if one != other and source == same:
                far[one, other] = np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.sqrt(family.total[one, source] / family.total[source])
        chance = 6.0 * rounding_deviation(family) * np.nan_to_num(np.minimum(ratio, 1.0), nan=1.0)
        chance[[one, source]] = 0.0
        far[one] += chance
        far[:, one] += chance
    return far


def rounding_deviation(family: Family) -> float:
    """The standard deviation of the cosine between a rounding error and a step of training.

    They have no cause in common: it is 1 / sqrt(elements). In large models what rounding errors do share shows, and
    0.002 is safe.
    """
    return max(0.002, 1.0 / float(np.sqrt(max(family.elements.sum(), 1.0))))


def spanning_edges(
    family: Family,
    far: NDArray[np.float64],
    members: Sequence[int],
    merges: Mapping[int, Merge],
    base: int | None,
) -> list[Edge]:
    """The edges of the shortest spanning forest; relatives only are joined.

    A merge lies between its parents, nearer to both than they are to their own ancestors, and would draw the tree to
    itself, and so would what descends from it. So the tree is drawn without these. Then each merge is hung on the
    heavier of its parents, and what seems to descend from it is added where the forest stays shortest; no edge on the
    way between two parents of a merge gives way.

    Args:
        far: (N, N) as `reachable` has it.
        members: the checkpoints that take part.
        merges: which of them are averages of which.
        base: the one known to be nobody's child, if any.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

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
            heaviest, *others = merges[node].parents
            kept.update(frozenset(edge) for other in others for edge in steps(path(edges, heaviest, other)))
            kept.add(frozenset((node, heaviest)))
            edges.append((node, heaviest))
        edges = _shortest(far, [*edges, *((node, other) for other in inside)], kept)
        inside.add(node)
    return edges


def _after_merges(
    family: Family, members: Sequence[int], merges: Mapping[int, Merge], base: int | None
) -> dict[int, set[int]]:
    """Merges and what seems to descend from them -> what must be in the tree before.

    From a merge x of a and b its descendants y are seen at right angles to the line: the cosine of y-x and a-x is 0 but
    for what steps lean together. Descendants of a are not: y-x = (y-a) + (a-x). What lies on the way from a to b may
    be, where the weights of the merge are as its squared distances from a and b; but from there, and by chance only
    from elsewhere, a and b themselves are seen at a right angle.
    """
    after = {merge: set(merges[merge].parents) for merge in merges}
    total, far = family.total, family.separation
    for x, merge in merges.items():
        seen = set()
        for y in members:
            if y in (x, base) or y in merges or y in merge.parents or family.correlation[x, y] < RELATED:
                continue
            across = max(_cosine(total, x, y, a) for a in merge.parents)
            between = min(_cosine(total, y, a, b) for a, b in combinations(merge.parents, 2))
            if across < _RIGHT_ANGLE <= between:
                seen.add(y)
        # Those that hang on the way between the parents may be seen so too; but then they have nearer kin there.
        others = [number for number in members if number != x and number not in merges]
        while strays := {y for y in seen if any(far[y, z] < far[y, x] for z in others if z not in seen)}:
            seen -= strays
        for y in seen:
            after.setdefault(y, set()).add(x)
    return after


def _cosine(total: NDArray[np.float64], corner: int, one: int, other: int) -> float:
    """|cos| of the angle at a corner, of squared distances; 0 where two of the three coincide."""
    sides = total[corner, one] * total[corner, other]
    return (
        float(abs(total[corner, one] + total[corner, other] - total[one, other]) / (2.0 * sides**0.5)) if sides else 0.0
    )


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
