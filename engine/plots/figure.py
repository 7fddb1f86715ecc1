"""A sweep's results -> the bytes of a PNG, SVG or HTML file."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..options import named
from ..report.text import count, elide, plain
from ..results import OtherRows, Results
from .data import pooled_by, x_axis
from .panels import draw_drift, draw_heatmap, draw_x

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS_OF_PLOT", "SUFFIXES", "check_plot", "drawn", "picture"]

SUFFIXES = (".png", ".svg", ".html")
KINDS_OF_PLOT = ("both", "drift", "heatmap")

_WIDTH, _DRIFT_HEIGHT, _DPI = 10.0, 3.6, 150

# Names are data: no mathematical text, no TeX. Letters as paths, so that a picture is the same on every machine.
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "text.usetex": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "weighbridge",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "font.family": "DejaVu Sans",
}


def check_plot(path: str | os.PathLike[str]) -> None:
    """Finds out before any work whether a picture can be drawn.

    Raises:
        OptionError: the file is to be none of SUFFIXES, or matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise OptionError(f'--plot "{os.fspath(path)}" is none of {", ".join(SUFFIXES)}; name the file so.')
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError("--plot needs matplotlib; install weighbridge[plot].") from error


def picture(
    results: Results,
    others: Sequence[OtherRows],
    fmt: str,
    *,
    kind: str = "both",
    metric: str = "relative_delta",
    x: str | None = None,
    table: str = "",
) -> bytes:
    """The picture of a metric, pooled over the tensors of each kind, of each layer, and over all.

    Args:
        results: the sweep.
        others: those of it that are shown, with the tensors that count.
        fmt: "png", "svg" or "html": one file with the picture as inline SVG, the table under it, and no scripts.
        kind: one of KINDS_OF_PLOT.
        metric: one of METRICS.
        x: the extra column that the x axis shows; None: the others in the order of the sweep.
        table: HTML that stands under the picture in "html".
    Raises:
        OptionError: an unknown metric, kind or column, or there is nothing to draw.
    """
    named(kind, KINDS_OF_PLOT, "kind of plot", "--plot-kind")
    return drawn(lambda: _figure(results, others, kind, metric, x), fmt, table)


def drawn(draw: Callable[[], tuple[Figure, str]], fmt: str, table: str = "") -> bytes:
    """The bytes of a figure that `draw` makes together with its title, in the project's style.

    Args:
        draw: called where the style holds.
        fmt, table: as for `picture`.
    """
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # the picture does not depend on the user's matplotlibrc
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in letters the font lacks
        figure, title = draw()
        out = io.BytesIO()
        form = "png" if fmt == "png" else "svg"
        made_by = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
        figure.savefig(out, format=form, dpi=_DPI, bbox_inches="tight", metadata=made_by)
    data = out.getvalue()
    return data if fmt != "html" else _page(title, data.decode("utf-8"), table).encode("utf-8", "backslashreplace")


def _figure(results: Results, others: Sequence[OtherRows], kind: str, metric: str, x: str | None) -> tuple[Figure, str]:
    from matplotlib.figure import Figure

    groups, values = pooled_by(others, "layer" if kind == "heatmap" else "kind", metric)
    axis = x_axis(others, x, results.extra)
    if not groups or not len(axis.places):
        raise OptionError(f'there is nothing to draw of "{results.path}"; no other that is shown has numbers.')
    layers, by_layer = (groups, values) if kind != "both" else pooled_by(others, "layer", metric)
    map_height = min(max(0.22 * len(layers) + 0.8, 1.6), 6.0)
    heights = {"drift": [_DRIFT_HEIGHT], "heatmap": [map_height], "both": [_DRIFT_HEIGHT, map_height]}[kind]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 1.2), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    if kind != "heatmap":
        _, whole = pooled_by(others, None, metric)
        lines = [(group, row[axis.order]) for group, row in zip(groups, values, strict=True)]
        draw_drift(panels[0], axis, [*lines, ("all tensors", whole[0][axis.order])], metric)
        panels[0].set_title("by kind, pooled over elements", loc="left")
    if kind != "drift":
        draw_heatmap(panels[-1], axis, layers, by_layer[:, axis.order], metric)
        panels[-1].set_title("by layer, pooled over elements", loc="left")
    draw_x(panels[-1], axis)
    title = f"{metric} of {count(len(axis.places), 'other')} against {elide(plain(results.base), 60)}"
    missing = axis.left_out + results.pending + len(results.failures)
    figure.suptitle(title + (f"; {missing} not shown" if missing else ""), fontsize=12)
    return figure, title


def _page(title: str, svg: str, table: str) -> str:
    style = "body{font-family:sans-serif;margin:2em}svg{max-width:100%;height:auto}td,th{padding:0 .7em 0 0}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body>\n{svg[svg.index('<svg') :]}\n{table}\n</body></html>\n"
    )
