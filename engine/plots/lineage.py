"""A tree of descent as a picture: generations from left to right, a row for each checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lineage.lines import CERTAIN_ENOUGH, outline, remark
from ..lineage.tree import Tree
from ..report.text import count, elide, short_names
from .figure import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["lineage_picture"]

# Okabe and Ito's colours, as in `panels`; the markers tell the relations apart in grey.
_LOOKS = {
    "root": ("black", "s", "root"),
    "step": ("#0072B2", "o", "moved weights"),
    "merge": ("#D55E00", "D", "merge"),
    "rounded": ("#009E73", "v", "rounded to fewer bits"),
    "part": ("#CC79A7", "P", "same values, other tensors"),
    "copy": ("#E69F00", "X", "equal copy"),
}
_ROW, _COLUMN = 0.27, 0.42  # inches
_LABEL, _REMARK = 44, 60  # characters
_POINTS = 0.075  # inches that a character of a label takes


def lineage_picture(tree: Tree, fmt: str, table: str = "") -> bytes:
    """The picture of a tree.

    A dashed line is an edge, a line without an arrowhead a direction, that is less probable than `CERTAIN_ENOUGH`. The
    other parents of a merge are dotted.

    Args:
        fmt: "png", "svg" or "html".
        table: HTML that stands under the picture in "html".
    """
    return drawn(lambda: _figure(tree), fmt, table)


def _figure(tree: Tree) -> tuple[Figure, str]:
    from matplotlib.figure import Figure

    start, names = short_names(tree.labels)
    places: dict[int, tuple[int, int]] = {}
    for row, (number, _) in enumerate(outline(tree)):
        parents = tree.nodes[number].parents
        places[number] = (places[parents[0].node][0] + 1 if parents else 0, row)
    texts = {number: _text(tree, number, names) for number in places}
    longest = max(places[number][0] * _COLUMN + len(text) * _POINTS for number, text in texts.items())
    width = max(longest + 0.5, 5.0)
    figure = Figure(figsize=(width, _ROW * len(places) + 1.3), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(-0.6, width / _COLUMN - 0.6)
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.set_axis_off()
    for number in places:
        _edges(axes, tree, number, places)
    for number, (column, row) in places.items():
        colour, marker, _ = _LOOKS[tree.nodes[number].relation]
        axes.plot([column], [row], marker=marker, color=colour, markersize=6, zorder=3)
        axes.annotate(
            texts[number],
            (column, row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            zorder=4,
            # Over the dotted lines of merges, which may cross anything.
            bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.75, "linewidth": 0},
        )
    _legend(figure, tree)
    title = f"Descent of {count(len(places), 'checkpoint')}" + (f" in {elide(start, 60)}" if start else "")
    figure.suptitle(title, fontsize=11)
    return figure, title


def _text(tree: Tree, number: int, names: list[str]) -> str:
    said = remark(tree, number, names)
    return elide(names[number], _LABEL) + (f"   {elide(said, _REMARK)}" if said else "")


def _edges(axes: Axes, tree: Tree, number: int, places: dict[int, tuple[int, int]]) -> None:
    node = tree.nodes[number]
    column, row = places[number]
    colour = _LOOKS[node.relation][0]
    for place, parent in enumerate(node.parents):
        left, top = places[parent.node]
        dashed = parent.support < CERTAIN_ENOUGH
        style = ":" if place else "--" if dashed else "-"
        if place:  # the other parent of a merge may stand anywhere
            corner, bend = (left, top), "arc3,rad=0.15"
        else:
            axes.plot([left, left], [top, row], color="0.6", linewidth=1.0, zorder=1)
            corner, bend = (left, row), "arc3"
        known = parent.direction is not None and parent.direction >= CERTAIN_ENOUGH
        look = {
            "arrowstyle": "-|>" if known else "-",
            "color": colour,
            "linestyle": style,
            "linewidth": 1.1,
            "shrinkA": 0 if not place else 4,
            "shrinkB": 4,
            "connectionstyle": bend,
            "mutation_scale": 8,
        }
        axes.annotate("", xy=(column, row), xytext=corner, arrowprops=look, zorder=2)


def _legend(figure: Figure, tree: Tree) -> None:
    from matplotlib.lines import Line2D

    used = {node.relation for node in tree.nodes}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=label)
        for relation, (colour, marker, label) in _LOOKS.items()
        if relation in used
    ]
    parents = [parent for node in tree.nodes for parent in node.parents]
    if any(parent.support < CERTAIN_ENOUGH for parent in parents):
        handles.append(Line2D([], [], color="0.3", linestyle="--", label=f"edge below {CERTAIN_ENOUGH:.0%}"))
    if "merge" in used:
        handles.append(Line2D([], [], color="0.3", linestyle=":", label="other parents of a merge"))
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=8)
