"""The tree of descent as plain data: what `weighbridge.lineage` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..strict import exact

__all__ = ["Node", "Parent", "Tree"]


@dataclass(frozen=True)
class Parent:
    """One edge of the tree, told by the child.

    Attributes:
        node: the parent's number.
        weight: its share where the child is a merge, else None.
        distance: the Euclidean distance of parent and child over the tensors that both have.
        relative_delta: that over the parent's norm.
        support: how probable it is that these two are neighbours.
        direction: how probable it is that the parent is the older, given that they are; None for equal checkpoints,
            which have no order.
        alternatives: (older, younger, probability) of edges that could stand in its place.
    """

    node: int
    weight: float | None
    distance: float
    relative_delta: float
    support: float
    direction: float | None
    alternatives: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Node:
    """One checkpoint.

    Attributes:
        label: the name that the user gave it.
        relation: how it stands to its parents: "root", "step" (weights that moved), "merge" (an average),
            "rounded" (the same weights in fewer bits), "part" (the same values in all tensors that both have, and not
            the same tensors), or "copy" (the same tensors and values).
        parents: none of a root, two or more of a merge, the heaviest first.
        dtype: of "rounded", the dtype that it was rounded to.
        root: how probable it is that it is the root of its tree; 1 for a given base, None for copies.
    """

    label: str
    relation: str
    parents: tuple[Parent, ...]
    dtype: str | None = None
    root: float | None = None


@dataclass(frozen=True)
class Tree:
    """The descent of N checkpoints: a forest, for unrelated ones stand apart.

    Attributes:
        nodes: N, in the order in which the checkpoints were given.
        base: the number of the checkpoint that was given as the root, or None.
        notes: phrases on what limits the answer.
        bytes_read, seconds: what it took.
    """

    nodes: tuple[Node, ...]
    base: int | None = None
    notes: tuple[str, ...] = ()
    bytes_read: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """The checkpoints' names."""
        return tuple(node.label for node in self.nodes)

    @property
    def roots(self) -> tuple[int, ...]:
        """The numbers of the roots, one for each tree, that of the largest tree first."""
        sizes = [0] * len(self.nodes)
        for number in range(len(self.nodes)):
            sizes[self.root_of(number)] += 1
        return tuple(sorted((number for number, size in enumerate(sizes) if size), key=lambda number: -sizes[number]))

    def root_of(self, number: int) -> int:
        """The root of the tree that a checkpoint is in, by its first parents."""
        while self.nodes[number].parents:
            number = self.nodes[number].parents[0].node
        return number

    def children(self, number: int) -> tuple[int, ...]:
        """Those whose first parent this is: copies first, then the nearest first."""
        found = [other for other, node in enumerate(self.nodes) if node.parents and node.parents[0].node == number]

        def order(other: int) -> tuple[bool, float]:
            return self.nodes[other].relation != "copy", self.nodes[other].parents[0].distance

        return tuple(sorted(found, key=order))

    def to_dict(self) -> dict[str, Any]:
        """What `--format json` prints: see README, "weighbridge lineage"."""
        return {
            "base": None if self.base is None else self.labels[self.base],
            "roots": [self.labels[number] for number in self.roots],
            "checkpoints": [self._node(node) for node in self.nodes],
            "notes": list(self.notes),
        }

    def _node(self, node: Node) -> dict[str, Any]:
        return {
            "checkpoint": node.label,
            "relation": node.relation,
            "dtype": node.dtype,
            "root_probability": node.root,
            "parents": [
                {
                    "checkpoint": self.labels[parent.node],
                    "weight": parent.weight,
                    "distance": parent.distance,
                    "relative_delta": exact(parent.relative_delta),
                    "support": parent.support,
                    "direction": parent.direction,
                    "alternatives": [
                        {"parent": self.labels[older], "child": self.labels[younger], "probability": probability}
                        for older, younger, probability in parent.alternatives
                    ],
                }
                for parent in node.parents
            ],
        }

    def __repr__(self) -> str:
        kinds = [node.relation for node in self.nodes]
        counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
        return f"Tree({len(self.nodes)} checkpoints: {', '.join(counts)})"

    def __str__(self) -> str:
        from .lines import tree_text

        return tree_text(self)
