"""Commands and functions on devices: the numbers of `reference`, and the same bits however the work was cut up.

What is marked gpu runs where there is an NVIDIA GPU: pytest -m gpu.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.devices import FUSED, PORTABLE, Device
from weighbridge.engine.execute import execute
from weighbridge.kernels import portable

from support.kernel_cases import check, exact, same_bits
from support.lanes import CODES, computed, related_files

PAIR = [(1, 0)]
STAR = [(1, 0), (2, 0)]

pytestmark = pytest.mark.usefixtures("one_thread")
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = [
    pytest.param("portable:cpu", id="portable"),
    pytest.param("portable:cuda", id="portable on CUDA", marks=[gpu, needs_gpu]),
    pytest.param("cuda", id="cuda", marks=[gpu, needs_gpu]),
]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    sizes = [1000, 70_001, 7, 1500, 500, 0, 1, 65_536, 3000, 31]
    return related_files(tmp_path_factory.mktemp("files"), 3, CODES, sizes)


@pytest.fixture(scope="module")
def wanted(tensors):
    def read(ref):
        return np.fromfile(ref.file, np.uint8, ref.nbytes, offset=ref.offset)

    rows = [
        exact([[read(ref) for ref in each.operands]], [ref.dtype for ref in each.operands], STAR) for each in tensors
    ]
    return tuple(np.concatenate(part) for part in zip(*rows, strict=True))


@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize("device", DEVICES)
def test_sums(tensors, wanted, device, io):
    sums = execute(tensors, 3, STAR, device=device, io=io)
    check((sums.selfs, sums.pairs), wanted)
    assert sums.bytes_read == sum(tensor.nbytes for tensor in tensors) <= sums.bytes_copied


LANES = [
    pytest.param(Device("cpu", PORTABLE), id="portable"),
    pytest.param(Device("cpu", PORTABLE, False), id="portable in float32"),
    pytest.param(Device("cuda:0", PORTABLE), id="portable on CUDA", marks=[gpu, needs_gpu]),
    pytest.param(Device("cuda:0", PORTABLE, False), id="portable on CUDA in float32", marks=[gpu, needs_gpu]),
    pytest.param(Device("cuda:0", FUSED), id="cuda", marks=[gpu, needs_gpu]),
]


@pytest.mark.parametrize("device", LANES)
def test_same_bits_for_any_split(tensors, device):
    few = [tensors[k] for k in (0, 1, 2, 4)]
    device = [device]
    usual, _ = computed(few, 3, STAR, devices=device)
    for lanes, io, buffer_bytes, buffers in ((1, "pread", 1, 1), (2, "map", 300_000, 2), (3, "pread", 1 << 20, 3)):
        found, _ = computed(few, 3, STAR, devices=device * lanes, io=io, buffer_bytes=buffer_bytes, buffers=buffers)
        assert same_bits(usual, found)


@pytest.mark.parametrize("device", DEVICES[2:])
def test_a_gpu_with_little_memory(tensors, wanted, device):
    """All of it through 64 MiB of device memory, twice the same bits."""
    first, second = (execute(tensors, 3, STAR, device=device, device_memory="64MiB") for _ in range(2))
    check((first.selfs, first.pairs), wanted)
    assert same_bits((first.selfs, first.pairs), (second.selfs, second.pairs))


# Commands and functions


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    generator = torch.Generator().manual_seed(67)
    base = {
        "embeddings.weight": torch.randn(70, 32, generator=generator),
        "layer.0.dense.weight": torch.randn(32, 32, generator=generator).bfloat16(),
        "layer.0.dense.bias": torch.randn(32, generator=generator).double(),
        "layer.0.steps": torch.arange(5),
        "layer.0.empty": torch.zeros(0, 4),
    }
    paths = []
    for n in range(3):
        tensors = {name: (each + 0.01 * n if each.is_floating_point() else each + n) for name, each in base.items()}
        save_file({k: v.to(base[k].dtype) for k, v in tensors.items()}, folder / f"{n}.safetensors")
        paths.append(str(folder / f"{n}.safetensors"))
    return paths


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def numbers(value, path=""):
    """Every number of a JSON document by its path; what took time and place left out."""
    if isinstance(value, dict):
        return {k: v for key, each in value.items() for k, v in numbers(each, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for n, each in enumerate(value) for k, v in numbers(each, f"{path}/{n}").items()}
    return {path: value}


def assert_same_numbers(found, wanted):
    found, wanted = numbers(json.loads(found)), numbers(json.loads(wanted))
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        if isinstance(value, float):
            assert found[path] == pytest.approx(value, rel=1e-9, abs=1e-15), path
        else:
            assert found[path] == value, path


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "command", [("compare", "{0}", "{1}", "{2}"), ("inspect", "{1}", "--stats")], ids=["compare", "inspect"]
)
def test_commands(files, device, command):
    line = [part.format(*files) for part in (*command, "--format", "json")]
    code, wanted, _ = run(*line, "--device", "cpu")
    assert code == 0
    code, found, stderr = run(*line, "--device", device, "--device-memory", "300MB")
    assert (code, stderr) == (0, "")
    assert_same_numbers(found, wanted)


@pytest.fixture
def no_float64(monkeypatch):
    """The processor as torch device that has none, as Apple's GPUs."""
    monkeypatch.setattr(portable, "has_float64", lambda device: False)


@pytest.mark.usefixtures("no_float64")
def test_a_device_without_float64(files):
    line = ("compare", *files, "--format", "json", "--device")
    code, found, stderr = run(*line, "portable:cpu")
    assert (code, stderr) == (0, "")
    assert_same_numbers(found, run(*line, "cpu")[1])


@pytest.mark.usefixtures("no_float64")
@pytest.mark.parametrize("command", ["sweep", "matrix"])
def test_what_was_begun_without_float64_is_not_gone_on_with_in_float64(monkeypatch, files, tmp_path, command):
    line = (command, *files, "--out", tmp_path / "out", "--device", "portable:cpu", "-q")
    assert run(*line)[::2] == (0, "")
    with monkeypatch.context() as other:
        other.setattr(portable, "has_float64", lambda device: True)
        code, _, stderr = run(*line)
    assert code == 2 and 'in the arithmetic "portable-float32"' in stderr
    assert run(*line)[::2] == (0, "")


@pytest.mark.parametrize("device", DEVICES)
def test_sweep_on_a_device(files, tmp_path, device):
    code, _, stderr = run(
        "sweep", *files, "--out", tmp_path / "device", "--device", device, "--device-memory", "300MB", "-q"
    )
    assert (code, stderr) == (0, "")
    assert run("sweep", *files, "--out", tmp_path / "cpu", "--device", "cpu")[0] == 0
    assert_same_numbers(
        run("show", tmp_path / "device", "--format", "json")[1], run("show", tmp_path / "cpu", "--format", "json")[1]
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--device", "gpu"], 'weighbridge: error: there is no device "gpu" (--device); choose from auto, cpu, cuda'),
        (["--device-memory", "much"], 'weighbridge: error: --device-memory "much" is no size; write for example 8GB'),
        (["--device", "cuda:99"], "weighbridge: error: "),
        (["--device", "portable:cpu", "--device-memory", "1kB"], "weighbridge: error: cpu would need a buffer of"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "inspect", "sweep"])
def test_bad_devices_are_a_sentence(files, tmp_path, command, options, sentence):
    arguments = {
        "compare": files[:2],
        "inspect": [files[0], "--stats"],
        "sweep": [*files[:2], "--out", tmp_path / "out", "--quiet"],
    }[command]
    if command == "sweep" and "--device-memory" in options and "portable:cpu" in options:
        sentence = f"weighbridge: {files[1]} failed: cpu would need a buffer of"  # another may be small enough
    code, stdout, stderr = run(command, *arguments, *options)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(sentence) and stderr.count("\n") == 1


@pytest.mark.parametrize("options", [["--device", "gpu"], ["--device-memory", "0"], ["--device", "cuda:99"]], ids=str)
def test_a_bad_device_is_told_once_for_all_others(files, options):
    """Before any of them is opened: one does not even exist."""
    code, stdout, stderr = run("compare", *files, f"{files[0]}.none", *options)
    assert (code, stdout) == (2, "")
    assert stderr.count("weighbridge: error: ") == stderr.count("\n") == 1 and "--device" in stderr


def test_python(files):
    wanted = weighbridge.compare(files[0], files[1], device="cpu")
    found = weighbridge.compare(files[0], files[1], device="portable:cpu", device_memory="300MB")
    np.testing.assert_allclose(found.pair, wanted.pair, rtol=2e-12)
    assert found.bytes_read == wanted.bytes_read
    inspected = weighbridge.inspect(files[1], stats=True, device="portable:cpu")
    np.testing.assert_allclose(inspected.self_sums[:, 1:4], found.other_self[:, 1:4], rtol=2e-12)
