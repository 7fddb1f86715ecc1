"""`weighbridge show`: every format, filters, order, and what it says of sweeps that are not whole."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.report.notebook import notebook_text

from support.sweeps import STEPS, swept

LABELS = [f"<b>a_$x^{step}$" for step in STEPS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    swept(folder)
    return folder


def show(folder, *arguments):
    return CliRunner().invoke(app, ["show", str(folder / "out"), *arguments], catch_exceptions=False)


def lines(folder, *arguments):
    result = show(folder, "--format", "json", *arguments)
    assert result.exit_code == 0
    return json.loads(result.stdout)["lines"]


def test_a_line_per_other(folder):
    result = show(folder)
    assert result.exit_code == 0
    assert all(sum(line.startswith(label) for line in result.stdout.splitlines()) == 1 for label in LABELS)
    assert "pooled_relative_delta" in result.stdout and "1 other failed" in result.stdout
    assert "\nbad: " in result.stdout


def test_json_and_csv_say_the_same(folder):
    result = show(folder, "--format", "json")
    found = json.loads(result.stdout)
    assert (found["others"], found["done"], found["pending"]) == (4, 3, 0)
    assert [entry["label"] for entry in found["failures"]] == ["bad"] and "1 other failed" in result.stderr
    rows = list(csv.DictReader(io.StringIO(show(folder, "--format", "csv").stdout)))
    for line, row in zip(found["lines"], rows, strict=True):
        assert float(row["pooled_delta"]) == line["pooled_delta"] and row["label"] == line["label"]


def test_sort_top_and_metrics(folder):
    found = lines(folder, "--sort", "max_delta", "--top", "2", "--metrics", "max_delta")
    assert len(found) == 2 and found[0]["max_delta"] >= found[1]["max_delta"]
    assert "delta" not in found[0]


@pytest.mark.parametrize(
    ("conditions", "labels"),
    [
        (["step >= 30"], LABELS[1:]),
        (["label == *0$"], LABELS),
        (["label != *20*"], LABELS[1:]),
        (["layer == 0", "kind == normal_bias", "max_delta > 0.0025"], LABELS[1:]),
        (["layer == 0", "kind == normal_bias", "max_delta > 0.5"], []),
        (["layer == 77"], []),
    ],
)
def test_where(folder, conditions, labels):
    given = [part for condition in conditions for part in ("--where", condition)]
    assert [line["label"] for line in lines(folder, *given)] == labels


def test_where_on_tensors_gives_the_numbers_of_the_group(folder):
    found = lines(folder, "--where", "kind == all_weight")
    wanted = weighbridge.open_results(folder / "out").summary("kind")
    wanted = [line for line in wanted if line["kind"] == "all_weight"]
    assert [line["pooled_delta"] for line in found] == [line["pooled_delta"] for line in wanted]


def test_by_tensor_equals_the_summary(folder):
    found = lines(folder, "--by", "tensor")
    wanted = weighbridge.open_results(folder / "out").summary("tensor")
    for line, row in zip(found, wanted, strict=True):
        assert line == {key: None if row[key] != row[key] or row[key] == float("inf") else row[key] for key in line}


def test_notebook_is_that_of_each_comparison(folder):
    wanted = [
        notebook_text(weighbridge.compare(folder / "base.safetensors", folder / f"{step}.safetensors"))
        for step in STEPS
    ]
    assert show(folder, "--format", "notebook").stdout == "".join(wanted)


def test_markdown_escapes_names_and_goes_to_a_file(folder, tmp_path):
    assert show(folder, "--format", "markdown", "-o", str(tmp_path / "x.md")).stdout == ""
    assert f"| `{LABELS[0]}` |" in (tmp_path / "x.md").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--where", "kin == a"],
        ["--where", "nothing"],
        ["--where", "kind > a"],
        ["--where", "step > many"],
        ["--where", "delta > nan"],
        ["--sort", "size"],
        ["--format", "notebook", "--by", "kind"],
        ["--format", "notebook", "--where", "kind == normal_bias"],
        ["--plot", "x.pdf"],
        ["--metric", "size"],
    ],
)
def test_mistakes_are_one_sentence(folder, arguments):
    result = show(folder, *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("weighbridge: error: ")


def test_damaged_rows_exit_2_and_the_rest_is_shown(tmp_path):
    results = swept(tmp_path)
    path = tmp_path / "out" / results.others[0]["file"]
    path.write_bytes(path.read_bytes()[:200])
    result = show(tmp_path)
    assert result.exit_code == 2 and "damaged" in result.stderr
    shown = result.stdout.splitlines()
    assert any(line.startswith(LABELS[1]) and "failed" not in line for line in shown)


def test_no_sweep(tmp_path):
    (tmp_path / "out").mkdir()
    result = show(tmp_path)
    assert result.exit_code == 2 and "holds no sweep" in result.stderr
