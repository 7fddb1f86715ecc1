"""The tree as text: a line for each checkpoint, what is certain in few words and what is not with its probability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..report.text import count, plain, short_names, value
from .tree import Node, Parent, Tree

__all__ = ["CERTAIN_ENOUGH", "outline", "remark", "tree_text"]

CERTAIN_ENOUGH = 0.95
"""From this probability on nothing is said of it."""

_ALTERNATIVES = 2  # named on a line; JSON has them all


def tree_text(tree: Tree) -> str:
    """The forest, one line for each checkpoint under its first parent; then the notes. Ends in a newline."""
    start, names = short_names(tree.labels)
    rows = [
        (f"{branch}{names[number]}", _length(tree.nodes[number]), remark(tree, number, names))
        for number, branch in outline(tree)
    ]
    heading = f"{count(len(tree.nodes), 'checkpoint')} in {count(len(tree.roots), 'tree')}"
    if start:
        heading += f", names after {start}"
    width = max(len(name) for name, _, _ in rows)
    title = "relative_delta" if any(length for _, length, _ in rows) else ""
    lines = [heading, "", f"{'':{width}}  {title}".rstrip()] if title else [heading, ""]
    lines += [f"{name:{width}}  {length:>{len(title)}}  {text}".rstrip() for name, length, text in rows]
    if tree.notes:
        lines += ["", *(f"note: {plain(note)}" for note in tree.notes)]
    return "\n".join(lines) + "\n"


def outline(tree: Tree) -> Iterator[tuple[int, str]]:
    """The checkpoints from each root down, with the branches that are drawn before their names."""
    # A chain of 500 fine-tunes is deeper than Python's stack likes, so the pending lines are kept here.
    pending = [(root, "", "") for root in reversed(tree.roots)]
    while pending:
        number, branch, below = pending.pop()
        yield number, branch
        children = tree.children(number)
        for place, child in reversed(list(enumerate(children))):
            last = place == len(children) - 1
            pending.append((child, below + ("└── " if last else "├── "), below + ("    " if last else "│   ")))


def remark(tree: Tree, number: int, names: Sequence[str]) -> str:
    """What there is to say of one checkpoint beside its place in the tree."""
    node = tree.nodes[number]
    parts = [_relation(tree, number, names)]
    for parent in node.parents[:1]:
        parts += [*_support(number, parent, names), *_direction(parent)]
    return "; ".join(part for part in parts if part)


def _relation(tree: Tree, number: int, names: Sequence[str]) -> str:
    node = tree.nodes[number]
    if node.relation == "root":
        if number == tree.base:
            return "root, as given"
        if node.root is not None and node.root < CERTAIN_ENOUGH:
            others = [
                (other.root, names[place])
                for place, other in enumerate(tree.nodes)
                if other.root and place != number and tree.root_of(place) == number
            ]
            best = max(others, default=None)
            return f"root {_percent(node.root)}" + (f", else {best[1]} {_percent(best[0])}" if best else "")
        return "root"
    if node.relation == "merge":
        return "merge: " + " + ".join(f"{parent.weight:.3g} {names[parent.node]}" for parent in node.parents)
    return {
        "step": "",
        "rounded": f"rounded to {node.dtype}",
        "part": "the same values in what both have",
        "copy": "copy, equal in every element",
    }[node.relation]


def _support(number: int, parent: Parent, names: Sequence[str]) -> list[str]:
    if parent.support >= CERTAIN_ENOUGH:
        return []
    others = []
    for older, younger, probability in parent.alternatives[:_ALTERNATIVES]:
        edge = f"from {names[older]}" if younger == number else f"{names[older]} → {names[younger]}"
        others.append(f"{edge} {_percent(probability)}")
    return [", ".join([f"edge {_percent(parent.support)}", *(f"else {other}" for other in others)])]


def _direction(parent: Parent) -> list[str]:
    if parent.direction is None or parent.direction >= CERTAIN_ENOUGH:
        return []
    return [f"direction {_percent(parent.direction)}"]


def _percent(probability: float | None) -> str:
    return f"{100 * (probability or 0.0):.0f} %"


def _length(node: Node) -> str:
    return value(node.parents[0].relative_delta) if node.parents and node.relation != "copy" else ""
