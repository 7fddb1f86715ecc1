"""Pictures: numbers drawn are those of the summaries, names are data, files are what their suffix says."""

import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.errors import OptionError
from weighbridge.engine.plots.data import Axis, pooled_by, x_axis
from weighbridge.engine.plots.figure import _figure, picture
from weighbridge.engine.plots.panels import draw_drift, draw_heatmap

from support.sweeps import STEPS, swept


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("swept"))


@pytest.mark.parametrize("by", ["kind", "layer"])
def test_pooled_values_are_those_of_the_summary(results, by):
    groups, values = pooled_by(results.columns_of_others, by, "relative_delta")
    for column, label in zip(values.T, results.labels, strict=True):
        wanted = {line[by]: line["pooled_relative_delta"] for line in results[label].summary(by)}
        np.testing.assert_array_equal(column, [wanted[group] for group in groups])
    if by == "layer":
        assert groups == [*range(12), None]


def test_the_axis_is_the_step_in_its_order(results):
    others = results.columns_of_others[::-1]
    axis = x_axis(others, "step", results.extra)
    assert axis.places.tolist() == list(STEPS) and axis.order.tolist() == [2, 1, 0]
    with pytest.raises(OptionError, match="both have step"):
        x_axis([*others, others[0]], "step", results.extra)
    with pytest.raises(OptionError, match="there is no extra column"):
        x_axis(others, "stepp", results.extra)


@pytest.mark.parametrize("kind", ["both", "drift", "heatmap"])
def test_svg_is_well_formed_and_the_same_again(results, kind):
    made = [picture(results, results.columns_of_others, "svg", kind=kind) for _ in range(2)]
    assert made[0] == made[1]
    assert ElementTree.fromstring(made[0]).tag.endswith("svg")


def test_lines_hold_the_numbers_and_labels_are_not_markup(results):
    figure, _ = _figure(results, results.columns_of_others, "drift", "delta", None)
    axes = figure.axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_array_equal(drawn["all tensors"], [line["pooled_delta"] for line in results.summary()])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == results.labels


def test_an_equal_other_is_told_from_the_smallest_change():
    from matplotlib.figure import Figure

    values = np.array([[1e-6, 0.0, 1.0, np.nan, 1e-3]])
    axis = Axis(None, np.arange(5.0), tuple("abcde"), np.arange(5))
    above, below = Figure().subplots(2, 1)
    draw_drift(above, axis, [("all tensors", values[0])], "delta")
    assert np.isnan(above.get_lines()[0].get_ydata()).tolist() == [False, True, False, True, False]
    assert "0 is a gap" in above.get_ylabel()
    draw_heatmap(below, axis, [0], values, "delta")
    mesh = below.collections[0]
    colours = mesh.to_rgba(mesh.get_array()).reshape(5, 4)
    assert colours[1].tolist() == [1, 1, 1, 1] and colours[3].tolist() == [0.8, 0.8, 0.8, 1]
    assert len({tuple(colour) for colour in colours}) == 5


class _Loads(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.loaded = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loaded += [
            v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith(("#", "data:"))
        ]


def test_files(results, tmp_path):
    for suffix in ("png", "svg", "html"):
        arguments = ["show", str(results.path), "--plot", str(tmp_path / f"p.{suffix}"), "--x", "step"]
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = _Loads()
    page.feed((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.loaded == [] and {"svg", "table"} <= page.tags and not {"script", "b", "link"} & page.tags


def test_matplotlib_is_imported_only_for_a_picture(results):
    read = f"weighbridge.open_results({str(results.path)!r}).summary()"
    code = f"import sys, weighbridge; {read}; assert 'matplotlib' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_matplotlib_it_is_one_sentence(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(app, ["show", str(results.path), "--plot", str(tmp_path / "x.png")])
    assert result.exit_code == 2 and "install weighbridge[plot]" in result.stderr


def test_nothing_to_draw(results):
    with pytest.raises(OptionError, match="nothing to draw"):
        picture(results, [], "png")
    assert weighbridge.open_results(results.path).labels == results.labels
