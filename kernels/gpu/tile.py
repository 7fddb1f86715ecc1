"""K tensors with N operands each and P pairs, in device memory: the launcher of the fused kernels."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..device import DeviceTile
from .available import capability, fast_float64, packs_halves
from .constants import FAN, GATHER_ROWS, SLOTS, STRIPS
from .levels import levels
from .programs import kernels_of, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ..cpu import Resolve

__all__ = ["TASK_BYTES", "Tile", "on_current"]

TASK_BYTES = 64 << 20
"""About what one launch takes of a file: long against its cost, short against the memory of a device."""


def on_current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Within, Triton launches and compiles for this device: it goes by torch's current one."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Tile(DeviceTile):
    """K tensors with N operands each and P pairs on a GPU: `cpu.Tile`, with the bytes in device memory.

    Args:
        codes, elements, pairs: as for `cpu.tile_sums`.
        wanted: as there. More may be taken (`programs.sums_of`), which come back as NaN as well.
        device: a CUDA device, or its name (under Triton's interpreter: the CPU).
        held: as for `DeviceTile`.
        float64: whether sums are taken in float64, or in float32 with its rounding errors carried along (of operands
            that float32 holds); both are right to 1e-12, and are not the same bits. None: as the device is fast at it.
        force: as for `cpu.Tile`; no Σxy is taken from other sums here, so it makes no difference.
    Raises:
        KeyError: a dtype has no decoder; the engine leaves such tensors out beforehand.
    """

    TASK_BYTES = TASK_BYTES
    GROUP = FAN

    def _make_slots(self) -> None:
        import torch

        codes = [decoder.code for decoder in self.decoders]
        self.float64 = fast_float64(self.device) if self._float64 is None else self._float64
        self.packed = packs_halves(self.device)
        self.arch = capability(self.device)
        self.wanted = self._host.wanted
        self._kernels = [
            (kernel, torch.from_numpy(kernel.cells).to(self.device))
            for kernel in kernels_of(codes, self.pairs, self.wanted, self.float64, self.packed, self.arch)
        ]
        self._columns = len(self.decoders) + len(self.pairs)
        # Zeros: strips behind the end of a chunk are not run.
        self._slots = torch.zeros(
            (len(self.held) * STRIPS, self._columns, SLOTS), dtype=torch.float64, device=self.device
        )

    def run(self, items: np.ndarray, addresses: np.ndarray, arena: torch.Tensor) -> int:
        """Fill the slots of some items, on torch's current stream; of each item once, or again with the same bytes.

        Args:
            items: rows of `self.items` that are held, their tensors numbered as the rows of `addresses`.
            addresses: (K', N) int64, where each operand's first element lies or would lie; only the elements of `items`
                are touched. Each item's run of each operand begins at a multiple of 16.
            arena: the (bytes,) uint8 tensor on the device in which the addresses lie. What stands behind an operand's
                end, up to the next multiple of 16, lies in it too.
        Returns:
            The bytes that were taken.
        """
        import torch

        starts = addresses[items[:, 0]] + items[:, 1, None] * self.itemsizes - arena.data_ptr()
        assert not (starts % 16).any() and arena.data_ptr() % 16 == 0
        table = self._on_device(np.c_[items[:, 3] - self.held.start, items[:, 2], starts // 16])
        words = arena[: arena.numel() // 4 * 4].view(torch.int32)
        longest = int(items[:, 2].max())
        with on_current(self.device):
            for kernel, cells in self._kernels:
                log2_strips = (-(-longest // kernel.strip) - 1).bit_length()
                kernel.function[((len(items) << log2_strips) * kernel.programs,)](
                    words,
                    table,
                    cells,
                    self._slots,
                    len(self.decoders),
                    len(cells),
                    log2_strips,
                    self._columns,
                    **kernel.keywords,
                )
        return int(items[:, 2].sum() * self.itemsizes.sum())

    def slots(self, first: int, last: int) -> torch.Tensor:
        """What `run` has left of the items from `first` to before `last`, in the memory of the host."""
        first, last = first - self.held.start, last - self.held.start
        return self._slots[first * STRIPS : last * STRIPS].cpu()

    def fold(
        self, folded: list[torch.Tensor] | None, slots: Sequence[torch.Tensor], resolve: Resolve, threads: int
    ) -> list[torch.Tensor]:
        """What the chunks of one tensor come to, those before these `slots` and these: each group as the first level.

        Args:
            folded: what the chunks before come to; None: there are none.
            slots: of the next `GROUP` chunks, or of as many as there are left, in order; what `slots` of tiles of the
                same tensor, which may hold any of its chunks, has given.
            resolve, threads: as for `finish`, for a backend that leaves chunks to the processor; this one does not.
        Returns:
            What to go on with, in the memory of the host.
        """
        import torch

        return [*(folded or []), self._added_of_one(torch.cat(list(slots)), STRIPS)]

    def added(self) -> torch.Tensor:
        """(K, N + P, SLOTS) float64 on the device: the slots of each tensor added, on torch's current stream."""
        steps = levels(np.bincount(self.items[:, 0], minlength=len(self.elements)))
        return self._added(self._slots, STRIPS, steps)[: len(self.elements)]

    def _added(self, slots: torch.Tensor, strips: int, steps: list[np.ndarray]) -> torch.Tensor:
        """(places, columns, SLOTS) float64 on the device: slots (chunks * strips, columns, SLOTS) added by `levels`."""
        import torch

        from .gather import gather_kernel

        columns = slots.shape[1]
        sums = torch.empty((_places(steps), columns, SLOTS), dtype=torch.float64, device=self.device)
        if sums.numel():
            table = self._on_device(np.concatenate(steps))
            first = 0
            with on_current(self.device):
                for step in steps:
                    gather_kernel[(-(-len(step) * columns // GATHER_ROWS),)](
                        slots, table, sums, first, len(step), columns, strips, **options()
                    )
                    first, slots, strips = first + len(step), sums, 1
        return sums

    def _added_of_one(self, slots: torch.Tensor, strips: int) -> torch.Tensor:
        """(1, columns, SLOTS) float64 on the host: one tensor's slots (chunks * strips, columns, SLOTS) there, added.

        They go to the device by as many columns at a time as one strip of all chunks that are held would take.
        """
        import torch

        steps = levels(np.array([len(slots) // strips]))
        width = max(1, len(self.held) * self._columns // (len(slots) + _places(steps)))
        parts = (part.contiguous().to(self.device) for part in slots.split(width, dim=1))
        return torch.cat([self._added(part, strips, steps)[:1].cpu() for part in parts], dim=1)

    def finish(
        self, resolve: Resolve, threads: int, folded: list[torch.Tensor] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sums of all tensors, certified to 1e-12, as `cpu.Tile.finish`: what is in doubt is run again there.

        The slots are added on the device, and what comes back is one copy of (K, N + P) sums.

        Args:
            resolve: tensors (Q,) -> addresses (Q, N) in the memory of the host.
            threads: for that.
            folded: what `fold` has made of all chunks of the one tensor, where this tile does not hold them all.
        Returns:
            (K, N, 6) and (K, P, 5) float64.
        """
        import torch

        operands = len(self.decoders)
        if folded is None:
            added = self.added().cpu()
        else:
            added = folded[0].clone() if len(folded) == 1 else self._added_of_one(torch.cat(folded), 1)
        sums = added.numpy()
        size, squares, high, low, bound, largest, count = range(SLOTS)
        sums[..., high] += sums[..., low]
        selfs, between = sums[:, :operands], sums[:, operands:]
        self_sums = np.concatenate([selfs[..., :1], selfs[..., [size, high, squares, largest, count]]], axis=2)
        self_sums[..., 0] = self.elements[:, None]
        pair_sums = between[..., [size, squares, high, largest, count]]
        return self._host.settle(self_sums, pair_sums, selfs[..., bound], between[..., bound], resolve, threads)

    def _on_device(self, table: np.ndarray) -> torch.Tensor:
        """A copy there that does not wait for the kernels under way."""
        import torch

        host = torch.from_numpy(np.ascontiguousarray(table, np.int64))
        if self.device.type != "cuda":
            return host
        return host.pin_memory().to(self.device, non_blocking=True)


def _places(steps: list[np.ndarray]) -> int:
    """How many sums there are of all levels."""
    return 1 + max((int(step[:, 2].max()) for step in steps), default=-1)
