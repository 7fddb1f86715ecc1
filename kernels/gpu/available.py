"""Whether the fused kernels can run here."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["OLDEST_TRITON", "available", "capability", "fast_float64", "interpreted", "packs_halves"]

OLDEST_TRITON = (3, 6)  # 3.4 and 3.5 do not compile the kernels; tested with 3.6 and 3.9

# Compute capabilities with half of float32's rate for float64 (CUDA C++ Programming Guide, "Arithmetic Instructions"):
# A100, H100 and H200, B200. All others from 8.0 on have 1/64 of it, B300 (10.3) among them.
_FAST_FLOAT64 = {80, 90, 100}


def capability(device: torch.device | str) -> int:
    """The compute capability of a device, 90 for 9.0; 0 for the CPU, where kernels are interpreted."""
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def fast_float64(device: torch.device | str) -> bool:
    """Whether a device computes in float64 at a rate that is of use; the CPU, where kernels are interpreted, does."""
    return (found := capability(device)) == 0 or found in _FAST_FLOAT64


def packs_halves(device: torch.device | str) -> bool:
    """Whether a device has the instructions of `halves`; Triton's interpreter has none of a GPU's own."""
    return capability(device) >= 90


def interpreted() -> bool:
    """Whether Triton runs kernels by its interpreter, on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def available(device: torch.device | str = "cuda") -> str | None:
    """Why this device cannot run the fused kernels, as a clause ("Triton is not installed"), or None where it can.

    It does not raise, whatever the device or the driver.
    """
    if (found := _installed()) is None:
        return "Triton is not installed"
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_TRITON:
        return f"Triton {found} is installed and {'.'.join(map(str, OLDEST_TRITON))} is the oldest that serves"
    import torch

    try:
        device = torch.device(device)
    except RuntimeError:
        return f'torch knows no device "{device}"'
    if interpreted():
        return None if device.type == "cpu" else "TRITON_INTERPRET=1 is set, which takes tensors of the CPU"
    if device.type != "cuda":
        return f"Triton has no kernels for {device.type} devices here"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    try:
        count = torch.cuda.device_count()
        if not count or (device.index or 0) >= count:
            return f"torch finds {count} CUDA devices"
        major, minor = torch.cuda.get_device_capability(device)
    except (RuntimeError, AssertionError) as problem:  # an old driver, a device that is lost
        return str(problem).splitlines()[0].rstrip(".")
    if major < 8:
        return f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor} and the kernels need 8.0"
    return _why_not_started()


def _installed() -> str | None:
    """Triton's version; nightly builds of torch bring it under another name."""
    for name in ("triton", "pytorch-triton"):
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def _why_not_started() -> str | None:
    """Why Triton cannot launch anything. It builds a module for that, once on a machine, with the system's C compiler.

    Images without a compiler, or without Python's headers, are common; the processor serves there as well.
    """
    try:
        from triton.runtime import driver

        driver.active.utils  # noqa: B018 -- builds it
    except Exception as problem:  # noqa: BLE001 -- whatever it is, here are no kernels
        told = (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(".")
        return f"Triton cannot be started ({told})"
    return None
