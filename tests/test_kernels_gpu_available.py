"""Why the fused kernels cannot run on a device, as a clause."""

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from weighbridge.kernels.gpu import available as asked

available = import_module("weighbridge.kernels.gpu.available")  # the package hands on the function of that name


class Broken:
    """A driver of Triton without the module that it builds with a C compiler."""

    @property
    def utils(self):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nMore of it.")


@pytest.fixture
def gpu(monkeypatch):
    """One GPU and a Triton that can be used; tests take something away."""
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(available, "interpreted", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(triton.runtime.driver, "_active", SimpleNamespace(utils=None))
    return SimpleNamespace(driver=triton.runtime.driver)


def test_nothing_is_wrong(gpu):
    assert asked("cuda:0") is None and asked("cuda") is None


def test_triton_is_missing_or_too_old(gpu, monkeypatch):
    def missing(name):
        raise available.PackageNotFoundError(name)

    monkeypatch.setattr(available, "version", missing)
    assert asked("cuda:0") == "Triton is not installed"
    monkeypatch.setattr(available, "version", lambda name: "3.5.1")
    assert asked("cuda:0") == "Triton 3.5.1 is installed and 3.6 is the oldest that serves"


def test_the_gpu_is_missing_or_too_old(gpu, monkeypatch):
    assert asked("cuda:1") == "torch finds 1 CUDA devices"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert asked("cuda:0") == "Some GPU has compute capability 7.5 and the kernels need 8.0"


def test_the_driver_is_too_old(gpu, monkeypatch):
    def old(device):
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")

    monkeypatch.setattr(torch.cuda, "get_device_capability", old)
    assert asked("cuda:0") == "The NVIDIA driver on your system is too old (found version 11040)"


def test_there_is_no_c_compiler(gpu, monkeypatch):
    monkeypatch.setattr(gpu.driver, "_active", Broken())
    assert asked("cuda:0") == (
        "Triton cannot be started (Failed to find C compiler. Please specify via CC environment variable)"
    )
