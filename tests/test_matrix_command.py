"""`weighbridge matrix` on the command line: formats, pictures, mistakes that are found before any work."""

import csv
import io
import json
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.entries import MATRIX_METRICS
from weighbridge.engine.plots.matrix import _many, _one, clustered, matrix_picture

from support import families

runner = CliRunner()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return [str(path) for path in families.write(tmp_path_factory.mktemp("family"))[:7]]


@pytest.fixture(scope="module")
def found(paths):
    return weighbridge.matrix(paths, base=paths[0])


def run(*args, code=0):
    result = runner.invoke(app, ["matrix", *map(str, args)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_json_has_the_schema_and_the_numbers(paths, found):
    out = json.loads(run(*paths, "--base", paths[0], "--format", "json", "--by", "layer"))
    assert out["checkpoints"] == paths and out["base"] == paths[0]
    assert set(out["metrics"]) == set(out["pooled"]) == {*MATRIX_METRICS, "task_cosine"}
    for metric in out["metrics"]:
        for part, wanted in (("metrics", found.mean(metric)), ("pooled", found[metric])):
            np.testing.assert_array_equal(np.array(out[part][metric], float), wanted)
    assert list(out["kinds"])[:6] == [*found.groups("kind")][:6]
    np.testing.assert_array_equal(out["kinds"]["layer_norm_bias"]["n"], found.groups("kind")["layer_norm_bias"].n)
    assert list(out["layers"]) == ["0", "1", "2", "none"]
    wanted = found.groups("layer")[1].pooled["delta"]
    np.testing.assert_array_equal(np.array(out["layers"]["1"]["pooled_delta"], float), wanted)
    links = [group for group in out["identical"] if group["same_file"]]
    assert links and all(group["checkpoints"] == [paths[0], paths[6]] for group in links)
    copied = [group for group in out["identical"] if "layer.0.dense.weight" in group["tensors"]]
    assert copied[0]["checkpoints"] == [paths[0], paths[4], paths[6]] and not copied[0]["same_file"]
    assert {line["tensor"]: line["status"] for line in out["not_compared"]}["alone"] == "only_in_one"
    assert out["totals"][5]["only_in_one"] == 1


def test_csv_has_a_line_for_each_ordered_pair(paths, found):
    lines = list(csv.DictReader(io.StringIO(run(*paths, "--format", "csv", "--metrics", "delta,relative_delta"))))
    assert len(lines) == 7 * 6
    assert list(lines[0])[:4] == ["other", "base", "n", "elements"]
    assert [name for name in lines[0] if "cosine" in name] == []
    for line in lines:
        i, j = paths.index(line["other"]), paths.index(line["base"])
        assert float(line["pooled_relative_delta"]) == found["relative_delta"][i, j] or np.isnan(
            found["relative_delta"][i, j]
        )
    by_tensor = list(csv.DictReader(io.StringIO(run(*paths[:2], "--format", "csv", "--by", "tensor"))))
    assert [line["tensor"] for line in by_tensor[::2]] == [t.name for t in weighbridge.matrix(paths[:2]).sums.tensors]


@pytest.mark.parametrize("by", [None, "kind"])
def test_npz_and_parquet(paths, found, tmp_path, by):
    grouping = ["--by", by] if by else []
    run(*paths, "--base", paths[0], "--format", "npz", "-o", tmp_path / "m.npz", *grouping)
    with np.load(tmp_path / "m.npz") as arrays:
        assert arrays["checkpoints"].tolist() == paths
        cosine, wanted = arrays["pooled/task_cosine"], found["task_cosine"]
        if by:
            assert arrays["groups"][5] == "all_weight"
            cosine, wanted = cosine[5], found.groups("kind")["all_weight"].pooled["task_cosine"]
        np.testing.assert_array_equal(cosine, wanted)
    run(*paths, "--base", paths[0], "--format", "parquet", "-o", tmp_path / "m.parquet", *grouping)
    records = pq.read_table(tmp_path / "m.parquet").to_pylist()
    wanted = list(found.records(by))
    assert [list(record) for record in records] == [found.columns(by)] * len(wanted)
    assert all(a[k] == b[k] or np.isnan(b[k]) for a, b in zip(records, wanted, strict=True) for k in ("n", "cosine"))


def test_table_names_everything(paths):
    text = run(*paths, "--base", paths[0])
    for part in (
        "7 checkpoints, 21 pairs",
        "base: 0.safetensors",
        "relative_delta, pooled over elements; the column is the base",
        "task_cosine, pooled",
        "the same bytes of one file: 0.safetensors, link.safetensors",
        "equal in every element: 0.safetensors, 4.safetensors, link.safetensors",
        "5.safetensors: 1 tensor shape_mismatch",
        "alone: no other checkpoint has a tensor of that name",
        "recognised and not read again",
    ):
        assert part in text, part
    assert "layer 1: cosine" in run(*paths, "--by", "layer", "--metrics", "cosine")
    assert run(*paths, "--format", "markdown").startswith("#")


def test_many_are_told_by_their_neighbours(tmp_path):
    files = [tmp_path / f"{number}.safetensors" for number in range(30)]
    for number, path in enumerate(files):
        save_file({"a.weight": torch.ones(9) + 0.5**number * torch.arange(9)}, path)
    text = run(*files, "--metrics", "l2_delta")
    assert "30 checkpoints, 435 pairs" in text and "farthest" in text
    line = next(line for line in text.splitlines() if line.startswith("2 1.safetensors") and "farthest" not in line)
    assert "3 2.safetensors" in line and "1 0.safetensors" in line  # the next is nearest, the first farthest


@pytest.mark.parametrize(
    "options, words",
    [
        (["--format", "npz"], "npz is no text; name a file with -o"),
        (["--by", "tensor"], "--by tensor is too much for table"),
        (["--metrics", "delt"], 'did you mean "delta"?'),
        (["--metric", "cosine", "--metrics", "delta"], 'there is no metric "cosine" (--metric)'),
        (["--plot", "x.gif"], "none of .png, .svg, .html"),
        (["--metrics", "task_cosine"], "name one with --base"),
    ],
)
def test_mistakes_are_found_before_anything_is_opened(options, words):
    assert words in run("no-such-file", "neither", *options, code=2)


def test_kept_and_read_again(paths, tmp_path):
    first = run(*paths, "--out", tmp_path / "out", "--format", "json")
    assert run(*paths, "--out", tmp_path / "out", "--format", "json") == first
    assert "holds the matrix of other checkpoints" in run(*paths[:3], "--out", tmp_path / "out", code=2)
    run(*paths[:3], "--out", tmp_path / "out", "--force")
    assert weighbridge.open_matrix(tmp_path / "out").labels == tuple(paths[:3])


@pytest.mark.parametrize("suffix", ["png", "svg", "html"])
def test_pictures_are_what_they_are_called(paths, tmp_path, suffix):
    run(*paths, "--plot", tmp_path / f"m.{suffix}", "--metric", "cosine_distance")
    data = (tmp_path / f"m.{suffix}").read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!DOCTYPE html>"}[suffix])
    if suffix == "html":
        assert b"<table" in data and b"<script" not in data


def test_the_map_holds_the_numbers_in_the_order_of_the_clustering(found):
    order, tree = clustered(found["relative_delta"], "relative_delta")
    assert sorted(order) == list(range(7)) and abs(order.index(0) - order.index(6)) == 1  # the file and its link
    assert tree.shape == (6, 4)
    figure, _ = _one(found, "delta")
    order, _ = clustered(found["delta"], "delta")
    heat = figure.axes[1]
    drawn = np.ma.filled(heat.images[0].get_array(), np.nan)
    wanted = found["delta"][np.ix_(order, order)]
    known = np.isfinite(wanted) & (wanted > 0)
    np.testing.assert_array_equal(drawn[known], wanted[known])
    assert np.isnan(drawn[~np.isfinite(wanted)]).all()
    assert [tick.get_text() for tick in heat.get_yticklabels()] == [found.labels[n].rsplit("/")[-1] for n in order]


def test_small_multiples_have_a_panel_for_each_group(found):
    figure, title = _many(found, "delta", "kind")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["all tensors", *(key for key, group in found.groups("kind").items() if (group.n > 0).any())]
    assert "by kind" in title


def test_names_are_data_and_pictures_are_the_same_again(tmp_path):
    for number, name in enumerate(("<b>$x^2$", "a_b&c")):
        save_file({"a.weight": torch.ones(4) + number}, tmp_path / f"{name}.safetensors")
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    found = weighbridge.matrix(files)
    made = [matrix_picture(found, "svg", metric="delta") for _ in range(2)]
    assert made[0] == made[1] and ElementTree.fromstring(made[0]).tag.endswith("svg")
