"""What --device means, which device `auto` takes, and the sentence for each that cannot be used."""

from types import SimpleNamespace

import numpy as np
import pytest

from weighbridge.engine import devices
from weighbridge.engine.devices import FUSED, PORTABLE, Device, as_bytes, check_device, choose, nvidia_gpu_exists
from weighbridge.engine.errors import DeviceError, OptionError
from weighbridge.engine.plan import Joined, batches
from weighbridge.kernels import portable

from support.kernel_cases import random_tensor
from support.raw_files import write

MPS = TypeError(
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use ..."
)


class FakeTorch:
    """A torch with so many CUDA devices, of which `init` may fail."""

    __version__ = "2.11.0"

    def __init__(self, gpus=2, cuda="13.0", init=None, xpu=0, mps=False):
        def start():
            if init is not None:
                raise init

        self.version = SimpleNamespace(cuda=cuda, hip=None)
        self.cuda = SimpleNamespace(init=start, device_count=lambda: gpus, is_available=lambda: gpus > 0)
        self.xpu = SimpleNamespace(device_count=lambda: xpu, is_available=lambda: xpu > 0)
        self.backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))


@pytest.fixture
def batch(tmp_path):
    refs = write(tmp_path / "a", [("F32", random_tensor("F32", 100, np.random.default_rng(66)))] * 2)
    return list(batches([Joined(0, tuple(refs), 100)]))


def chosen(monkeypatch, device, torch, batch=(), fused=None, said=None, slow=(), without=()):
    monkeypatch.setattr(devices, "_torch", lambda: torch)
    monkeypatch.setattr(portable, "has_float64", lambda name: name not in without)
    monkeypatch.setattr(devices, "_fast_float64", lambda name: name not in slow)
    monkeypatch.setattr(devices, "_why_not_fused", fused if callable(fused) else lambda name: fused)
    return choose(device, batch, 1, 2, said.append if said is not None else None)


@pytest.mark.parametrize(
    ("device", "torch", "expected"),
    [
        ("cuda", FakeTorch(3), [("cuda:0", FUSED), ("cuda:1", FUSED), ("cuda:2", FUSED)]),
        ("cuda:1", FakeTorch(2), [("cuda:1", FUSED)]),
        ("xpu", FakeTorch(xpu=2), [("xpu:0", PORTABLE), ("xpu:1", PORTABLE)]),
        ("xpu:1", FakeTorch(xpu=2), [("xpu:1", PORTABLE)]),
        ("portable", FakeTorch(1), [("cuda:0", PORTABLE)]),
        ("portable", FakeTorch(0, xpu=1), [("xpu:0", PORTABLE)]),
        ("portable", FakeTorch(0, mps=True), [("mps", PORTABLE)]),
        ("portable", FakeTorch(0), [("cpu", PORTABLE)]),
        ("mps", FakeTorch(mps=True), [("mps", PORTABLE)]),
        ("portable:mps", FakeTorch(mps=True), [("mps", PORTABLE)]),
        ("portable:cpu", FakeTorch(1), [("cpu", PORTABLE)]),
        ("portable:cuda:1", FakeTorch(2), [("cuda:1", PORTABLE)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_devices(monkeypatch, device, torch, expected):
    wanted = [Device(name, backend, True if backend == PORTABLE else None) for name, backend in expected]
    assert chosen(monkeypatch, device, torch) == wanted


def test_where_one_has_no_float64_all_do_without(monkeypatch):
    """A result does not depend on which device takes a tensor."""
    for without in (["xpu:1"], ["xpu:0", "xpu:1"]):
        found = chosen(monkeypatch, "xpu", FakeTorch(xpu=2), without=without)
        assert found == [Device("xpu:0", PORTABLE, False), Device("xpu:1", PORTABLE, False)]
    assert chosen(monkeypatch, "mps", FakeTorch(mps=True), without=["mps"]) == [Device("mps", PORTABLE, False)]


def test_a_device_that_does_not_compute_is_a_sentence(monkeypatch):
    def broken(name):
        raise RuntimeError("Native API failed. Native API returns: 40")

    monkeypatch.setattr(devices, "_torch", lambda: FakeTorch(xpu=1))
    monkeypatch.setattr(portable, "has_float64", broken)
    with pytest.raises(DeviceError) as caught:
        choose("xpu", [], 1, None, None)
    assert str(caught.value) == "xpu:0 cannot be used: Native API failed; use --device cpu."


def test_a_full_device_has_float64_all_the_same(monkeypatch):
    import torch

    def full(*args, **options):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "ones", full)
    assert portable.has_float64("cuda:0")
    with pytest.raises(torch.OutOfMemoryError):
        portable.has_float64("xpu:0")


@pytest.mark.parametrize("error", [MPS, RuntimeError("Required aspect fp64 is not supported on the device")])
def test_whether_a_device_has_float64(monkeypatch, error):
    import torch

    assert portable.has_float64("cpu")
    real = torch.ones

    def ones(count, dtype, device):
        if dtype == torch.float64:
            raise error
        return real(count, dtype=dtype)

    monkeypatch.setattr(torch, "ones", ones)
    assert not portable.has_float64("mps")


def test_cpu_asks_nobody(monkeypatch):
    monkeypatch.setattr(devices, "_torch", lambda: pytest.fail("torch was asked"))
    assert choose("cpu", [], 1, None, None) == []


OLD = RuntimeError(
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by ..."
)


@pytest.mark.parametrize(
    ("device", "torch", "sentence"),
    [
        (
            "cuda",
            FakeTorch(cuda=None),
            "--device cuda needs torch with CUDA, and torch 2.11.0 was built without; install a build with CUDA, or "
            "use --device cpu.",
        ),
        (
            "portable:cuda:0",
            FakeTorch(init=OLD),
            "--device portable:cuda:0 cannot be used: The NVIDIA driver on your system is too old (found version "
            "11040); install a driver that suits CUDA 13.0, or use --device cpu.",
        ),
        (
            "cuda:0",
            FakeTorch(init=OLD),
            "--device cuda:0 cannot be used: The NVIDIA driver on your system is too old (found version 11040); "
            "install a driver that suits CUDA 13.0, or use --device cpu.",
        ),
        ("cuda", FakeTorch(0), "there is no device cuda: none is to be seen by torch; use another, or --device cpu."),
        (
            "cuda:1",
            FakeTorch(1),
            "there is no device cuda:1: cuda:0 is to be seen by torch; use another, or --device cpu.",
        ),
        (
            "cuda:7",
            FakeTorch(4),
            "there is no device cuda:7: cuda:0 to cuda:3 are to be seen by torch; use another, or --device cpu.",
        ),
        ("xpu", FakeTorch(), "there is no device xpu: none is to be seen by torch; use another, or --device cpu."),
        ("mps", FakeTorch(), "there is no device mps: none is to be seen by torch; use another, or --device cpu."),
        (
            "portable:cuda:2",
            FakeTorch(2),
            "there is no device cuda:2: cuda:0 to cuda:1 are to be seen by torch; use another, or --device cpu.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_each_trouble_is_a_sentence(monkeypatch, device, torch, sentence):
    with pytest.raises(DeviceError) as caught:
        chosen(monkeypatch, device, torch)
    assert str(caught.value) == sentence


def test_torch_that_cannot_be_imported(monkeypatch):
    import builtins

    real = builtins.__import__

    def without_torch(name, *args, **options):
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(DeviceError, match=r"need torch, which cannot be imported .*; install it, or use --device cpu"):
        choose("cuda", [], 1, None, None)


@pytest.fixture
def warnings(monkeypatch, caplog):
    """What the log is told, as in a process that begins."""
    monkeypatch.setattr(devices, "_warned", set())
    return caplog


def test_cuda_without_triton_computes_with_torch_and_says_so(monkeypatch, warnings):
    """Once, though each pass of a run chooses."""
    for _ in range(2):
        found = chosen(monkeypatch, "cuda:1", FakeTorch(2), fused="Triton is not installed")
        assert found == [Device("cuda:1", PORTABLE, True)]
    assert warnings.messages == [
        "computing with plain torch operations on cuda:1, which is slower: Triton is not installed"
    ]


def test_a_gpu_that_cannot_run_the_kernels_decides_for_all(monkeypatch, warnings):
    """Fused kernels on one GPU and torch on the other would give bits that depend on who takes a tensor."""
    found = chosen(monkeypatch, "cuda", FakeTorch(3), fused=lambda name: "old" if name == "cuda:1" else None)
    assert found == [Device(f"cuda:{n}", PORTABLE, True) for n in range(3)]
    assert warnings.messages == [
        "computing with plain torch operations on all of cuda:0 to cuda:2, which is slower: old"
    ]


# auto


def rule(monkeypatch, worth, exists):
    monkeypatch.setattr(devices, "worth_a_gpu", lambda *args: worth)
    monkeypatch.setattr(devices, "nvidia_gpu_exists", lambda: exists)


@pytest.mark.parametrize(("worth", "exists"), [(False, True), (True, False), (False, False)])
def test_auto_is_the_processor_and_asks_no_torch(monkeypatch, batch, worth, exists):
    rule(monkeypatch, worth, exists)
    monkeypatch.setattr(devices, "_torch", lambda: pytest.fail("torch was asked"))
    assert choose("auto", batch, 1, 2, None) == []


def test_auto_takes_all_gpus_where_they_pay(monkeypatch, batch):
    rule(monkeypatch, True, True)
    assert chosen(monkeypatch, "auto", FakeTorch(2), batch) == [Device("cuda:0", FUSED), Device("cuda:1", FUSED)]


@pytest.mark.parametrize(
    ("slow", "float64"), [([], None), (["cuda:0", "cuda:1"], None), (["cuda:1"], False)], ids=["none", "all", "one"]
)
@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_gpus_of_several_kinds_sum_alike(monkeypatch, batch, device, slow, float64):
    """A result does not depend on which GPU takes a tensor."""
    rule(monkeypatch, True, True)
    found = chosen(monkeypatch, device, FakeTorch(2), batch, slow=slow)
    assert found == [Device("cuda:0", FUSED, float64), Device("cuda:1", FUSED, float64)]


@pytest.mark.parametrize(("capability", "fast"), [((8, 0), True), ((8, 9), False), ((10, 0), True), ((10, 3), False)])
def test_which_gpus_are_fast_at_float64(monkeypatch, capability, fast):
    import torch

    from weighbridge.kernels.gpu import fast_float64

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert fast_float64("cuda:3") is fast


@pytest.mark.parametrize(
    ("torch", "fused", "reason"),
    [
        (FakeTorch(cuda=None), None, "needs torch with CUDA, and torch 2.11.0 was built without"),
        (FakeTorch(init=OLD), None, "driver on your system is too old"),
        (FakeTorch(1), "Triton is not installed", "Triton is not installed"),
    ],
)
def test_auto_goes_on_without_a_gpu_and_says_why(monkeypatch, batch, torch, fused, reason):
    rule(monkeypatch, True, True)
    said = []
    assert chosen(monkeypatch, "auto", torch, batch, fused, said) == []
    assert len(said) == 1
    assert said[0].startswith("computing on the processor, for a GPU is not to be used: ") and reason in said[0]


def test_rule_of_auto():
    """One pair, and one base against 16, are the processor's; all pairs of 16 large checkpoints are not."""
    elements = 7_000_000_000
    for threads in (2, 16, 64):
        assert not devices.worth_a_gpu(2 * 2 * elements, elements, threads)
        assert not devices.worth_a_gpu(17 * 2 * elements, 16 * elements, threads)
        assert devices.worth_a_gpu(16 * 2 * elements, 120 * elements, threads) is (threads < 64)
        assert not devices.worth_a_gpu(16 * 2 * 1000, 120 * 1000, threads)
    assert devices.worth_a_gpu(64 * 2 * elements, 2016 * elements, 64)


def test_whether_there_is_a_gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not nvidia_gpu_exists(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert not nvidia_gpu_exists(tmp_path)
    (tmp_path / "dev/nvidia0").touch()
    assert nvidia_gpu_exists(tmp_path)
    (tmp_path / "dev/nvidia0").unlink()
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert nvidia_gpu_exists(tmp_path)
    for hidden in ("", " ", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not nvidia_gpu_exists(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert nvidia_gpu_exists(tmp_path)


# Options


@pytest.mark.parametrize(
    "text",
    ["gpu", "cuda:", "cuda:x", "CUDA", "cpu:0", "portable:", "portable:foo", "", "auto ", "cuda:01", "cuda:\u0661"],
)
def test_no_such_device(text):
    with pytest.raises(OptionError, match=r"there is no device .* \(--device\); choose from auto, cpu, cuda, cuda:N"):
        check_device(text)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("8GB", 8 * 10**9),
        ("8GiB", 8 << 30),
        ("1.5 gib", 3 << 29),
        ("500MB", 5 * 10**8),
        ("2k", 2000),
        ("64 KiB", 65536),
        ("1TB", 10**12),
        ("123", 123),
        (4096, 4096),
        (None, None),
    ],
)
def test_sizes(text, nbytes):
    assert as_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "0MB", "8 bytes", "1e9", -5])
def test_no_size(text):
    with pytest.raises(OptionError, match=r'--device-memory ".*" is no size; write for example 8GB'):
        as_bytes(text)
