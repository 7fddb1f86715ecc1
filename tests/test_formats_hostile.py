"""Files and folders that are no checkpoints: each is refused with one sentence that says what it is and what to do."""

import argparse
import errno
import json
import os
import pickle
import shutil
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

import weighbridge.engine.formats.shard as shard_module
from weighbridge.engine.errors import CheckpointNotFoundError, FormatError, ReadError, WeighbridgeError
from weighbridge.engine.formats import open_checkpoint
from weighbridge.engine.formats.index import read_index
from weighbridge.engine.formats.safetensors import MAX_HEADER_BYTES

from support.ckpt import entry, raw_safetensors

FOUR = entry("F32", [4], 0, 16)


def refusal(path, error=FormatError):
    """The message with which a path is refused: one line, one sentence, naming the path."""
    with pytest.raises(WeighbridgeError) as raised:
        open_checkpoint(path)
    message = str(raised.value)
    assert raised.type is error
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 500
    return message


# safetensors, after the attacks that the library itself is tested with

SAFETENSORS = {
    "truncated": (
        {"header": {"a": FOUR}, "body_bytes": 8},
        "is cut short or has bytes left over: its 8 bytes of tensors",
    ),
    "bytes left over": ({"header": {"a": FOUR}, "body_bytes": 24}, "its 24 bytes of tensors are not what its header"),
    "header longer than the file": (
        {"header": {"a": FOUR}, "body_bytes": 16, "announced": 500},
        "is cut short: it announces a header of 500 bytes and has 78 after the length",
    ),
    "header of 100 MB + 1": (
        {"header": {"a": FOUR}, "body_bytes": MAX_HEADER_BYTES, "announced": MAX_HEADER_BYTES + 1},
        "it announces a header of 100,000,001 bytes, and at most 100,000,000 are allowed",
    ),
    "header of 2**63": (
        {"header": {"a": FOUR}, "announced": 2**63},
        "it announces a header of 9,223,372,036,854,775,808",
    ),
    "overlapping offsets": (
        {"header": {"a": FOUR, "b": entry("F32", [4], 8, 24)}, "body_bytes": 24},
        "offsets in the header overlap or leave a hole (invalid offset for tensor `b`)",
    ),
    "the same bytes twice": (
        {"header": {"a": FOUR, "b": FOUR}, "body_bytes": 16},
        "offsets in the header overlap or leave a hole",
    ),
    "hole": (
        {"header": {"a": FOUR, "b": entry("F32", [4], 20, 36)}, "body_bytes": 36},
        "offsets in the header overlap or leave a hole (invalid offset for tensor `b`)",
    ),
    "shape larger than its bytes": (
        {"header": {"a": entry("F32", [5], 0, 16)}, "body_bytes": 16},
        "the shape and dtype of a tensor in the header disagree with its offsets",
    ),
    "shape that overflows": (
        {"header": {"a": entry("F32", [2**62, 8], 0, 16)}, "body_bytes": 16},
        "a shape too large for any file",
    ),
    "negative dimension": ({"header": {"a": entry("F32", [-4], 0, 16)}, "body_bytes": 16}, "the header is not valid"),
    "half a byte": ({"header": {"a": entry("F4", [3], 0, 2)}, "body_bytes": 2}, "does not end on a whole byte"),
    "unknown dtype": ({"header": {"a": entry("F5", [4], 0, 16)}, "body_bytes": 16}, "unknown variant `F5`"),
    "no JSON": ({"header": b'{"a":', "body_bytes": 16}, "the header is not valid (invalid JSON in header: EOF"),
    "no UTF-8": ({"header": b'{"\xff":1}', "body_bytes": 16}, "the header is not valid UTF-8"),
    "a list": ({"header": b"[]", "body_bytes": 16}, "the header is not valid"),
    "metadata of numbers": ({"header": {"__metadata__": {"a": 1}}}, "expected a string"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(tmp_path, case):
    made, words = SAFETENSORS[case]
    message = refusal(raw_safetensors(tmp_path / "model.safetensors", **made))
    assert words in message
    assert f'"{tmp_path}/model.safetensors"' in message
    assert "download or save it again" in message


@pytest.mark.parametrize("length", range(1, 8))
def test_safetensors_of_a_few_bytes(tmp_path, length):
    (tmp_path / "a.safetensors").write_bytes(bytes(length))
    assert f"is cut short: it has {length} bytes, fewer than the 8" in refusal(tmp_path / "a.safetensors")


def test_every_truncation_of_a_file_is_refused(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2), "b": np.ones(3)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        assert "download or save it again" in refusal(tmp_path / "cut.safetensors")


# What is something else altogether

SOMETHING_ELSE = {
    "an HTML page": (b"<!DOCTYPE html>\n<html>", "looks like an HTML page, probably an error page saved by a download"),
    "an HTML page in capitals": (b"\n <HTML><body>404", "looks like an HTML page"),
    "an HTML page with a mark": (b"\xef\xbb\xbf<html>", "looks like an HTML page"),
    "a git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 438\n",
        "is a git-lfs pointer, not the file it points to; fetch that with `git lfs pull`",
    ),
    "a text": ("Größe: 4 MB\n".encode(), "is a text file"),
    "a GGUF file": (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(8), "is an HDF5 file"),
    "an array": (b"\x93NUMPY\x01\x00", "is a NumPy array"),
    "a packed file": (b"\x1f\x8b\x08\x00" + bytes(8), "is compressed with gzip; unpack it first"),
}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("case", SOMETHING_ELSE)
def test_something_else(tmp_path, case, name):
    content, words = SOMETHING_ELSE[case]
    (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path / name)
    assert words in refusal(tmp_path)


def test_bytes_of_no_kind(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xfe\xed" * 100)
    assert "begins neither as a safetensors file nor as a PyTorch one" in refusal(tmp_path / "a.bin")


@pytest.mark.parametrize("name", ["a.bin", "a.safetensors", "a.pt"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / name)


def test_a_pickle_named_safetensors(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert "is a zip archive, as PyTorch writes them; give it the ending" in refusal(tmp_path / "a.safetensors")


# Pickles


class RunsCode:
    """What an attacker would put into a checkpoint: unpickling it makes a file."""

    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "a.pth"])
def test_a_pickle_with_code_in_it(tmp_path, zipped, name):
    saved = {"weight": torch.ones(2), "x": RunsCode(tmp_path / "made")}
    torch.save(saved, tmp_path / name, _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / name)
    assert f'contains code: its pickle asks for "{os.mkdir.__module__}.mkdir", and code in a checkpoint' in message
    assert message.endswith("convert it to safetensors in an environment you trust.")
    assert not (tmp_path / "made").exists()


def test_the_code_in_that_pickle_would_run(tmp_path):
    """Shows that the test above can fail."""
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_with_code_in_it(tmp_path, protocol):
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"x": RunsCode(tmp_path / "made")}, protocol=protocol))
    message = refusal(tmp_path / "a.bin")
    assert ("code in a checkpoint is never run" in message) == (protocol >= 2)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("saved", "asked"),
    [
        ({"w": torch.ones(2), "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_objects_that_need_code(tmp_path, saved, asked):
    torch.save(saved, tmp_path / "a.bin")
    assert f'contains code: its pickle asks for "{asked}"' in refusal(tmp_path / "a.bin")


def test_a_torchscript_program(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has given TorchScript up, files of it remain
        program = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    program.save(str(tmp_path / "a.pt"))
    assert "is a TorchScript program, which contains code" in refusal(tmp_path / "a.pt")


def test_a_zip_that_torch_did_not_write(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    assert "is a zip archive that torch.save did not write" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pickles(tmp_path, zipped):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.bin", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.bin").read_bytes()
    for length in (10, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.bin").write_bytes(whole[:length])
        assert "download or save it again" in refusal(tmp_path / "cut.bin")


def repack(path, change):
    """The zip at `path` with `change(name, bytes)` in place of each record; None leaves it out."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in records.items():
            if (changed := change(name, content)) is not None:
                new.writestr(name, changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, content: content[: len(content) // 2] if name.endswith("data/0") else content,
        lambda name, content: None if name.endswith("data/0") else content,
        lambda name, content: content * 2 if name.endswith("data/0") else content,
        lambda name, content: content[:2] if name.endswith("data.pkl") else content,
    ],
    ids=["short record", "missing record", "long record", "short pickle"],
)
def test_records_that_are_not_as_described(tmp_path, change):
    torch.save({"a": torch.ones(1000), "b": torch.zeros(1000)}, tmp_path / "a.bin")
    repack(tmp_path / "a.bin", change)
    assert "download or save it again" in refusal(tmp_path / "a.bin")


# Paths


@pytest.mark.parametrize(
    "path", ["/nowhere/at/all", "nowhere.safetensors", "./nowhere", "a/b/c", "", "a\0b", "x" * 5000]
)
def test_no_such_path(path):
    assert "does not exist; give a file, a folder, or a hub id" in _not_found(path)


def _not_found(path):
    with pytest.raises(CheckpointNotFoundError) as raised:
        open_checkpoint(path)
    return str(raised.value)


def test_a_path_object_is_never_a_hub_id(tmp_path):
    assert "does not exist" in refusal(tmp_path / "gone", CheckpointNotFoundError)


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "gone")
    assert f'is a link to "{tmp_path}/gone", which does not exist' in refusal(
        tmp_path / "a.safetensors", CheckpointNotFoundError
    )


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.bin")
    assert "is not a regular file" in refusal(tmp_path / "a.bin")


def test_an_empty_folder(tmp_path):
    assert "is an empty folder" in refusal(tmp_path)


def test_a_folder_without_a_checkpoint(tmp_path):
    (tmp_path / "README.md").write_text("nothing here")
    message = refusal(tmp_path)
    assert "holds no checkpoint (looked for model.safetensors, pytorch_model.bin, an index of shards" in message
    (tmp_path / "unet").mkdir()
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert "its subfolders unet do, name one" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EACCES, "permission denied; change its permissions or copy it"), (errno.EIO, "check the disk")],
)
def test_a_file_that_cannot_be_read(tmp_path, monkeypatch, code, words):
    """By a planted error, as the tests may run as root, who may read everything."""

    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "a.safetensors")
    monkeypatch.setattr(shard_module, "open", refuse, raising=False)
    assert words in refusal(tmp_path / "a.safetensors", ReadError)


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    assert "permission denied" in refusal(tmp_path, ReadError)


# Configs and indices


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", 'config.json" is not valid JSON (Expecting property name'),
        ("[1]", 'config.json" holds a JSON list, not an object'),
        ("", 'config.json" is empty (0 bytes)'),
        ("<html>", "is not valid JSON (it looks like an HTML page"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_broken_config(tmp_path, content, words):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    assert words in refusal(tmp_path)
    assert words in refusal(tmp_path / "model.safetensors")


@pytest.fixture
def sharded(tmp_path):
    for name, tensors in (("one", ("a", "b")), ("two", ("c",))):
        safetensors.numpy.save_file({tensor: np.ones(2) for tensor in tensors}, tmp_path / f"{name}.safetensors")
    return tmp_path


def write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_naming_a_missing_shard(sharded):
    write_index(sharded, {"a": "one.safetensors", "d": "three.safetensors"})
    message = refusal(sharded)
    assert 'names the shard "three.safetensors", missing from' in message
    assert "(1 of 2 are there)" in message


@pytest.mark.parametrize(
    "shard",
    [
        "/etc/model.safetensors",
        "../one.safetensors",
        "sub/../../one.safetensors",
        "..",
        "..\\one.safetensors",
        "C:\\one.safetensors",
        "\\\\host\\share\\one.safetensors",
        "one\0.safetensors",
    ],
)
def test_an_index_that_leaves_its_folder(sharded, shard):
    write_index(sharded, {"a": "one.safetensors", "x": shard})
    assert "lies outside its folder; shards must lie next to the index" in refusal(sharded)


def test_links_out_of_the_folder_are_fine(sharded):
    """As in a hub cache, whose snapshots are links to ../../blobs; only the index's text is under suspicion."""
    (sharded / "snapshot").mkdir()
    (sharded / "snapshot" / "one.safetensors").symlink_to("../one.safetensors")
    write_index(sharded / "snapshot", {"a": "one.safetensors"})
    assert open_checkpoint(sharded / "snapshot").names == ["a", "b"]


def test_a_name_in_two_shards(sharded):
    shutil.copy(sharded / "one.safetensors", sharded / "two.safetensors")
    write_index(sharded, {"a": "one.safetensors", "b": "two.safetensors"})
    message = refusal(sharded)
    assert message.startswith('tensor "a" is in ') or message.startswith('tensor "b" is in ')
    assert 'one.safetensors" and in "' in message
    assert "one checkpoint holds a name once" in message


def test_an_index_naming_a_tensor_that_its_shard_lacks(sharded):
    write_index(sharded, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    assert 'says that tensor "b" lies in "two.safetensors", which does not hold it' in refusal(sharded)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, 'it has no "weight_map"'),
        ({"weight_map": {}}, 'it has no "weight_map"'),
        ({"weight_map": ["a"]}, 'it has no "weight_map"'),
        ({"weight_map": {"a": 1}}, 'gives 1 as the shard of tensor "a"'),
        ({"weight_map": {"a": ""}}, "gives '' as the shard"),
        ([], "holds a JSON list, not an object"),
    ],
)
def test_an_index_that_is_none(tmp_path, index, words):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert words in refusal(tmp_path)
    with pytest.raises(FormatError):
        read_index(str(tmp_path / "model.safetensors.index.json"))


def test_a_damaged_shard_is_named(sharded):
    write_index(sharded, {"a": "one.safetensors", "c": "two.safetensors"})
    with (sharded / "two.safetensors").open("r+b") as file:
        file.truncate(20)
    assert "two.safetensors" in refusal(sharded)
