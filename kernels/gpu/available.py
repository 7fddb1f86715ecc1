"""Whether the fused kernels can run here, and on which devices float64 is fast. Never raises."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["OLDEST_TRITON", "available", "fast_float64", "interpreted"]

OLDEST_TRITON = (3, 3)  # tuples in kernels

# Compute capabilities whose float64 units run at half the rate of float32: P100, V100, A100, H100 and H200, B100 and
# B200 (NVIDIA, CUDA C++ Programming Guide, table of arithmetic throughput). All others have 1/32 or 1/64 of it.
_FAST_FLOAT64 = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}


def interpreted() -> bool:
    """Whether Triton runs kernels by its interpreter, on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def available(device: torch.device | str = "cuda") -> str | None:
    """Why this device cannot run the fused kernels, as a clause ("Triton is not installed"), or None where it can."""
    try:
        found = version("triton")
    except PackageNotFoundError:
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
    return None


def fast_float64(device: torch.device) -> bool:
    """Whether float64 runs at a useful speed there; the interpreter counts as a device that has it."""
    import torch

    return device.type != "cuda" or torch.cuda.get_device_capability(device) in _FAST_FLOAT64
