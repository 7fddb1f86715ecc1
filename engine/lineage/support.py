"""How sure an edge of the tree is, and children that hang on a sibling lifted to their parent.

Steps of training that meet at a checkpoint are not quite at right angles: what all runs learn is a little alike, and
they lean together. So a child is nearer to its parent's other children than right angles have it, and where one of
those has hardly moved, even nearer than to the parent. How far steps lean
was measured; the mean is allowed for, and what is left decides how sure an edge can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .family import Family
from .graph import Edge, outward, side
from .spanning import rounding_deviation

if TYPE_CHECKING:
    from .merges import Merge

__all__ = ["Alternative", "lifted", "support"]

_LEAN = 0.017
_LEAN_DEVIATION = 0.04
"""The cosine between steps of training that meet at a checkpoint, counted positive where two children lean together or
a child leans the way its parent came: its mean, and how far one may be from it. 98 pairs in four families of MiniLM
have a mean of 0.017 and a standard deviation of 0.025, from -0.045 to 0.096; 0.04, because with 0.03 too few of the
edges that were said to be 70 to 90 % sure were right (docs/lineage.md)."""

_CONSIDERED = 64  # alternatives looked at, the nearest first
_LEAST = 0.05  # alternatives less probable than this are not told


@dataclass(frozen=True)
class Alternative:
    """An edge that could stand in the place of one of the tree, and how probable that is."""

    edge: Edge
    probability: float


def lifted(
    family: Family, edges: Sequence[Edge], root: int, far: NDArray[np.float64], of_training: Callable[[int, int], bool]
) -> list[Edge]:
    """The edges with each child hung on its grandparent instead where that is the likelier, given how steps lean.

    Args:
        root: from which the edges lead.
        far: (N, N) as `spanning.reachable` has it.
        of_training: whether an edge is a step of training; others are left as they are.
    """
    parent = {younger: older for older, younger in outward(edges, root)}
    for child in list(parent):
        while (older := parent[child]) != root:
            oldest = parent[older]
            if not (of_training(older, child) and of_training(oldest, older) and np.isfinite(far[oldest, child])):
                break
            if _score(family, (older, child), (oldest, child), _LEAN, _LEAN_DEVIATION) >= 0:
                break
            parent[child] = oldest
    return [(older, younger) for younger, older in parent.items()]


def support(
    family: Family,
    edges: Sequence[Edge],
    edge: Edge,
    far: NDArray[np.float64],
    merges: Mapping[int, Merge],
    of_training: bool,
) -> tuple[float, list[Alternative]]:
    """How probable an edge of the tree is, and what could stand in its place.

    For an edge and another across the same cut, the difference of `separation` is compared with its standard error.
    Two sources of error are added: tensors that disagree, sqrt(Σ w² (δ - mean)²) with w the share of a tensor's
    elements and δ its difference, and steps that are not quite at right angles: an angle with cosine ρ moves ln d² by
    2 ρ r, r the length of what lies between the two edges over that of the edge.

    Args:
        edges: of the tree, (older, younger) each.
        edge: one of them, (older, younger), none between a merge and its parent.
        far: (N, N) as `spanning.reachable` has it.
        of_training: whether the edge is a step of training; rounding errors lean nowhere.
    Returns:
        The probability, and the alternatives from 5 % on, most probable first.
    """
    here = side(edges, edge)
    reach = side(edges, edge[::-1])
    one, two = (np.array(sorted(nodes), np.intp) for nodes in (here, reach))
    across = far[np.ix_(one, two)]
    order = np.argsort(across, axis=None, kind="stable")[: _CONSIDERED + 1]
    deviation = _LEAN_DEVIATION if of_training else rounding_deviation(family)
    hidden = _between(edges, here, merges)
    older, younger = edge
    parent = {child: node for node, child in edges}
    found: list[tuple[Edge, float]] = []
    for at in order:
        x, y = int(one[at // len(two)]), int(two[at % len(two)])
        if (x, y) == edge or not np.isfinite(across.flat[at]) or x in hidden or y in hidden:
            continue
        lean = 0.0
        if of_training and y == younger:
            lean = _LEAN * ((x in _above(parent, older)) - (older in _above(parent, x)))
        beyond = _normal_tail(_score(family, edge, (x, y), lean, deviation))
        found.append(((x, y), beyond / (1.0 - beyond) if beyond < 1.0 else 1.0))
    whole = 1.0 + max((odds for _, odds in found), default=0.0)
    likely = [Alternative(other, odds / whole) for other, odds in found if odds / whole >= _LEAST]
    return 1.0 / whole, sorted(likely, key=lambda alternative: -alternative.probability)


def _above(parent: Mapping[int, int], node: int) -> set[int]:
    """The ancestors of a node."""
    out = set[int]()
    while node in parent:
        node = parent[node]
        out.add(node)
    return out


def _between(edges: Sequence[Edge], here: set[int], merges: Mapping[int, Merge]) -> set[int]:
    """Merges of a parent on one side and one on the other, with all that hangs on them: they join the sides anyway."""
    out = set[int]()
    for number, merge in merges.items():
        if len({parent in here for parent in merge.parents}) > 1:
            out |= side(edges, (number, merge.parents[0]))
    return out


def _score(family: Family, edge: Edge, other: Edge, lean: float, deviation: float) -> float:
    """By how many standard errors the other edge is longer than the edge, allowing for how steps lean."""
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
    turn = 2.0 * float(weight @ ratio)
    mean -= lean * turn
    error = math.sqrt(tensors + (deviation * turn) ** 2)
    return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0


def _normal_tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2.0))
