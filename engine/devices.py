"""Where sums are computed: what `--device` means, which devices there are, and why one cannot be used.

    auto            the CPU, or all NVIDIA GPUs where arithmetic outweighs reading, see `worth_a_gpu`
    cpu             compiled loops on the processor, straight on memory maps
    cuda, cuda:N    fused Triton kernels on all visible NVIDIA GPUs, or on one; plain torch operations without Triton
    xpu, xpu:N      plain torch operations on Intel GPUs
    mps             plain torch operations on an Apple GPU
    portable        plain torch operations on whatever torch finds: CUDA, else XPU, else MPS, else the CPU
    portable:NAME   plain torch operations on a torch device: portable:cpu, portable:cuda:1

Nothing here imports torch unless a device other than the processor is asked for or worth it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..kernels.cpu import available_threads
from .errors import DeviceError, OptionError

if TYPE_CHECKING:
    from types import ModuleType

    from .loading import Say
    from .plan import Batch

__all__ = [
    "ARITHMETICS",
    "FUSED",
    "PORTABLE",
    "Device",
    "arithmetic",
    "arithmetic_here",
    "arithmetics_of",
    "as_bytes",
    "check_device",
    "choose",
    "first_sentence",
    "look_for",
    "nvidia_gpu_exists",
    "worth_a_gpu",
]

FUSED, PORTABLE = "gpu", "portable"
_PORTABLE_FLOAT32 = f"{PORTABLE}-float32"
ARITHMETICS = ("cpu", "gpu-float64", "gpu-float32", PORTABLE, _PORTABLE_FLOAT32)
"""What `arithmetic` tells apart."""
_WITH_FLOAT64 = ("portable:cpu", "portable:cuda")

_GPUS = r"(?:cuda|xpu)(?::(?:0|[1-9][0-9]*))?"
_FORM = re.compile(rf"auto|cpu|mps|{_GPUS}|portable(?::(?:cpu|mps|{_GPUS}))?")
_SPELLINGS = "auto, cpu, cuda, cuda:N, xpu, xpu:N, mps, portable, portable:NAME"
_warned: set[str] = set()
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", re.IGNORECASE)

# What the rule of `auto` goes by. Measured, see benchmarks/results: `all_pairs` ran at 3.4 G pair-elements a second and
# thread. A thread copies 20 GB/s from the page cache when it is alone, and less than half of that with company.
_PAIR_ELEMENTS_PER_SECOND = 3.4e9
_COPIED_BYTES_PER_SECOND = 8e9
_BUS_BYTES_PER_SECOND = 50e9  # PCIe 5 with 16 lanes
_START_SECONDS = 4.0  # importing torch alone takes 1.8; then the context, pinned memory, loading the kernels


@dataclass(frozen=True)
class Device:
    """One device that takes part.

    Attributes:
        name: as torch calls it: "cuda:0".
        backend: `FUSED` or `PORTABLE`, the module of `kernels` whose tile it runs.
        float64: whether sums are taken in float64 or in several float32; None: as suits the
            device.
    """

    name: str
    backend: str
    float64: bool | None = None

    @property
    def kernels(self) -> ModuleType:
        """The module."""
        from importlib import import_module

        return import_module(f"..kernels.{self.backend}", __package__)

    @property
    def kind(self) -> str:
        """The name without a number: "cuda", "xpu" or "cpu"."""
        return self.name.partition(":")[0]

    @property
    def arithmetic(self) -> str:
        """What the last bits of its sums follow from, whatever the device is called, see `arithmetic`."""
        ask = _has_float64 if self.backend == PORTABLE else _fast_float64
        float64 = ask(self.name) if self.float64 is None else self.float64
        if self.backend == PORTABLE:
            return PORTABLE if float64 else _PORTABLE_FLOAT32
        return f"{self.backend}-float{64 if float64 else 32}"


def check_device(text: str) -> str:
    """`text` itself, if it is spelt as a device is.

    Raises:
        OptionError: it is none.
    """
    if not _FORM.fullmatch(text):
        raise OptionError(f'there is no device "{text}" (--device); choose from {_SPELLINGS}.')
    return text


def as_bytes(text: str | int | None) -> int | None:
    """A size as it is typed: 8GB (1000s), 8GiB (1024s), or a number of bytes; None for None.

    Raises:
        OptionError: it is none, or zero.
    """
    if text is None:
        return None
    match = _SIZE.fullmatch(str(text))
    if match is None or not float(match[1]):
        raise OptionError(f'--device-memory "{text}" is no size; write for example 8GB, 500MiB or a number of bytes.')
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))


def choose(device: str, batches: Sequence[Batch], pairs: int, threads: int | None, say: Say | None) -> list[Device]:
    """The devices on which batches are computed; none stands for the processor.

    Args:
        device: as it was typed.
        batches: what is to be done.
        pairs: P, of every tensor.
        threads: as for `execute`.
        say: told in a sentence where `auto` would take a GPU and cannot. That a GPU which was asked for cannot run the
            fused kernels is a warning in the log "weighbridge", which by default goes to stderr: it is slower by far.
    Raises:
        OptionError: it is no device.
        DeviceError: it is not there, or cannot be used; says why.
    """
    check_device(device)
    if device == "cpu":
        return []
    if device == "auto":
        nbytes = sum(batch.nbytes for batch in batches)
        pair_elements = pairs * sum(int(batch.elements.sum()) for batch in batches)
        if not (worth_a_gpu(nbytes, pair_elements, threads) and nvidia_gpu_exists()):
            return []
        try:
            found = [Device(name, FUSED) for name in _cuda("cuda")]
            reasons = [reason for each in found if (reason := _why_not_fused(each.name)) is not None]
        except DeviceError as error:
            found, reasons = [], [str(error).rstrip(".")]
        if reasons:
            if say is not None:
                say(f"computing on the processor, for a GPU is not to be used: {reasons[0]}")
            return []
        return _alike(found)
    if device.startswith("portable"):
        return _portable(device.partition(":")[2], "portable:")
    if not device.startswith("cuda"):
        return _portable(device)
    cards = _cuda(device)
    for name in cards:
        # One that cannot run the fused kernels decides for all: bits would depend on who takes a tensor.
        if (reason := _why_not_fused(name)) is not None:
            what = name if len(cards) == 1 else f"all of {cards[0]} to {cards[-1]}"
            _warn(f"computing with plain torch operations on {what}, which is slower: {reason}")
            return _portable(device)
    return _alike([Device(name, FUSED) for name in cards])


def arithmetic(devices: Sequence[Device]) -> str:
    """What the last bits of sums follow from on devices that `choose` chose. What differs in it is not to be mixed.

    "cpu"                 compiled loops on the processor
    "gpu-float64"         fused kernels in float64, on GPUs that are fast at it
    "gpu-float32"         fused kernels in float32 with its rounding errors carried along, on all others
    "portable"            plain torch operations in float64, which give the same bits on every device
    "portable-float32"    likewise in float32 with its rounding errors carried along, where there is no float64
    """
    names = sorted({device.arithmetic for device in devices}) or ["cpu"]
    assert len(names) == 1, names
    return names[0]


def arithmetic_here(device: str) -> str:
    """The `arithmetic` of a device on this machine; "auto" is the processor, for there is nothing to compute.

    Raises:
        OptionError, DeviceError: as `choose`.
    """
    return arithmetic(choose(device, (), 0, None, None))


def arithmetics_of(device: str) -> tuple[str, ...]:
    """Which of `ARITHMETICS` a device may turn out to compute in, on whatever machine; "auto" is none such."""
    if device == "cpu":
        return ("cpu",)
    if device.startswith("cuda"):
        return ("gpu-float64", "gpu-float32", PORTABLE)
    return (PORTABLE,) if device.startswith(_WITH_FLOAT64) else (PORTABLE, _PORTABLE_FLOAT32)


def look_for(device: str, device_memory: str | int | None) -> None:
    """Find out whether a device can be used at all, before there is anything to compute; "auto" always can.

    Args:
        device, device_memory: as for `execute`.
    Raises:
        OptionError: `device` is none, or `device_memory` no size.
        DeviceError: the device is not there, or cannot be used; says why.
    """
    as_bytes(device_memory)
    if check_device(device) != "auto":
        choose(device, [], 0, None, None)


def worth_a_gpu(nbytes: int, pair_elements: int, threads: int | None) -> bool:
    """The rule of `auto`: whether the processor would compute for longer than it takes to bring the bytes to a GPU.

    pair_elements / (3.4e9 threads) > 4 s + nbytes / min(8e9 threads, 50e9)

    To bring a byte to a GPU the processor must copy it, which takes as long as comparing it: one pair of files, and one
    base against any number of others, are as fast on the processor. All pairs of many are not.

    Args:
        nbytes: to be read, all operands together.
        pair_elements: elements of all pairs of all tensors.
        threads: as for `execute`.
    """
    threads = threads or available_threads()
    copying = nbytes / min(_COPIED_BYTES_PER_SECOND * threads, _BUS_BYTES_PER_SECOND)
    return pair_elements / (_PAIR_ELEMENTS_PER_SECOND * threads) > _START_SECONDS + copying


def nvidia_gpu_exists(root: Path = Path("/")) -> bool:
    """Whether there is an NVIDIA GPU that this process may see, without asking CUDA or importing anything."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.strip().startswith("-")):
        return False
    gpus = root / "proc/driver/nvidia/gpus"
    try:
        if any(gpus.iterdir()):
            return True
    except OSError:
        pass
    return any((root / "dev").glob("nvidia[0-9]*")) or (root / "dev/dxg").exists()  # the latter under Windows


def _warn(text: str) -> None:
    """Once in a process: each pass of a run chooses anew."""
    import logging

    if text not in _warned:
        _warned.add(text)
        logging.getLogger("weighbridge").warning(text)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise DeviceError(
            f"devices other than the processor need torch, which cannot be imported ({first_sentence(error)}); install "
            "it, or use --device cpu."
        ) from error
    return torch


def _cuda(name: str, prefix: str = "") -> list[str]:
    """The CUDA devices that "cuda" or "cuda:N" stands for; with the prefix it is what was typed."""
    torch = _torch()
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        raise DeviceError(
            f"--device {prefix}{name} needs torch with CUDA, and torch {torch.__version__} was built without; install "
            "a build with CUDA, or use --device cpu."
        )
    try:
        torch.cuda.init()
        count = torch.cuda.device_count()
    except (RuntimeError, AssertionError) as error:  # no driver, or one that is too old: torch says which
        raise DeviceError(
            f"--device {prefix}{name} cannot be used: {first_sentence(error)}; install a driver that suits CUDA "
            f"{torch.version.cuda}, or use --device cpu."
        ) from error
    return _numbered(name, count)


def _numbered(name: str, count: int) -> list[str]:
    kind, _, number = name.partition(":")
    if not count or (number and int(number) >= count):
        there = f"{kind}:0 to {kind}:{count - 1} are" if count > 1 else f"{kind}:0 is" if count else "none is"
        raise DeviceError(f"there is no device {name}: {there} to be seen by torch; use another, or --device cpu.")
    return [name] if number else [f"{kind}:{n}" for n in range(count)]


def _why_not_fused(name: str) -> str | None:
    """Why a device cannot run the fused kernels, as a clause; None where it can."""
    from importlib import import_module

    reason: str | None = import_module("..kernels.gpu", __package__).available(name)
    return reason


def _alike(devices: list[Device]) -> list[Device]:
    """GPUs that sum alike: where one is slow at float64 none uses it, or bits would depend on who takes a tensor."""
    if len(devices) < 2 or len({_fast_float64(each.name) for each in devices}) == 1:
        return devices
    return [replace(each, float64=False) for each in devices]


def _fast_float64(name: str) -> bool:
    from importlib import import_module

    return bool(import_module("..kernels.gpu", __package__).fast_float64(name))


def _portable(name: str, prefix: str = "") -> list[Device]:
    """The torch devices that a name stands for, which have float64 all or do without; `prefix` as for `_cuda`."""
    torch = _torch()
    xpu, mps = getattr(torch, "xpu", None), torch.backends.mps
    if not name:
        there = {
            "cuda": torch.cuda.is_available(),
            "xpu": xpu is not None and xpu.is_available(),
            "mps": mps.is_available(),
            "cpu": True,
        }
        name = next(kind for kind, available in there.items() if available)
    kind = name.partition(":")[0]
    if kind == "cuda":
        names = _cuda(name, prefix)
    elif kind == "xpu":
        names = _numbered(name, xpu.device_count() if xpu is not None and xpu.is_available() else 0)
    else:
        if kind == "mps" and not mps.is_available():
            _numbered(name, 0)
        names = [name]
    float64 = [_has_float64(each) for each in names]  # of all: each is to be asked whether it computes
    return [Device(each, PORTABLE, all(float64)) for each in names]


def _has_float64(name: str) -> bool:
    from importlib import import_module

    try:
        return bool(import_module("..kernels.portable", __package__).has_float64(name))
    except RuntimeError as error:
        raise DeviceError(f"{name} cannot be used: {first_sentence(error)}; use --device cpu.") from error


def first_sentence(error: BaseException) -> str:
    """What an error of torch says first, as a clause: it goes on with advice for programmers."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".: ") if lines else type(error).__name__
