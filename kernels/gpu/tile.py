"""K tensors with N operands each and P pairs, in device memory: the launcher of the fused kernels."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..device import DeviceTile
from .cells import Launch, launches
from .constants import SLOTS, STRIP, STRIPS, SUMS, THREADS

if TYPE_CHECKING:
    import torch

    from ..cpu import Resolve

__all__ = ["TASK_BYTES", "Tile", "on_current", "options", "tile_constants"]

TASK_BYTES = 64 << 20
"""About what one launch takes of a file: long against its cost, short against the memory of a device."""


def tile_constants(launch: Launch) -> dict[str, Any]:
    """What `fused.tile_kernel` is compiled for."""
    a, b = launch.shape
    return {
        "A": a,
        "B": b,
        "CODE_X": launch.x,
        "SELF_X": launch.self_x,
        "CODE_Y": launch.y,
        "SELF_Y": launch.self_y,
        "PAIRS": launch.pairs,
        "STAGES": 4 if a + b <= 2 else 3,  # steps whose loads are under way: 12 KiB a program, or 20 for five operands
    }


def options() -> dict[str, Any]:
    """How the kernels are compiled: a multiplication and an addition stay two, or two-sums would not be exact."""
    return {"num_warps": THREADS // 32, "enable_fp_fusion": False}


def on_current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Within, Triton launches and compiles for this device: it goes by torch's current one."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Tile(DeviceTile):
    """K tensors with N operands each and P pairs on a GPU: `cpu.Tile`, with the bytes in device memory.

    Args:
        codes, elements, pairs: as for `cpu.tile_sums`.
        wanted: as there. The kernels take all sums, and those that are not wanted are left out at the end.
        device: a CUDA device, or its name (under Triton's interpreter: the CPU).
        float64: taken for the interface's sake: sums are float64 always. Consumer cards have 1/64 of float32's rate
            for it, so there the kernels are right and slow.
        force: as for `cpu.Tile`; no Σxy is taken from other sums here, so it makes no difference.
    Raises:
        KeyError: a dtype has no decoder; the engine leaves such tensors out beforehand.
    """

    TASK_BYTES = TASK_BYTES

    def _make_slots(self) -> None:
        import torch

        codes = [decoder.code for decoder in self.decoders]
        self._launches = [
            (launch, torch.from_numpy(launch.cells).to(self.device)) for launch in launches(codes, self.pairs)
        ]
        self._columns = len(self.decoders) + len(self.pairs)
        # Zeros: strips behind the end of a chunk are not run.
        self._slots = torch.zeros(
            (len(self.items) * STRIPS, self._columns, SLOTS), dtype=torch.float64, device=self.device
        )

    def run(self, items: np.ndarray, addresses: np.ndarray, arena: torch.Tensor) -> int:
        """Fill the slots of some items, on torch's current stream.

        Args:
            items: rows of `self.items`, their tensors numbered as the rows of `addresses`.
            addresses: (K', N) int64, where each operand's first element lies or would lie; only the elements of `items`
                are touched. Each item's run of each operand begins at a multiple of 16.
            arena: the (bytes,) uint8 tensor on the device in which the addresses lie. What stands behind an operand's
                end, up to the next multiple of 4, lies in it too.
        Returns:
            The bytes that were taken.
        """
        import torch

        from .fused import tile_kernel

        starts = addresses[items[:, 0]] + items[:, 1, None] * self.itemsizes - arena.data_ptr()
        assert not (starts % 16).any() and arena.data_ptr() % 16 == 0
        table = self._on_device(np.c_[items[:, 3], items[:, 2], starts // 16])
        words = arena[: arena.numel() // 4 * 4].view(torch.int32)
        strips = -(-int(items[:, 2].max()) // STRIP)
        with on_current(self.device):
            for launch, cells in self._launches:
                tile_kernel[(len(items) * strips * len(cells),)](
                    words,
                    table,
                    cells,
                    self._slots,
                    len(self.decoders),
                    len(cells),
                    strips,
                    self._columns,
                    **tile_constants(launch),
                    **options(),
                )
        return int(items[:, 2].sum() * self.itemsizes.sum())

    def slots(self, first: int, last: int) -> torch.Tensor:
        """What `run` has left of the items from `first` to before `last`, in the memory of the host."""
        return self._slots[first * STRIPS : last * STRIPS].cpu()

    def put_slots(self, first: int, slots: torch.Tensor) -> None:
        """Take what another tile of the same tensors has of the items from `first` on, as if `run` had left it here."""
        self._slots[first * STRIPS :][: len(slots)].copy_(slots)

    def finish(self, resolve: Resolve, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """The sums of all tensors, certified to 1e-12, as `cpu.Tile.finish`: what is in doubt is run again there.

        The slots are added on the device, and what comes back is one copy of (K, N + P) sums.

        Args:
            resolve: tensors (Q,) -> addresses (Q, N) in the memory of the host.
            threads: for that.
        Returns:
            (K, N, 6) and (K, P, 5) float64.
        """
        operands = len(self.decoders)
        sums = self._gathered()
        selfs, between = sums[:, :operands], sums[:, operands:]
        size, squares, total, bound, largest, count = range(SUMS)
        self_sums = np.concatenate([selfs[..., :1], selfs[..., [size, total, squares, largest, count]]], axis=2)
        self_sums[..., 0] = self.elements[:, None]
        pair_sums = between[..., [size, squares, total, largest, count]]
        return self._host.settle(self_sums, pair_sums, selfs[..., bound], between[..., bound], resolve, threads)

    def _gathered(self) -> np.ndarray:
        """(K, N + P, SUMS) float64."""
        import torch

        from .gather import gather_kernel

        tensors = len(self.elements)
        sums = torch.zeros((tensors, self._columns, SUMS), dtype=torch.float64, device=self.device)
        if sums.numel():
            first = np.searchsorted(self.items[:, 0], np.arange(tensors + 1)) * STRIPS
            with on_current(self.device):
                gather_kernel[(tensors * self._columns,)](
                    self._slots, self._on_device(first), sums, self._columns, **options()
                )
        return sums.cpu().numpy()

    def _on_device(self, table: np.ndarray) -> torch.Tensor:
        """A copy there that does not wait for the kernels under way."""
        import torch

        host = torch.from_numpy(np.ascontiguousarray(table, np.int64))
        if self.device.type != "cuda":
            return host
        return host.pin_memory().to(self.device, non_blocking=True)
