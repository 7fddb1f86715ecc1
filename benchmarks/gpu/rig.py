"""What the questions of benchmarks/gpu share: operands in device memory, the device's clock, its ceilings, rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.sums import PAIR_SUMS, SELF_SUMS

from measuring.results import Row, machine, row_of, versions
from measuring.turns import Times

__all__ = ["COPY", "Resident", "Rig", "check"]

COPY = "device-to-device copy of as many bytes, read and written"

_AHEAD_CYCLES = 60_000_000  # the device waits some 30 ms while the host prepares, so that only its own time is measured


class Rig:
    """One device and how things are timed on it.

    Args:
        device: a torch device; "cpu" tries the questions out.
        backend: "gpu" or "portable", a module of `weighbridge.kernels`.
        rounds: of which the median is taken.
    """

    def __init__(self, device: str, backend: str, rounds: int = 15) -> None:
        self.device, self.backend, self.rounds = device, backend, rounds
        self.tile = import_module(f"weighbridge.kernels.{backend}").Tile
        self.is_cuda = device.startswith("cuda")
        name = torch.cuda.get_device_name(device) if self.is_cuda else device
        self.machine = {"gpu": f"{name}, {backend} backend", **machine()}
        self.versions = versions()
        for package in ("triton",):
            try:
                self.versions[package] = version(package)
            except PackageNotFoundError:
                continue

    def empty(self, nbytes: int) -> torch.Tensor:
        """Memory of the device."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def repeated(self, data: np.ndarray, nbytes: int) -> torch.Tensor:
        """(nbytes,) uint8 on the device: some bytes over and over."""
        block = torch.from_numpy(np.ascontiguousarray(data)).to(self.device)
        return block.repeat(-(-nbytes // block.numel()))[:nbytes]

    def copy_of(self, nbytes: int) -> Callable[[], object]:
        """The ceiling `COPY`: half of the bytes are read, half written. Never of zeros, which may copy faster."""
        source, target = (
            self.repeated(np.random.default_rng(2).integers(0, 256, 4099, np.uint8), nbytes // 2),
            self.empty(nbytes // 2),
        )
        return lambda: target.copy_(source)

    def in_turn(self, runs: Mapping[str, Callable[[], object]], walls: Sequence[str] = (), rounds: int = 0) -> Times:
        """Seconds of each run, by the clock of the device, of the host for those named in `walls`; all run once before.

        A run that is timed by the host waits for the device itself, or is waited for.
        """
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(rounds or self.rounds):
            for name, run in runs.items():
                by_host = name in walls or not self.is_cuda
                seconds[name].append(self._by_host(run) if by_host else self._by_device(run))
        return Times(seconds)

    def row(self, question: str, times: Times, *, against: str, asked: str, ceiling: str, nbytes: int) -> Row:
        """The row of a figure; see `measuring.Row`."""
        what = {"against": against, "asked": asked, "ceiling": ceiling, "nbytes": nbytes}
        return row_of(f"gpu_{question}", times, **what, machine=self.machine, versions=self.versions)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def _by_host(self, run: Callable[[], object]) -> float:
        self.synchronize()
        started = time.perf_counter()
        run()
        self.synchronize()
        return time.perf_counter() - started

    def _by_device(self, run: Callable[[], object]) -> float:
        with torch.cuda.device(self.device):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            torch.cuda._sleep(_AHEAD_CYCLES)
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000


class Resident:
    """K tensors of N operands in an arena in device memory, and the tile that sums them.

    Args:
        rig: where.
        code: the dtype of all operands.
        data: N blocks of bytes; each operand is its block over and over, tensor after tensor.
        elements: K numbers of elements; each tensor begins at a multiple of 16 bytes.
        pairs: P pairs of operands.
    """

    def __init__(
        self, rig: Rig, code: str, data: Sequence[np.ndarray], elements: Sequence[int], pairs: Sequence[tuple[int, int]]
    ) -> None:
        if rig.is_cuda:
            torch.cuda.empty_cache()  # what the question before has held
        itemsize = DECODERS[code].itemsize
        sizes = np.array(elements, np.int64) * itemsize
        assert not (sizes[:-1] % 16).any()
        each = -(-int(sizes.sum()) // 16) * 16
        self.arena = rig.empty(each * len(data) + 16)
        for n, block in enumerate(data):
            self.arena[n * each : (n + 1) * each] = rig.repeated(block, each)
        self.nbytes = int(sizes.sum()) * len(data)
        starts = np.cumsum(sizes) - sizes
        self._addresses = self.arena.data_ptr() + starts[:, None] + np.arange(len(data)) * each
        self._tile = rig.tile([code] * len(data), np.array(elements, np.int64), np.array(pairs, np.int64), rig.device)
        self._rig = rig

    def run(self) -> None:
        """The kernels over all of it, in one launch of each kind, and those that add their slots.

        The portable backend adds them on the host, which is not timed.
        """
        self._tile.run(self._tile.items, self._addresses, self.arena)
        if self._rig.backend == "gpu":
            self._tile.added()

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """The kernels, and the sums on the host."""
        self._tile.run(self._tile.items, self._addresses, self.arena)
        return self._tile.finish(_nothing_is_in_doubt, 1)  # type: ignore[no-any-return]


def check(found: np.ndarray, wanted: np.ndarray) -> None:
    """Sums of a benchmark's data, right to 1e-11; Σx cancels to a thousandth, which its own size does not allow for."""
    names = SELF_SUMS if found.shape[-1] == len(SELF_SUMS) else PAIR_SUMS
    for place, name in enumerate(names):
        slack = 1e-12 * np.abs(wanted[..., 1]).max() if name == "sum" else 0.0
        np.testing.assert_allclose(found[..., place], wanted[..., place], rtol=1e-11, atol=slack, err_msg=name)


def _nothing_is_in_doubt(tensors: np.ndarray) -> Any:
    raise AssertionError(f"{len(tensors)} tensors are in doubt: this data must be certified on the device")
