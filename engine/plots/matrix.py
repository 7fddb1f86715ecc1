"""A matrix -> a picture: a heat map in the order of a clustering, its dendrogram beside it; or one for every group."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError
from ..matrix_table import TASK_COSINE, Matrix
from ..options import named
from ..report.text import elide, plain, short_names, value
from .figure import drawn
from .panels import _plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_scipy", "clustered", "matrix_picture"]

Floats = NDArray[np.float64]

_LIKENESS = ("cosine", TASK_COSINE)
_WRITTEN = 12  # checkpoints up to which a cell holds its number
_OPTIMAL = 200  # checkpoints up to which leaves are ordered best, which takes N cubed
_LABEL = 34
_DECADES = 20.0  # a scale is logarithmic where the greatest is so many times the least
_COLUMNS = 4


def check_scipy() -> None:
    """Finds out before any work whether a clustering can be computed.

    Raises:
        OptionError: scipy is not installed.
    """
    try:
        import scipy.cluster.hierarchy  # noqa: F401
    except ImportError as error:
        raise OptionError("--plot of a matrix needs scipy; install weighbridge[plot].") from error


def clustered(values: Floats, metric: str) -> tuple[list[int], Floats]:
    """The order of leaves and the linkage of a clustering by average distance (UPGMA).

    Args:
        values: (N, N) a metric; of likenesses the distance is 1 - value, and what differs with who is the base is
            taken in the mean. Two that have nothing in common are farther apart than all others.
        metric: its name.
    Returns:
        The N numbers in the order of the leaves, and scipy's (N - 1, 4) linkage.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    distances = 1.0 - values if metric in _LIKENESS else values
    distances = (distances + distances.T) / 2
    known = distances[np.isfinite(distances)]
    far = 1.1 * float(known.max(initial=0.0)) or 1.0
    distances = np.where(np.isfinite(distances), np.maximum(distances, 0.0), far)
    np.fill_diagonal(distances, 0.0)
    condensed = squareform(distances, checks=False)
    tree = linkage(condensed, "average")
    if len(values) <= _OPTIMAL:
        tree = optimal_leaf_ordering(tree, condensed)
    return [int(leaf) for leaf in leaves_list(tree)], tree


def matrix_picture(
    matrix: Matrix, fmt: str, *, metric: str = "relative_delta", by: str | None = None, table: str = ""
) -> bytes:
    """The picture of a metric, pooled, over all tensors or over those of every kind or layer.

    Args:
        matrix: all pairs.
        fmt: "png", "svg" or "html", as for `figure.picture`.
        metric: one of the matrix's metrics.
        by: None, "kind" or "layer".
        table: HTML that stands under the picture in "html".
    Raises:
        OptionError: the metric was not computed, `by` is "tensor", or there is nothing to draw.
    """
    named(metric, matrix.metrics, "metric", "--metric")
    if by == "tensor":
        raise OptionError("--plot cannot draw a panel for every tensor; take --by kind or --by layer.")
    if not np.isfinite(matrix[metric]).any():
        raise OptionError(f"there is nothing to draw: no pair has a finite {metric}; choose another with --metric.")
    return drawn(lambda: _one(matrix, metric) if by is None else _many(matrix, metric, by), fmt, table)


def _one(matrix: Matrix, metric: str) -> tuple[Figure, str]:
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import dendrogram

    count = len(matrix.labels)
    order, tree = clustered(matrix[metric], metric)
    names = _names(matrix)
    cell = 0.75 if count <= _WRITTEN else max(0.17, min(0.3, 13.0 / count))
    side = max(2.4, cell * count)
    stem, gap = 1.3, 0.08
    fontsize = 8 if count <= _WRITTEN else max(4.5, min(8.0, 39 * cell))
    text = 0.0078 * fontsize * max(map(len, names)) + 0.15  # inches; DejaVu Sans is 0.56 of its size wide
    width, height = stem + gap + side + text + 0.9, side + text + 0.55
    figure = Figure(figsize=(width, height))
    branches = figure.add_axes((0.0, text / height, stem / width, side / height))
    heat = figure.add_axes(((stem + gap) / width, text / height, side / width, side / height))
    import matplotlib as mpl

    with mpl.rc_context({"lines.linewidth": 1.0}):
        dendrogram(
            tree, ax=branches, orientation="left", no_labels=True, color_threshold=0, above_threshold_color="0.35"
        )
    branches.set_ylim(10 * count, 0)  # the first leaf on top, as the first line of the map
    branches.set_axis_off()
    values = matrix[metric][np.ix_(order, order)]
    scale = _Scale(values, metric)
    mesh = scale.draw(heat, values)
    ordered = [names[number] for number in order]
    heat.yaxis.tick_right()
    heat.set_yticks(range(count), ordered, fontsize=fontsize)
    heat.set_xticks(range(count), ordered, fontsize=fontsize, rotation=90)
    heat.tick_params(length=0)
    if count <= _WRITTEN:
        scale.write(heat, values)
    bar_axes = figure.add_axes(((stem + gap + side + text + 0.2) / width, text / height, 0.16 / width, side / height))
    _bar(figure, mesh, bar_axes, metric, scale)
    title = f"{metric} of {count} checkpoints, pooled over elements"
    figure.text((stem + gap) / width, 1 - 0.18 / height, title, fontsize=11, va="center")
    if metric == "relative_delta":
        note = "line: the other; column: the base"
        figure.text((stem + gap) / width, 1 - 0.4 / height, note, fontsize=8, va="center", color="0.35")
    return figure, title


def _many(matrix: Matrix, metric: str, by: str) -> tuple[Figure, str]:
    """A map for every group in the order of the clustering over all tensors, and one scale for all of them."""
    from matplotlib.figure import Figure

    order, _ = clustered(matrix[metric], metric)
    whole = {"all tensors": matrix[metric]}
    for key, group in matrix.groups(by).items():
        if (group.n > 0).any():
            name = str(key) if by == "kind" else "no layer" if key is None else f"layer {key}"
            whole[name] = group.pooled[metric]
    maps = {name: values[np.ix_(order, order)] for name, values in whole.items()}
    scale = _Scale(np.stack(list(maps.values())), metric)
    count, names = len(order), _names(matrix)
    columns = min(_COLUMNS, len(maps))
    lines = math.ceil(len(maps) / columns)
    named_axes = count <= 16
    figure = Figure(figsize=(2.5 * columns + 2.2, 2.6 * lines + (1.6 if named_axes else 0.6)), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    mesh: Any = None
    for place, panel in enumerate(panels.flat):
        if place >= len(maps):
            panel.set_axis_off()
            continue
        title, values = list(maps.items())[place]
        mesh = scale.draw(panel, values)
        panel.set_title(title, fontsize=9)
        panel.tick_params(length=0)
        ordered = [names[number] for number in order]
        below = place + columns >= len(maps)
        panel.set_xticks(
            range(count) if named_axes and below else [], ordered if named_axes and below else [], rotation=90
        )
        left = named_axes and place % columns == 0
        panel.set_yticks(range(count) if left else [], ordered if left else [])
        panel.tick_params(labelsize=6.5)
    box = figure.colorbar(mesh, ax=panels, fraction=0.03, pad=0.02).ax
    _label(box, metric, scale)
    title = f"{metric} of {count} checkpoints by {by}, pooled over elements, in the order of a clustering"
    figure.suptitle(title, fontsize=11)
    return figure, title


class _Scale:
    """Colours for values: logarithmic where they span decades, a likeness from its least to 1."""

    def __init__(self, values: Floats, metric: str) -> None:
        from matplotlib.colors import LogNorm, Normalize

        finite = values[np.isfinite(values)]
        positive = finite[finite > 0]
        self.zero = False
        self.norm: Normalize
        if metric in _LIKENESS:
            low = float(finite.min(initial=1.0))
            self.norm = Normalize(low if low < 1 else 0.0, 1.0)
        elif len(positive) and positive.max() > _DECADES * positive.min():
            self.norm, self.zero = LogNorm(float(positive.min()), float(positive.max())), bool((finite == 0).any())
        else:
            self.norm = Normalize(0.0, float(finite.max(initial=0.0)) or 1.0)
        self.missing = bool((~np.isfinite(values)).any())
        # Near is dark, in distances and in likenesses.
        self.colours = "viridis_r" if metric in _LIKENESS else "viridis"

    def shown(self, values: Floats) -> Any:
        """The values as they are coloured; zero lies under a logarithmic scale."""
        masked = np.ma.masked_invalid(values)
        return np.ma.where(masked == 0, self.norm.vmin / 10, masked) if self.zero and self.norm.vmin else masked

    def draw(self, axes: Axes, values: Floats) -> Any:
        """A cell for every entry, the first line on top."""
        import matplotlib as mpl

        colours = mpl.colormaps[self.colours].with_extremes(bad="0.85", under="black" if self.zero else None)
        return axes.imshow(self.shown(values), cmap=colours, norm=self.norm, interpolation="nearest", aspect="auto")

    def write(self, axes: Axes, values: Floats) -> None:
        """The number of every cell, light on dark and dark on light."""
        light = self.colours.endswith("_r")
        for i, row in enumerate(values.tolist()):
            for j, number in enumerate(row):
                if math.isfinite(number):
                    at = float(self.norm(max(number, float(self.norm.vmin or 0.0))))
                    dark = (1 - at if light else at) < 0.6
                    axes.text(
                        j, i, value(number), ha="center", va="center", fontsize=6.5, color="white" if dark else "black"
                    )


def _bar(figure: Figure, mesh: Any, axes: Axes, metric: str, scale: _Scale) -> None:
    figure.colorbar(mesh, cax=axes)
    _label(axes, metric, scale)


def _label(axes: Axes, metric: str, scale: _Scale) -> None:
    axes.yaxis.set_major_formatter(_plain_ticks())
    axes.yaxis.set_minor_formatter(_plain_ticks(few_of_a_decade=True))
    axes.tick_params(which="both", labelsize=7)
    axes.set_ylabel(metric + "; black: 0" * scale.zero + "; grey: none" * scale.missing, fontsize=8)


def _names(matrix: Matrix) -> list[str]:
    return [elide(plain(name), _LABEL) for name in short_names(matrix.labels)[1]]
