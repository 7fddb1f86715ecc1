"""Reading safetensors: names, dtypes, shapes and offsets from headers alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.engine.checkpoint import Checkpoint
from weighbridge.engine.formats import open_checkpoint
from weighbridge.engine.formats.safetensors import BITS
from weighbridge.kernels.decoders import DECODERS

from support.ckpt import entry, raw_safetensors, tensor_bytes
from support.minilm import folder as minilm_folder

TORCH_DTYPES = {
    code: getattr(torch, name)
    for code, name in {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
        "C64": "complex64",
    }.items()
}


def as_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_tensor_of_minilm_is_where_the_library_finds_it():
    checkpoint = open_checkpoint(minilm_folder())
    truth = safetensors.torch.load_file(minilm_folder() / "model.safetensors")
    assert checkpoint.format == "safetensors"
    assert set(checkpoint.names) == set(truth)
    for name, ref in checkpoint.tensors.items():
        assert ref.name == name
        assert ref.shape == tuple(truth[name].shape)
        assert TORCH_DTYPES[ref.dtype] == truth[name].dtype
    for name in (checkpoint.names[0], checkpoint.names[57], checkpoint.names[-1]):
        assert tensor_bytes(checkpoint.tensors[name]) == as_bytes(truth[name])
    assert checkpoint.config["hidden_size"] == 384
    assert checkpoint.label == checkpoint.path == str(minilm_folder())
    assert checkpoint.files == (str(minilm_folder() / "model.safetensors"),)


@pytest.mark.parametrize("code", TORCH_DTYPES)
def test_dtypes_that_the_library_writes(tmp_path, code):
    values = torch.arange(6, dtype=torch.uint8).repeat_interleave(BITS[code] // 8).view(TORCH_DTYPES[code])
    if code == "BOOL":
        values = torch.tensor([True, False, True])
    written = {"before": torch.ones(3, dtype=torch.uint8), "x": values, "after": torch.ones(2)}
    safetensors.torch.save_file(written, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.tensors["x"].dtype == code
    for name, tensor in written.items():
        assert tensor_bytes(checkpoint.tensors[name]) == as_bytes(tensor)


@pytest.mark.parametrize("code", BITS)
def test_every_dtype_of_the_library_is_listed(tmp_path, code):
    nbytes = 8 * BITS[code] // 8
    header = {"x": entry(code, [4, 2], 0, nbytes), "y": entry("U8", [1], nbytes, nbytes + 1)}
    checkpoint = open_checkpoint(raw_safetensors(tmp_path / "a.safetensors", header, nbytes + 1))
    first, second = checkpoint.tensors["x"], checkpoint.tensors["y"]
    assert (first.dtype, first.shape, first.nbytes, first.elements) == (code, (4, 2), nbytes, 8)
    assert second.offset == first.offset + nbytes


def test_every_decodable_dtype_has_its_size_here():
    assert {code: decoder.itemsize * 8 for code, decoder in DECODERS.items()}.items() <= BITS.items()


def test_scalars_and_empty_tensors(tmp_path):
    written = {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float16), "one": np.ones(1, np.int8)}
    safetensors.numpy.save_file(written, tmp_path / "a.safetensors", metadata={"format": "np", "step": "3"})
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    shapes = {name: (ref.shape, ref.elements, ref.nbytes) for name, ref in checkpoint.tensors.items()}
    assert shapes == {"scalar": ((), 1, 4), "empty": ((0, 4), 0, 0), "one": ((1,), 1, 1)}
    assert np.frombuffer(tensor_bytes(checkpoint.tensors["scalar"]), np.float32) == 2.5
    assert checkpoint.metadata == {"format": "np", "step": "3"}


def test_a_file_without_tensors(tmp_path):
    safetensors.numpy.save_file({}, tmp_path / "a.safetensors")
    assert open_checkpoint(tmp_path / "a.safetensors").names == []


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(st.sampled_from(["f8", "f4", "f2", "i8", "i2", "u1", "?"]), st.lists(st.integers(0, 4), max_size=3)),
        max_size=8,
    )
)
def test_offsets_of_any_file(tmp_path_factory, layout):
    rng = np.random.default_rng(0)
    written = {name: rng.integers(0, 2, shape).astype(dtype).reshape(shape) for name, (dtype, shape) in layout.items()}
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    safetensors.numpy.save_file(written, path)
    checkpoint = open_checkpoint(path)
    assert {name: tensor_bytes(ref) for name, ref in checkpoint.tensors.items()} == {
        name: array.tobytes() for name, array in written.items()
    }
    offsets = [ref.offset for ref in checkpoint.tensors.values()]
    assert offsets == sorted(offsets)


def test_an_opened_checkpoint_passes_through(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(str(tmp_path / "a.safetensors"))
    assert isinstance(checkpoint, Checkpoint)
    assert open_checkpoint(checkpoint) is checkpoint


def test_the_content_decides_whatever_the_name(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "weights.bin")
    assert open_checkpoint(tmp_path / "weights.bin").format == "safetensors"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "a.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_checkpoint("~/a.safetensors").names == ["a"]


# How cheap a handle is


@pytest.mark.parametrize(("tensors", "seconds"), [(500, 0.05), (20_000, 0.3)])
def test_opening_many_tensors_is_cheap(tmp_path, tensors, seconds):
    one = np.zeros((2, 2), np.float32)
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(tensors)]
    safetensors.numpy.save_file(dict.fromkeys(names, one), tmp_path / "a.safetensors")
    best = min(_seconds(tmp_path / "a.safetensors") for _ in range(5))
    assert best < seconds


def test_no_tensor_byte_is_touched(tmp_path):
    """1.5 TB of tensors in a file that is one big hole: only a reader that leaves them alone opens it at once."""
    half = 2**40
    header = {"a": entry("F32", [half // 4], 0, half), "b": entry("F16", [half // 4], half, half + half // 2)}
    try:
        path = raw_safetensors(tmp_path / "a.safetensors", header, half + half // 2)
    except OSError as error:
        pytest.skip(f"no file of 1.5 TB here: {error}")
    assert _seconds(path) < 0.5
    checkpoint = open_checkpoint(path)
    assert checkpoint.nbytes == half + half // 2
    assert checkpoint.tensors["b"].offset == checkpoint.tensors["a"].offset + half
    assert not _mapped(path)


def test_the_file_is_not_kept_mapped(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.names == ["a"]
    assert not _mapped(tmp_path / "a.safetensors")


HEAVY = ("torch", "transformers", "huggingface_hub", "pandas", "pyarrow")


def _heavy_modules_after(code: str) -> set[str]:
    report = f"import sys\n{code}\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_safetensors_are_opened_without_torch():
    opened = f"from weighbridge.engine.formats import open_checkpoint\nopen_checkpoint({str(minilm_folder())!r})"
    assert _heavy_modules_after(opened) == set()


def test_the_check_for_torch_can_fail(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.bin")
    path = str(tmp_path / "a.bin")
    opened = f"from weighbridge.engine.formats import open_checkpoint\nopen_checkpoint({path!r})"
    assert "torch" in _heavy_modules_after(opened)


def _seconds(path: Path) -> float:
    """Of this thread: what else the machine does is not counted."""
    start = time.thread_time()
    open_checkpoint(path)
    return time.thread_time() - start


def _mapped(path: Path) -> bool:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    return str(path) in maps.read_text()


# Identity


def test_identity_follows_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a": np.ones(2)}, path)
    first = open_checkpoint(path).identity
    assert open_checkpoint(path).identity == first
    os.utime(path, ns=(1, 1))
    touched = open_checkpoint(path).identity
    assert touched != first
    safetensors.numpy.save_file({"b": np.ones(2)}, path)
    os.utime(path, ns=(1, 1))
    renamed = open_checkpoint(path).identity
    assert renamed not in (first, touched)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert open_checkpoint(path).identity != renamed
