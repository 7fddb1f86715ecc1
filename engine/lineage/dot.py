"""The tree as a Graphviz graph; Graphviz itself is not needed to write it."""

from __future__ import annotations

from ..report.text import plain, short_names, value
from .lines import CERTAIN_ENOUGH, remark
from .tree import Parent, Tree

__all__ = ["tree_dot"]


def tree_dot(tree: Tree) -> str:
    """The graph in the DOT language.

    An arrow leads from parent to child; it has no head where the direction is uncertain, and is dashed where the edge
    is. Names are data: quotes and backslashes are escaped, so that none of DOT's own escapes is in them.
    """
    _, names = short_names(tree.labels)
    lines = ["digraph lineage {", "  rankdir=LR;", '  node [shape=box, fontname="Helvetica"];']
    for number, node in enumerate(tree.nodes):
        said = remark(tree, number, names)
        label = r"\n".join(_escaped(part) for part in (names[number], said) if part)
        style = ', style="bold"' if node.relation == "root" else ""
        lines.append(f'  n{number} [label="{label}"{style}];')
    for number, node in enumerate(tree.nodes):
        for parent in node.parents:
            lines.append(f"  n{parent.node} -> n{number} [{', '.join(_attributes(parent, node.relation))}];")
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(parent: Parent, relation: str) -> list[str]:
    share = "" if parent.weight is None else f"{parent.weight:.3g}"
    out = [f'label="{share or ("=" if relation == "copy" else value(parent.relative_delta))}"']
    if parent.support < CERTAIN_ENOUGH:
        out.append("style=dashed")
    if parent.direction is None or parent.direction < CERTAIN_ENOUGH:
        out.append("dir=none")
    return out


def _escaped(text: str) -> str:
    return plain(text).replace("\\", "\\\\").replace('"', '\\"')
