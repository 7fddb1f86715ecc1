"""The command line within this process: output, exit codes, sentences."""

import csv
import io
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app

TENSORS = {
    "word_embeddings.weight": np.arange(1, 13, dtype=np.float32).reshape(6, 2),
    "layer.0.LayerNorm.bias": np.zeros(4, np.float32),
    "layer.0.dense.weight": np.ones((4, 4), np.float32),
    "layer.1.dense.weight": np.full((4, 4), 0.5, np.float32),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    changed = TENSORS | {
        "layer.1.dense.weight": np.full((4, 4), 0.75, np.float32),
        "extra.bias": np.ones(1, np.float32),
    }
    poisoned = TENSORS | {"layer.0.dense.weight": np.full((4, 4), np.nan, np.float32)}
    for name, tensors in (("base", TENSORS), ("same", TENSORS), ("changed", changed), ("poisoned", poisoned)):
        save_file(tensors, folder / f"{name}.safetensors")
    save_file({"nothing": np.ones(3, np.float32)}, folder / "alien.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\xff" * 64)
    return {path.stem: str(path) for path in folder.iterdir()}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def sentence(result):
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("weighbridge: error: ")
    return line


def test_version():
    assert run("--version").stdout == f"weighbridge {weighbridge.__version__}\n"


def test_table(files):
    result = run("compare", files["base"], files["changed"])
    assert result.exit_code == 0 and result.stderr == ""
    assert f"{files['changed']} against {files['base']}" in result.stdout
    assert "layer.1.dense.weight" in result.stdout and "extra.bias" in result.stdout


def test_json_is_the_python_dict(files):
    found = json.loads(run("compare", files["base"], files["changed"], "--format", "json").stdout)
    assert found == weighbridge.compare(files["base"], files["changed"]).to_dict()


def test_several_others(files):
    others = [files["same"], files["changed"]]
    found = json.loads(run("compare", files["base"], *others, "--format", "json").stdout)
    assert [one["other"] for one in found] == others
    rows = list(csv.DictReader(io.StringIO(run("compare", files["base"], *others, "--format", "csv").stdout)))
    assert {row["other"] for row in rows} == set(others) and len(rows) == 9
    text = run("compare", files["base"], *others, "--format", "notebook").stdout
    assert re.findall(r"(?m)^(/.*):$", text) == others
    assert run("compare", files["base"], *others).stdout.count(" against ") == 2
    assert run("compare", files["base"], *others, "--format", "markdown").stdout.count("### ") == 2


def test_one_failing_loses_nothing(files, tmp_path):
    out = tmp_path / "out.json"
    arguments = ("compare", files["base"], files["same"], files["broken"], files["alien"], files["changed"])
    result = run(*arguments, "--format", "json", "-o", out)
    assert result.exit_code == 2 and result.stdout == ""
    assert [one["other"] for one in json.loads(out.read_text())] == [files["same"], files["changed"]]
    assert len(result.stderr.splitlines()) == 2
    assert "broken.safetensors" in result.stderr and "alien.safetensors" in result.stderr
    assert run(*arguments).stdout.count(" against ") == 2


def test_all_failing_writes_nothing(files, tmp_path):
    sentence(run("compare", files["base"], files["broken"], "-o", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_gate(files):
    result = run("compare", files["base"], files["same"], files["changed"], "--fail-if", "max_delta > 1e-6")
    assert result.exit_code == 1
    assert result.stdout.count(" against ") == 2
    lines = result.stderr.splitlines()
    assert "--fail-if 'max_delta > 1e-6' holds for 1 of 4 matched tensors" in lines[0]
    assert lines[1] == "  layer.1.dense.weight  max_delta = 0.25"
    passing = ("--fail-if", "max_delta > 1", "--fail-if", "cosine < 0.9", "--fail-if", "only_in_base > 0")
    assert run("compare", files["base"], files["same"], files["changed"], *passing).exit_code == 0
    assert run("compare", files["base"], files["changed"], "--fail-if", "only_in_other > 0").exit_code == 1


def test_gate_does_not_pass_on_nan(files):
    assert run("compare", files["base"], files["poisoned"], "--fail-if", "max_delta > 1e6").exit_code == 1


def test_condition_that_cannot_be_tested_does_not_hide_the_others(files):
    result = run("compare", files["base"], files["changed"], "--fail-if", "other.delta > 0", "--fail-if", "changed > 0")
    assert result.exit_code == 2
    assert "no tensor of kind other was compared" in result.stderr and "'changed > 0' holds" in result.stderr


def test_trouble_is_more_than_a_gate(files):
    result = run("compare", files["base"], files["changed"], files["broken"], "--fail-if", "changed > 0")
    assert result.exit_code == 2 and "--fail-if 'changed > 0' holds" in result.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--fail-if", "max_delat > 1"], 'did you mean "max_delta"?'),
        (["--fail-if", "max_delta"], "is not of the form"),
        (["--sort", "size"], 'there is no metric "size" (--sort)'),
        (["--metrics", "delta,x"], 'there is no metric "x" (--metrics)'),
        (["--top", "-1"], "--top is -1"),
        (["--format", "notebook", "--by", "layer"], "--format notebook is fixed"),
        (["-o", "/nowhere/out"], "the folder /nowhere does not exist"),
    ],
)
def test_options_are_checked_before_anything_is_opened(options, expected):
    assert expected in sentence(run("compare", "/no/such/base", "/no/such/other", *options))


def test_usage_errors_exit_2(files):
    for arguments in (["compare"], ["compare", files["base"]], ["compare", "a", "b", "--format", "xml"], ["nonsense"]):
        assert run(*arguments).exit_code == 2


def test_broken_base_is_one_sentence(files):
    assert "broken.safetensors" in sentence(run("compare", files["broken"], files["same"], files["changed"]))


def test_hostile_names_cannot_write_to_the_terminal(tmp_path):
    for value, name in enumerate(("x", "y")):
        tensors = {"a\x1b[2J\nb.weight": np.full(2, value, np.float32)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    for arguments in (["compare"], ["match"]):
        result = run(*arguments, tmp_path / "x.safetensors", tmp_path / "y.safetensors")
        assert "\x1b" not in result.output and "a\\x1b[2J\\nb.weight" in result.stdout
    result = run("inspect", tmp_path / "x.safetensors")
    assert "\x1b" not in result.output
    assert "\x1b" not in sentence(run("compare", tmp_path / "x\x1b[2J", tmp_path / "y.safetensors"))


def test_output_file_is_what_would_have_been_printed(files, tmp_path):
    for fmt in ("notebook", "csv", "tsv", "json"):
        out = tmp_path / fmt
        assert run("compare", files["base"], files["changed"], "--format", fmt, "-o", out).stdout == ""
        assert out.read_text() == run("compare", files["base"], files["changed"], "--format", fmt).stdout


def test_matching_options_are_handed_on(files):
    result = run(
        "compare", files["base"], files["changed"], "--format", "json", "--exclude", "layer.1.*", "--rules", "none"
    )
    found = json.loads(result.stdout)
    assert found["totals"]["skipped"] == 1 and found["totals"]["matched"] == 3
    renamed = run("match", files["base"], files["changed"], "--format", "json", "--map", "^layer=>block")
    assert renamed.exit_code == 0


def test_match(files):
    found = json.loads(run("match", files["base"], files["changed"], "--format", "json").stdout)
    assert list(found) == ["base", "other", "rules", "totals", "tensors"]
    assert [row["status"] for row in found["tensors"]].count("matched") == 4
    rows = list(csv.DictReader(io.StringIO(run("match", files["base"], files["changed"], "--format", "csv").stdout)))
    assert len(rows) == 5
    for fmt in ("table", "markdown"):
        assert "extra.bias" in run("match", files["base"], files["changed"], "--format", fmt).stdout


def test_match_of_strangers_is_an_answer(files):
    result = run("match", files["base"], files["alien"])
    assert result.exit_code == 0 and "matched 0 of 1" in result.stdout
    assert "no tensor of" in sentence(run("compare", files["base"], files["alien"]))


def test_inspect(files, tmp_path):
    assert "4 tensors, 48 elements, 192 B" in run("inspect", files["base"]).stdout
    found = json.loads(run("inspect", files["base"], "--stats", "--format", "json").stdout)
    assert found["totals"] == {"tensors": 4, "elements": 48, "bytes": 192}
    row = next(row for row in found["tensors"] if row["tensor"] == "layer.1.dense.weight")
    assert (row["mean"], row["mean_abs"], row["l2"], row["max_abs"], row["nonfinite"]) == (0.5, 0.5, 2.0, 0.5, 0)
    assert run("inspect", files["base"], "--format", "csv", "-o", tmp_path / "x").exit_code == 0
    assert (tmp_path / "x").read_text().splitlines()[0] == "checkpoint,tensor,dtype,shape,elements,bytes"
    assert sentence(run("inspect", "/no/such"))


def test_python_and_command_line_have_the_same_names_and_defaults():
    import enum
    import inspect

    from weighbridge import cli

    for name in ("compare", "match", "inspect"):
        function = inspect.signature(getattr(weighbridge, name)).parameters
        command = inspect.signature(getattr(cli, name)).parameters
        for option, parameter in function.items():
            if option in ("base", "other", "checkpoint", "progress", "say"):
                continue
            default = command[option].default
            default = default.value if isinstance(default, enum.Enum) else default
            assert (default or None) == (parameter.default or None), (name, option)
