"""Which files of a folder are the checkpoint, and how shards become one."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.engine.errors import FormatError
from weighbridge.engine.formats import open_checkpoint
from weighbridge.engine.formats.folder import choose

from support.ckpt import tensor_bytes

ONE = {"a": np.arange(3, dtype=np.float32)}


def save(path, tensors=ONE):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, path)


def save_index(path, weight_map):
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


@pytest.fixture
def sharded(tmp_path):
    save(tmp_path / "model-00001-of-00002.safetensors", {"b": np.ones(2), "a": np.ones(3)})
    save(tmp_path / "model-00002-of-00002.safetensors", {"c": np.ones(4)})
    shards = {name: f"model-0000{1 + (name == 'c')}-of-00002.safetensors" for name in "abc"}
    save_index(tmp_path / "model.safetensors.index.json", shards)
    return tmp_path


@pytest.fixture(scope="module")
def ckpt_bert():
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    return BertForMaskedLM(config)


@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_what_transformers_saves(tmp_path, ckpt_bert, size):
    ckpt_bert.save_pretrained(tmp_path, max_shard_size=size)
    checkpoint = open_checkpoint(tmp_path)
    assert (len(checkpoint.files) > 1) == (size == "20KB")
    assert checkpoint.config["model_type"] == "bert"
    truth = ckpt_bert.state_dict()
    assert set(checkpoint.names) <= set(truth)
    assert len(checkpoint.names) >= len({tensor.data_ptr() for tensor in truth.values()})
    for name, ref in checkpoint.tensors.items():
        assert tensor_bytes(ref) == truth[name].numpy().tobytes()


def test_shards_in_the_order_of_their_names(sharded):
    checkpoint = open_checkpoint(sharded)
    assert checkpoint.names[-1] == "c"
    assert set(checkpoint.names) == {"a", "b", "c"}
    assert [path.rsplit("-", 3)[1] for path in checkpoint.files] == ["00001", "00002"]
    assert checkpoint.parameters == 9


def test_an_index_can_be_named_itself(sharded):
    assert open_checkpoint(sharded / "model.safetensors.index.json").names == open_checkpoint(sharded).names


def test_one_shard_can_be_named_itself(sharded):
    assert open_checkpoint(sharded / "model-00002-of-00002.safetensors").names == ["c"]


def test_a_tensor_that_no_index_names_is_listed(sharded):
    save(sharded / "model-00002-of-00002.safetensors", {"c": np.ones(4), "extra": np.ones(1)})
    assert "extra" in open_checkpoint(sharded).names


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
        "flux1-dev.safetensors",
        "pytorch_model.bin",
        "diffusion_pytorch_model.bin",
        "weights.pt",
        "last.pth",
        "epoch=3.ckpt",
    ],
)
def test_single_files_of_any_name(tmp_path, name):
    if name.endswith("safetensors"):
        save(tmp_path / name)
    else:
        torch.save({"a": torch.arange(3, dtype=torch.float32)}, tmp_path / name)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.files == (str(tmp_path / name),)
    assert tensor_bytes(checkpoint.tensors["a"]) == ONE["a"].tobytes()


def test_diffusers_shards(tmp_path):
    save(tmp_path / "diffusion_pytorch_model-00001-of-00001.safetensors")
    save_index(
        tmp_path / "diffusion_pytorch_model.safetensors.index.json",
        {"a": "diffusion_pytorch_model-00001-of-00001.safetensors"},
    )
    save(tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert open_checkpoint(tmp_path).files[0].endswith("00001-of-00001.safetensors")


def test_pytorch_shards(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.ones(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    names = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    save_index(tmp_path / "pytorch_model.bin.index.json", names)
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.names) == ("pytorch", ["a", "b"])


def test_safetensors_come_before_pytorch(tmp_path):
    save(tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never looked at")
    assert open_checkpoint(tmp_path).format == "safetensors"


def test_a_file_has_its_siblings_config(tmp_path):
    save(tmp_path / "x.safetensors")
    assert open_checkpoint(tmp_path / "x.safetensors").config == {}
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert open_checkpoint(tmp_path / "x.safetensors").config == {"model_type": "bert"}


def test_relative_paths(tmp_path, monkeypatch):
    save(tmp_path / "x" / "model.safetensors")
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    (tmp_path / "x" / "config.json").write_text('{"k": 1}')
    monkeypatch.chdir(tmp_path / "x")
    assert open_checkpoint(".").config == open_checkpoint("model.safetensors").config == {"k": 1}
    assert open_checkpoint("../y").config == {}


# The choice by names alone

SHARD = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "consolidated.safetensors"], "model.safetensors"),
        (["model.safetensors.index.json", SHARD, "consolidated.safetensors"], "model.safetensors.index.json"),
        (["model.safetensors", "model.safetensors.index.json"], "model.safetensors"),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin"], "pytorch_model.bin"),
        (["pytorch_model.bin", "adapter.safetensors"], "pytorch_model.bin"),
        (["w.pt", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state.pth", "scaler.pt"], "w.pt"),
        (["x.safetensors", "._x.safetensors"], "x.safetensors"),
        (["llama.safetensors.index.json", SHARD], "llama.safetensors.index.json"),
        (["x.safetensors", "y.bin", "z.bin"], "x.safetensors"),
        (["README.md", "tokenizer.json", "vocab.txt"], None),
        (["training_args.bin"], None),
        ([], None),
    ],
)
def test_choice(names, chosen):
    assert choose(names, lambda _: {"a": SHARD}, "folder") == chosen


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.safetensors", "b.safetensors"], "holds 2 checkpoints (a.safetensors, b.safetensors); name the one"),
        (["model.safetensors", "diffusion_pytorch_model.safetensors"], "holds 2 checkpoints"),
        ([f"{i}.safetensors" for i in range(9)], "5.safetensors and 3 more"),
        ([SHARD, "model-00002-of-00002.safetensors"], "without their index; fetch the file that ends in .index.json"),
        ([SHARD], f'holds only "{SHARD}", shard 1 of 2, and no index'),
    ],
)
def test_no_choice(names, words):
    with pytest.raises(FormatError) as raised:
        choose(names, lambda _: {}, "folder")
    assert words in str(raised.value)


@given(st.lists(st.sampled_from(["model", "x", "pytorch_model", "optimizer"]), max_size=4), st.data())
def test_the_choice_is_one_of_the_names_or_none(stems, data):
    endings = [".safetensors", ".bin", ".pt", ".safetensors.index.json", ".txt"]
    names = {stem + data.draw(st.sampled_from(endings)) for stem in stems}
    try:
        assert choose(names, lambda _: {}, "folder") in {None, *names}
    except FormatError as error:
        assert "name the one that is meant" in str(error)
