"""The two panels: drift over the others as lines by kind, and a heat map of layers x others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..report.text import elide, plain
from .data import Axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_drift", "draw_heatmap", "draw_x"]

# Okabe and Ito's colours, which people with any common colour blindness tell apart; black is all tensors. The dashes
# and markers tell the lines apart in grey.
_COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7")
_DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1.2)))
_MARKERS = ("o", "s", "^", "D", "v")
_MARKED = 20  # markers on a line
_DECADES = 30.0  # the ratio of largest and smallest from which an axis is logarithmic
_TICKS, _LAYER_TICKS, _LABEL = 40, 25, 28


def draw_drift(axes: Axes, axis: Axis, lines: Sequence[tuple[str, NDArray[np.float64]]], metric: str) -> None:
    """A line per kind and one, black, for all tensors; NaN and infinity are gaps, and 0 where the axis is logarithmic.

    Args:
        lines: (name, (M,) values) each; the last is that of all tensors.
    """
    everything = np.concatenate([values for _, values in lines])
    log = _logarithmic(everything)
    zero = log and bool(np.any(everything == 0))
    markevery = -(-len(axis.places) // _MARKED) or 1
    for number, (name, values) in enumerate(lines):
        whole = number == len(lines) - 1
        shown = np.where(np.isfinite(values) & ~(log & (values == 0)), values, np.nan)
        colour = "black" if whole else _COLOURS[number % len(_COLOURS)]
        axes.plot(
            axis.places,
            shown,
            label=plain(name),
            color=colour,
            linestyle="-" if whole else _DASHES[number % len(_DASHES)],
            linewidth=2.2 if whole else 1.4,
            marker=None if whole else _MARKERS[number % len(_MARKERS)],
            markersize=4,
            markevery=markevery,
            zorder=2 if whole else 3,  # the sum of the others often lies where one of them does
        )
        alone = _alone(shown)
        axes.plot(axis.places[alone], shown[alone], ".", color=colour, zorder=3)
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high / low < 1000:  # else the decades are ticks enough
            axes.yaxis.set_minor_formatter(_plain_ticks(few_of_a_decade=True))
    axes.yaxis.set_major_formatter(_plain_ticks())
    axes.set_ylabel(f"{metric} (pooled{'; 0 is a gap' if zero else ''})")
    axes.grid(True, which="major", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)


def draw_heatmap(axes: Axes, axis: Axis, layers: Sequence[Any], values: NDArray[np.float64], metric: str) -> None:
    """A cell per layer and other; NaN and infinity are grey, and 0 is white where the colours are logarithmic.

    Args:
        values: (layers, M).
    """
    import matplotlib as mpl
    from matplotlib.colors import LogNorm, Normalize

    shown = np.ma.masked_invalid(values)
    zero = False
    low, high = (float(shown.min()), float(shown.max())) if shown.count() else (0.0, 1.0)
    if _logarithmic(values):
        positive = values[np.isfinite(values) & (values > 0)]
        norm: Normalize = LogNorm(float(positive.min()), high)
        zero = bool((shown == 0).any())
        shown = np.ma.where(shown == 0, float(positive.min()) / 10, shown)  # below the scale, where the white is
    else:
        norm = Normalize(low, high if high > low else low + (abs(low) or 1.0))
    colours = mpl.colormaps["viridis"].with_extremes(bad="0.8", under="white")
    rows = np.arange(len(layers) + 1) - 0.5
    mesh = axes.pcolormesh(_edges(axis.places), rows, shown, cmap=colours, norm=norm, rasterized=values.size > 2000)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    step = -(-len(layers) // _LAYER_TICKS) or 1
    ticks = list(range(0, len(layers), step))
    if layers and layers[-1] is None and ticks[-1] != len(layers) - 1:
        ticks = [tick for tick in ticks if len(layers) - 1 - tick >= max(step // 2, 1)] + [len(layers) - 1]
    axes.set_yticks(ticks, ["no layer" if layers[tick] is None else str(layers[tick]) for tick in ticks], fontsize=8)
    axes.set_ylabel("layer")
    box = axes.inset_axes((1.015, 0.0, 0.02, 1.0))
    bar = axes.figure.colorbar(mesh, cax=box)
    bar.ax.yaxis.set_major_formatter(_plain_ticks())
    bar.ax.yaxis.set_minor_formatter(_plain_ticks(few_of_a_decade=True))
    bar.ax.tick_params(which="both", labelsize=8)
    bar.set_label(
        f"{metric} (pooled)" + "; white: 0" * zero + "; grey: none" * bool(shown.count() < shown.size), fontsize=8
    )


def draw_x(axes: Axes, axis: Axis) -> None:
    """Ticks and the name of the x axis: numbers of the extra column, or as many labels as can be read."""
    edges = _edges(axis.places)
    axes.set_xlim(edges[0], edges[-1])
    if axis.name is not None:
        axes.xaxis.set_major_formatter(_plain_ticks())
        axes.set_xlabel(plain(axis.name))
        return
    step = -(-len(axis.labels) // _TICKS) or 1
    shared = _shared_start(axis.labels)
    names = [elide(plain(label[len(shared) :]), _LABEL) for label in axis.labels[::step]]
    slanted = sum(map(len, names)) > 90 or len(names) > 12
    axes.set_xticks(axis.places[::step])
    axes.set_xticklabels(names, rotation=90 if slanted else 0, fontsize=7 if len(names) > 20 else 8)
    of = f"{shared}…, " if shared else ""
    every = "" if step == 1 else f", one in {step} named"
    axes.set_xlabel(f"{elide(plain(of), 70)}in the order of the sweep{every}")


def _shared_start(labels: Sequence[str]) -> str:
    """The folders that all labels stand in; naming them under every tick tells nothing."""
    start = os.path.commonprefix(list(labels))  # noqa: RUF071 -- hub ids are no paths; cut at a slash below
    return start[: start.rfind("/") + 1] if len(labels) > 1 else ""


def _alone(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values have a gap or nothing on either side: no line goes through them."""
    gap = np.concatenate([[True], np.isnan(values), [True]])
    return ~gap[1:-1] & gap[:-2] & gap[2:]


def _logarithmic(values: NDArray[np.float64]) -> bool:
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive) or np.any(values[np.isfinite(values)] < 0):
        return False
    return float(positive.max()) > _DECADES * float(positive.min())


def _edges(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M + 1,) the borders of cells around M places."""
    if len(places) < 2:
        return np.array([-0.5, 0.5]) + (places[0] if len(places) else 0.0)
    middles = (places[1:] + places[:-1]) / 2
    first, last = places[0] - (middles[0] - places[0]), places[-1] + (places[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])


def _plain_ticks(few_of_a_decade: bool = False) -> Any:
    """Numbers as on the terminal: matplotlib's own are mathematical text, which is switched off for the names' sake."""
    from matplotlib.ticker import FuncFormatter

    def text(number: float, place: int | None) -> str:
        if few_of_a_decade and f"{number:e}"[0] not in "25":
            return ""
        return f"{number:.6g}"

    return FuncFormatter(text)
