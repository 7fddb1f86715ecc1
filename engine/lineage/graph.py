"""Edges of a forest: who is next to whom, on which side, and on the way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["Edge", "neighbours", "outward", "path", "side", "steps"]

Edge = tuple[int, int]


def steps(nodes: Sequence[int]) -> list[Edge]:
    """The edges between nodes that follow each other."""
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


def outward(edges: Sequence[Edge], root: int) -> list[Edge]:
    """The edges of the root's tree as (older, younger), the nearest to the root first."""
    near, came = neighbours(edges), {root: root}
    queue, out = [root], []
    for node in queue:
        for other in near.get(node, ()):
            if other not in came:
                came[other] = node
                queue.append(other)
                out.append((node, other))
    return out
