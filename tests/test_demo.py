"""The demo: true names and layouts, weights that follow from the seed alone, and the notebook's text from them."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import weighbridge
from weighbridge.engine import demo
from weighbridge.engine.errors import OutputError

from support import notebook, volta

TOTALS = {"ctrl_visual_bert": 399, "ctrl_uniter": 405, "ctrl_vl_bert": 404, "ctrl_lxmert": 503, "ctrl_vilbert": 497}
KINDS = {
    "layer_norm_bias": 25,
    "layer_norm_weight": 25,
    "normal_bias": 72,
    "normal_weight": 75,
    "all_bias": 97,
    "all_weight": 100,
}

silent = {"say": lambda text: None}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def comparisons(out):
    return dict(zip(demo.OTHERS, demo.run(out=out, **silent), strict=True))


@pytest.fixture(scope="module")
def base(out, comparisons):
    return load_file(out / demo.BASE / "model.safetensors")


def pairs(name):
    return list(demo.sources(demo.layout(demo.BASE), demo.layout(name)).items())


def notebook_cli(base, *others):
    command = [sys.executable, "-c", "from weighbridge.cli import main; main()", "compare", "--format", "notebook"]
    done = subprocess.run([*command, str(base), *map(str, others)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", demo.OTHERS)
def test_totals_and_kinds_are_the_notebooks(comparisons, name):
    found = comparisons[name].to_dict()
    assert found["totals"]["other"] == TOTALS[name]
    assert found["totals"]["matched"] == 197
    assert {kind: found["kinds"][kind]["n"] for kind in KINDS} == KINDS


@pytest.mark.parametrize("name", demo.OTHERS)
def test_matcher_pairs_what_was_drawn_from_each_other(comparisons, name):
    ledger = comparisons[name].ledger
    assert {(row.tensor, row.base_tensor) for row in ledger.matched} == set(pairs(name))


@pytest.mark.parametrize("name", demo.OTHERS)
def test_numbers_are_the_notebooks_arithmetic(comparisons, out, base, name):
    other = load_file(out / name / "model.safetensors")
    expected = notebook.summary(other, base, pairs(name))
    kinds = comparisons[name].to_dict()["kinds"]
    for kind, (count, *means) in expected.items():
        assert kinds[kind]["n"] == count
        found = [kinds[kind][metric] for metric in ("mean_abs", "base_mean_abs", "delta", "cosine")]
        assert found == pytest.approx(means, rel=1e-6), kind


def test_printed_text_is_the_notebooks(comparisons, out, base):
    expected = ""
    for name in demo.OTHERS:
        other = load_file(out / name / "model.safetensors")
        rows = notebook.summary(other, base, pairs(name))
        expected += notebook.text(str(out / name), TOTALS[name], 197, rows)
    assert notebook_cli(out / demo.BASE, *(out / name for name in demo.OTHERS)) == expected


def test_a_planted_value_shows(comparisons, out, tmp_path):
    """The checks above can fail: one tensor of 197 altered changes the kinds that it counts in and no other."""
    name = "ctrl_uniter"
    tensors = load_file(out / name / "model.safetensors")
    tensors["volta.encoder.layer.4.attention_self.query.bias"][3] += 0.5
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(out / name / "config.json", tmp_path)
    altered = weighbridge.compare(out / demo.BASE, tmp_path).to_dict()["kinds"]
    before = comparisons[name].to_dict()["kinds"]
    assert {kind for kind in KINDS if altered[kind] != before[kind]} == {"normal_bias", "all_bias"}


def test_cosines_tell_a_descendant_from_a_stranger(comparisons):
    for comparison in comparisons.values():
        for kind in comparison.to_dict()["kinds"].values():
            assert kind["n"] == 0 or 0.9 < kind["cosine"] < 1


@pytest.mark.parametrize("name", [demo.BASE, *demo.OTHERS])
def test_names_dtypes_and_config_are_the_true_ones(out, comparisons, name):
    true = volta.data(name)
    with safe_open(out / name / "model.safetensors", "np") as file:
        found = {tensor: file.get_slice(tensor) for tensor in file.keys()}  # noqa: SIM118 - not a mapping
    assert set(found) == {tensor for tensor, _, _ in true["checkpoint"]}
    assert {view.get_dtype() for view in found.values()} == {"F32"}
    config = json.loads((out / name / "config.json").read_text())
    assert config.keys() == true["config"].keys()
    for key in ("model_type", "bert_layer2attn_sublayer", "bert_layer2ff_sublayer", "num_attention_heads"):
        assert config.get(key) == true["config"].get(key)


@pytest.mark.parametrize("name", [demo.BASE, *demo.OTHERS])
def test_reduced_shapes_keep_equal_sizes_equal(name):
    """One true size goes to one reduced size, whichever tensor it stands in, and the config says the same."""
    reduced = demo.layout(name)
    sizes = {}
    for tensor, _, shape in volta.data(name)["checkpoint"]:
        for true, small in zip(shape, reduced.shapes[tensor], strict=True):
            assert sizes.setdefault(true, small) == small
    assert len(set(sizes.values())) == len(sizes)
    config = volta.data(name)["config"]
    for key in ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings", "type_vocab_size"):
        assert reduced.config[key] == sizes[config[key]]
    assert reduced.config["hidden_size"] % reduced.config["num_attention_heads"] == 0


@pytest.mark.parametrize("name", [demo.BASE, *demo.OTHERS])
def test_full_layout_is_the_true_one(name):
    true = volta.data(name)
    full = demo.layout(name, full=True)
    assert full.config == true["config"]
    assert full.shapes == {tensor: tuple(shape) for tensor, _, shape in true["checkpoint"]}


@pytest.mark.parametrize("name", [demo.BASE, *demo.OTHERS])
def test_tied_names_hold_the_same_values(out, comparisons, name):
    tensors = load_file(out / name / "model.safetensors")
    groups = volta.data(name)["tied"]
    assert groups
    for first, *aliases in groups:
        assert all(torch.equal(tensors[first], tensors[alias]) for alias in aliases)


def test_reduced_bert_loads_in_transformers(out, comparisons, base):
    from transformers import BertForPreTraining

    model, info = BertForPreTraining.from_pretrained(out / demo.BASE, output_loading_info=True)
    assert not any(info.values()), info
    gamma = base["bert.encoder.layer.11.output.LayerNorm.gamma"]
    assert torch.equal(model.bert.encoder.layer[11].output.LayerNorm.weight, gamma)


def test_files_depend_on_nothing_but_the_seed(out, comparisons, tmp_path):
    demo.write(out=tmp_path, threads=1, **silent)
    for name in (demo.BASE, *demo.OTHERS):
        for file in ("model.safetensors", "config.json"):
            assert (tmp_path / name / file).read_bytes() == (out / name / file).read_bytes()


def test_second_run_uses_the_files_and_says_so(out, comparisons):
    before = (out / demo.BASE / "model.safetensors").stat().st_mtime_ns
    said = []
    folders = demo.write(out=out, say=said.append)
    assert folders == [out / name for name in (demo.BASE, *demo.OTHERS)]
    assert said == [f"{out} holds the demo's checkpoints already; they are used as they are."]
    assert (out / demo.BASE / "model.safetensors").stat().st_mtime_ns == before


def test_a_file_cut_short_is_written_again(tmp_path):
    weights = tmp_path / demo.OTHERS[0] / "model.safetensors"
    demo.write(out=tmp_path, **silent)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    demo.write(out=tmp_path, **silent)
    assert weights.read_bytes() == whole


def test_somebody_elses_checkpoint_is_not_overwritten(tmp_path):
    theirs = tmp_path / demo.OTHERS[2] / "model.safetensors"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    with pytest.raises(OutputError, match=r"ctrl_vl_bert/model\.safetensors is there already and was not written by"):
        demo.write(out=tmp_path, **silent)
    assert theirs.read_bytes() == b"theirs"
    assert not (tmp_path / demo.BASE).exists()


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(OutputError, match=r"take 0\.08 GB and .* has 0\.00 GB free; make room or choose another"):
        demo.write(out=tmp_path / "new" / "folder", **silent)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"could not be written to .*; choose another folder with --out"):
        demo.write(out=tmp_path / "file" / "out", **silent)
