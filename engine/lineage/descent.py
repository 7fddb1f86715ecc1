"""Sums in, tree out: doublets aside, merges found, the tree drawn, its directions weighed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from .copies import equal_groups, grown_from_rounded, is_rounded, narrow
from .direction import CERTAIN, lean, right_angle, root_probabilities
from .family import Family
from .graph import Edge, outward, path, side
from .merges import Merge, find_merges, without_circles
from .soups import find_soups
from .spanning import reachable, spanning_edges
from .support import lifted, support
from .tree import Node, Parent, Tree

__all__ = ["descend"]

_ROUNDS = 4  # of rooting and lifting; the second seldom changes anything
_NEAREST = 8  # sources of a rounded copy looked at, the nearest first


def descend(family: Family, base: int | None = None) -> Tree:
    """The tree of descent of a family.

    Args:
        family: the sums of N checkpoints, N >= 1.
        base: the number of the one from which its relatives descend; None: the sums must tell.
    Returns:
        The tree; a pure function of its arguments.
    """
    groups = equal_groups(family, base)
    leads = sorted(group[0] for group in groups)
    rounded = {lead: source for lead in leads if (source := _source(family, lead, leads)) is not None}
    closed = dict(rounded) if base is None else {**rounded, base: base}
    merges = find_merges(family, leads, closed)
    merges = without_circles({**merges, **find_soups(family, leads, {*closed, *merges})})
    far = reachable(family, rounded)
    edges = spanning_edges(family, far, leads, merges, base)
    nodes: dict[int, Node] = {}
    for group in groups:
        for copy in group[1:]:
            nodes[copy] = Node(family.labels[copy], "copy", (Parent(group[0], None, 0.0, 0.0, 1.0, None),), None, None)
    for members in _components(leads, edges):
        inside = [edge for edge in edges if edge[0] in members]
        nodes.update(_rooted(family, far, sorted(members), inside, merges, base))
    return Tree(
        tuple(nodes[number] for number in range(len(family))), base, tuple(_notes(family, leads, rounded, base))
    )


def _source(family: Family, number: int, leads: list[int]) -> int | None:
    """What a checkpoint is the rounded copy of: the nearest of those that it may be."""
    others = [other for other in leads if other != number]
    near = sorted(others, key=lambda other: float(family.total[number, other]))
    wider = [other for other in near if narrow(family, number, other).any()][:_NEAREST]
    return next((other for other in wider if is_rounded(family, number, other)), None)


def _components(leads: list[int], edges: list[Edge]) -> list[set[int]]:
    out: list[set[int]] = []
    for lead in leads:
        if not any(lead in found for found in out):
            out.append(side(edges, (lead, lead)))
    return out


def _rooted(
    family: Family,
    far: np.ndarray,
    members: list[int],
    edges: list[Edge],
    merges: Mapping[int, Merge],
    base: int | None,
) -> dict[int, Node]:
    """The nodes of one tree."""

    def certain(u: int, v: int) -> float:
        if v in merges and u in merges[v].parents:
            return CERTAIN
        if u in merges and v in merges[u].parents:
            return -CERTAIN
        if is_rounded(family, v, u) or grown_from_rounded(family, u, v):
            return CERTAIN
        if is_rounded(family, u, v) or grown_from_rounded(family, v, u):
            return -CERTAIN
        return 0.0

    certain = cache(certain)

    def of_training(u: int, v: int) -> bool:
        is_merge = (v in merges and u in merges[v].parents) or (u in merges and v in merges[u].parents)
        return not (is_merge or is_rounded(family, u, v) or is_rounded(family, v, u))

    of_training = cache(of_training)

    def step(u: int, v: int) -> float:
        return right_angle(family, u, v) if of_training(u, v) else 0.0

    def pair(middle: int, a: int, b: int) -> float:
        return lean(family, middle, a, b) if of_training(middle, a) and of_training(middle, b) else 0.0

    for _ in range(_ROUNDS):
        if base in members:
            chance = {number: float(number == base) for number in members}
        elif edges:
            chance = root_probabilities(edges, certain, step, pair)
        else:
            chance = {members[0]: 1.0}
        root = max(members, key=lambda number: (chance[number], -number))
        before, edges = edges, outward(lifted(family, edges, root, far, of_training), root)
        if set(map(frozenset, before)) == set(map(frozenset, edges)):
            break
    made = {edge[1]: _parents(family, edges, edge, far, merges, chance, of_training(*edge)) for edge in edges}
    _turn(made, edges)
    out = {root: Node(family.labels[root], "root", (), None, chance[root])}
    for older, younger in edges:
        relation, dtype = "step", None
        if younger in merges and older in merges[younger].parents:
            relation = "merge"
        elif dtype := is_rounded(family, younger, older):
            relation = "rounded"
        elif family.differing[:, family.place[older, younger]].sum() == 0:
            relation = "part"
        out[younger] = Node(family.labels[younger], relation, made[younger], dtype, chance[younger])
    return out


def _turn(made: dict[int, tuple[Parent, ...]], edges: list[Edge]) -> None:
    """Lowers the directions that would turn round if an edge before them gave way to its alternative.

    An alternative that reaches deeper into what hangs on an edge turns all edges on the way from there.
    """
    turned: dict[int, float] = {}
    for _, younger in edges:
        for _, reached, probability in made[younger][0].alternatives:
            for node in path(edges, younger, reached)[1:]:
                turned[node] = max(turned.get(node, 0.0), probability)
    for node, probability in turned.items():
        if made[node][0].weight is None:
            made[node] = tuple(
                replace(parent, direction=(parent.direction or 0.0) * (1.0 - probability)) for parent in made[node]
            )


def _parents(
    family: Family,
    edges: list[Edge],
    edge: Edge,
    far: np.ndarray,
    merges: Mapping[int, Merge],
    chance: Mapping[int, float],
    of_training: bool,
) -> tuple[Parent, ...]:
    older, younger = edge
    direction = min(sum(chance[node] for node in side(edges, edge)), 1.0)
    if younger in merges and older in merges[younger].parents:
        merge = merges[younger]
        return tuple(
            Parent(number, weight, *_lengths(family, number, younger), 1.0, direction)
            for number, weight in zip(merge.parents, merge.weights, strict=True)
        )
    sure, alternatives = support(family, edges, edge, far, merges, of_training)
    told = tuple((*alternative.edge, alternative.probability) for alternative in alternatives)
    return (Parent(older, None, *_lengths(family, older, younger), sure, direction, told),)


def _lengths(family: Family, older: int, younger: int) -> tuple[float, float]:
    place = family.place[older, younger]
    squared = float(family.squared[:, place].sum())
    norm = float(family.selfs[family.measured[:, place], older, 3].sum())
    return math.sqrt(squared), math.sqrt(squared / norm) if norm > 0 else math.nan


def _notes(family: Family, leads: list[int], rounded: Mapping[int, int], base: int | None) -> list[str]:
    out = []
    if base is not None and base in rounded:
        source = family.labels[rounded[base]]
        out.append(f"{family.labels[base]} is {source} rounded; it is the root because it was given as the base")
    bad = (np.where(family.present, family.selfs[:, :, 5], 0.0) > 0).any(axis=0)
    for number in np.flatnonzero(bad):
        out.append(f"tensors of {family.labels[number]} hold NaN or infinity and were left out of its distances")
    partly = [number for number in leads if not family.alike[number, leads].all()]
    if partly:
        out.append(
            f"{len(partly)} of {len(leads)} different checkpoints lack tensors of others or have more; distances are "
            "over what two share, and merges are looked for among those with the same tensors"
        )
    return out
