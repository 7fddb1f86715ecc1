"""`weighbridge lineage` and `weighbridge.lineage`: files in, a tree out."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import weighbridge
from weighbridge.cli import main
from weighbridge.engine.errors import OptionError

from support.descent import fresh, parents, relations, step


def save(path, weights, dtype=np.float32):
    save_file({f"{name}.weight": values.astype(dtype) for name, values in weights.items()}, path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """start -> a -> b, c from start, a float16 copy of a, an equal copy of c, and one that is not related."""
    start = fresh(1)
    a = step(start, 2, 3e-3)
    c = step(start, 3, 2e-3)
    made = {"start": start, "a": a, "b": step(a, 4, 2e-3), "c": c, "copy": c, "lone": fresh(9)}
    paths = {name: save(tmp_path / f"{name}.safetensors", weights) for name, weights in made.items()}
    paths["half"] = save(tmp_path / "half.safetensors", {n: v.astype(np.float32) for n, v in a.items()}, np.float16)
    return paths


def called(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["weighbridge", "lineage", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def by_name(found, files):
    names = {path: name for name, path in files.items()}
    return {names[child]: [names[parent] for parent in older] for child, older in found.items()}


EXPECTED = {"a": ["start"], "b": ["a"], "c": ["start"], "copy": ["c"], "half": ["a"]}


def test_the_tree_of_files(files):
    tree = weighbridge.lineage([path for name, path in files.items() if name != "start"], base=files["start"])
    assert by_name(parents(tree), files) == EXPECTED
    assert tree.labels[0] == files["start"] and tree.base == 0 and tree.notes == ()
    assert {tree.labels[number] for number in tree.roots} == {files["start"], files["lone"]}
    assert relations(tree)[files["half"]] == "rounded" and relations(tree)[files["copy"]] == "copy"
    elements = sum(values.size for values in fresh(1).values())
    assert tree.bytes_read == elements * (6 * 4 + 2), "every byte of seven files, once"


def test_a_base_among_the_checkpoints(files):
    assert parents(weighbridge.lineage(list(files.values()), base=files["start"])) == parents(
        weighbridge.lineage([path for name, path in files.items() if name != "start"], base=files["start"])
    )


def test_opened_checkpoints_and_no_base(files):
    tree = weighbridge.lineage([weighbridge.open_checkpoint(path) for path in files.values()])
    assert by_name(parents(tree), files) == EXPECTED and tree.base is None


def test_given_twice(files, tmp_path):
    (tmp_path / "link.safetensors").symlink_to(files["a"])
    tree = weighbridge.lineage([files["start"], files["a"], files["a"], tmp_path / "link.safetensors"])
    assert tree.labels == (files["start"], files["a"])
    assert tree.notes == tuple(
        f"{path} was given twice and counts once" for path in (files["a"], tmp_path / "link.safetensors")
    )


def test_one_and_none(files):
    tree = weighbridge.lineage([files["a"]])
    assert relations(tree) == {files["a"]: "root"} and tree.bytes_read == 0 and tree.notes == ()
    with pytest.raises(OptionError, match=r"^lineage has no checkpoint; give one or more\.$"):
        weighbridge.lineage([])


def test_nothing_in_common(files, tmp_path):
    other = save(tmp_path / "other.safetensors", {"something": np.ones(5)})
    tree = weighbridge.lineage([files["a"], other, files["start"]])
    assert tree.notes[0] == f"{other} has no tensor in common with any other"
    assert relations(tree)[other] == "root"
    tree = weighbridge.lineage([files["a"], other])
    assert set(relations(tree).values()) == {"root"} and len(tree.notes) >= 2


def test_renamings_and_globs_hold(files, tmp_path):
    """A wrapped model is matched by the rules; what is excluded counts neither for nor against a copy."""
    weights = {f"model.{name}": values for name, values in fresh(1).items()}
    wrapped = save(tmp_path / "wrapped.safetensors", {**weights, "extra": np.ones(7)})
    tree = weighbridge.lineage([files["start"], wrapped], map=["base:^=>model."], exclude="*extra*")
    assert relations(tree) == {files["start"]: "root", wrapped: "copy"}
    assert "rules" not in str(tree)
    tree = weighbridge.lineage([files["start"], wrapped], map=["base:^=>model."])
    assert relations(tree) == {files["start"]: "root", wrapped: "part"}


def test_command_prints_a_tree(files, monkeypatch, capsys):
    code, out, err = called(monkeypatch, capsys, *files.values(), "--base", files["start"])
    assert (code, err) == (0, "")
    assert out.startswith("7 checkpoints in 2 trees, names after ")
    assert any("start.safetensors" in line and line.endswith("root, as given") for line in out.splitlines())
    assert any("half.safetensors" in line and "rounded to F16" in line for line in out.splitlines())


def test_command_writes_json_dot_and_pictures(files, tmp_path, monkeypatch, capsys):
    code, out, _ = called(monkeypatch, capsys, *files.values(), "--format", "json", "--plot", str(tmp_path / "t.html"))
    assert code == 0
    found = json.loads(out)
    assert found == weighbridge.lineage(list(files.values())).to_dict()
    page = (tmp_path / "t.html").read_text()
    assert "<svg" in page and "half.safetensors" in page
    code, out, _ = called(
        monkeypatch, capsys, *files.values(), "--format", "dot", "-o", str(tmp_path / "t.dot"), "--threads", "1"
    )
    assert (code, out) == (0, "") and (tmp_path / "t.dot").read_text().startswith("digraph lineage {\n")


def test_trouble_is_a_sentence(files, tmp_path, monkeypatch, capsys):
    assert called(monkeypatch, capsys, files["a"], "no/such/file")[0] == 2
    code, out, err = called(monkeypatch, capsys, files["a"], "--plot", str(tmp_path / "t.gif"))
    assert (code, out) == (2, "") and err.count("\n") == 1 and "none of .png, .svg, .html" in err
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "scipy" else find_spec(name))
    code, out, err = called(monkeypatch, capsys, files["a"])
    assert (code, out) == (2, "")
    assert err == "weighbridge: error: lineage needs scipy; install weighbridge[lineage].\n"


def test_scipy_is_imported_for_a_tree_only():
    code = (
        "import sys, weighbridge; weighbridge.lineage; weighbridge.Tree; import weighbridge.engine.lineage.descent; "
        "sys.exit(any(name.split('.')[0] in ('scipy', 'matplotlib', 'torch') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
