"""An estimated tree against the family that it was estimated from: what was found, what of it is true."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from weighbridge import Tree

from .families import Born

__all__ = ["Edge", "Found", "Verdict", "judge"]


@dataclass(frozen=True)
class Found:
    """How many there are, how many were found, and how many of those are right."""

    true: int = 0
    found: int = 0
    right: int = 0

    def __add__(self, other: "Found") -> "Found":
        return Found(self.true + other.true, self.found + other.found, self.right + other.right)

    def __str__(self) -> str:
        precision, recall = (100 * self.right / count if count else 100.0 for count in (self.found, self.true))
        return f"{precision:.0f} % / {recall:.0f} % ({self.right} of {self.found} / {self.true})"


@dataclass(frozen=True)
class Edge:
    """One edge of the estimate: what was said of it, and whether it is there and points the right way."""

    support: float
    direction: float
    right: bool
    pointing: bool


@dataclass(frozen=True)
class Verdict:
    """All that a tree is judged by.

    Attributes:
        edges: pairs of parent and child, either way round; copies stand for what they are copies of.
        directed: the same, the right way round. Of those edges that are right anyway, the difference is directions.
        merges: named as such with both parents and weights within 0.01.
        copies, rounded: named as such, and of what.
        each: every edge that was found, with what was said of it.
    """

    edges: Found = Found()
    directed: Found = Found()
    merges: Found = Found()
    copies: Found = Found()
    rounded: Found = Found()
    each: tuple[Edge, ...] = ()

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def judge(tree: Tree, members: Sequence[Born], names: Sequence[str]) -> Verdict:
    """The verdict on a tree.

    Args:
        tree: the estimate.
        members: the family as it was made.
        names: for each node of the tree, the name of its member.
    """
    original = {member.name: member.name for member in members}
    for member in members:
        if member.how == "copy":
            original[member.name] = original[member.parents[0]]
    true = {(original[parent], member.name) for member in members if member.how != "copy" for parent in member.parents}
    said = {}
    for name, node in zip(names, tree.nodes, strict=True):
        if node.relation != "copy":
            for parent in node.parents:
                said[original[names[parent.node]], original[name]] = parent
    either = {frozenset(edge) for edge in true}
    each = tuple(
        Edge(parent.support, parent.direction or 0.0, frozenset(edge) in either, edge in true)
        for edge, parent in said.items()
    )
    relations = {
        name: (node, [names[parent.node] for parent in node.parents])
        for name, node in zip(names, tree.nodes, strict=True)
    }
    return Verdict(
        edges=Found(len(true), len(said), sum(edge.right for edge in each)),
        directed=Found(len(true), len(said), sum(edge.pointing for edge in each)),
        merges=_named("merge", members, relations, original),
        copies=_named("copy", members, relations, original),
        rounded=_named("rounded", members, relations, original),
        each=each,
    )


def _named(relation: str, members: Sequence[Born], relations: dict, original: dict[str, str]) -> Found:
    kinds = {"merge": ("merge",), "copy": ("copy",), "rounded": ("F16", "BF16")}[relation]
    said = [name for name, (node, _) in relations.items() if node.relation == relation]
    true = [member for member in members if member.how in kinds]
    right = 0
    for member in true:
        # Of two equal checkpoints either may be called the copy of the other.
        group = [name for name in original if original[name] == original[member.name]] if relation == "copy" else []
        for name in [member.name] if relation != "copy" else [name for name in group if name in said][:1]:
            node, parents = relations[name]
            if node.relation != relation or {original[parent] for parent in parents} != {
                original[parent] for parent in member.parents
            }:
                continue
            weights = {parent: made.weight for parent, made in zip(parents, node.parents, strict=True)}
            shares = dict(zip(member.parents, member.weights, strict=False))
            right += all(abs(share - weights.get(parent, share)) < 0.01 for parent, share in shares.items())
    return Found(len(true), len(said), right)
