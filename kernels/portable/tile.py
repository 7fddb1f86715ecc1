"""A tile of the portable backend: rows of chunks of about one length are taken together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cpu, reference
from ..device import DeviceTile
from . import in_float32, in_float64

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ..cpu import Resolve

__all__ = ["TASK_BYTES", "WORKSPACE_BYTES", "Tile", "has_float64"]

TASK_BYTES = 32 << 20

WORKSPACE_BYTES = 96 << 20
"""What temporary tensors of `run` may take on the device where nothing else is said."""

_ELEMENT_BYTES = 96  # of them for an element of any operand: ten float64, and copies
_SHORTEST = 1024  # rows are padded to this many elements or a larger power of two


def has_float64(device: torch.device | str) -> bool:
    """Whether a torch device computes in float64.

    Raises:
        RuntimeError: it does not compute at all.
    """
    import torch

    if torch.device(device).type in ("cpu", "cuda"):
        return True  # whatever a full one answers
    try:
        torch.ones(1, dtype=torch.float64, device=device).sum().item()
    except torch.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError):  # MPS raises the one, XPU the other
        torch.ones(1, dtype=torch.float32, device=device).sum().item()
        return False
    return True


class Tile(DeviceTile):
    """K tensors with N operands each and P pairs on a torch device: `cpu.Tile`, with the bytes in device memory.

    Args:
        codes, elements, pairs, wanted: as for `cpu.tile_sums`.
        device: a torch device, or its name.
        held: as for `DeviceTile`.
        float64: whether the device computes in float64; None: it is asked. Without, what float32 does not hold, or not
            well, is computed on the processor when the tile is finished.
        force: as for `cpu.Tile`; every dot product here is compensated, so it makes no difference.
        workspace_bytes: by default `WORKSPACE_BYTES`; a chunk of all operands is taken at a time whatever it says.
    Raises:
        KeyError: a dtype has no decoder; the engine leaves such tensors out beforehand.
    """

    TASK_BYTES = TASK_BYTES
    GROUP = 128  # or any other number: the host adds chunk by chunk

    def _make_slots(self) -> None:
        import torch

        float64 = has_float64(self.device) if self._float64 is None else self._float64
        self._sums: Any = in_float64 if float64 else in_float32
        count, kind = len(self.held), {"dtype": getattr(torch, self._sums.DTYPE), "device": self.device}
        self._selfs = torch.zeros((count, len(self.decoders), self._sums.SELF_NUMBERS), **kind)
        self._pairs = torch.zeros((count, len(self.pairs), self._sums.PAIR_NUMBERS), **kind)
        tables = {decoder.code: self._sums.table(decoder.code) for decoder in self.decoders}
        self._tables = {code: table.to(self.device) for code, table in tables.items() if table is not None}

    def run(self, items: np.ndarray, addresses: np.ndarray, arena: torch.Tensor | None = None) -> int:
        """Fill the slots of some items, on torch's current stream.

        Args:
            items: rows of `self.items` that are held, their tensors numbered as the rows of `addresses`.
            addresses: (K', N) int64, where each operand's first element lies or would lie; only the elements of `items`
                are touched.
            arena: the (bytes,) uint8 tensor on the device in which the addresses lie. Without it they are addresses in
                the memory of the host, and what they hold is copied.
        Returns:
            The bytes that were taken.
        """
        most = (WORKSPACE_BYTES if self._workspace is None else self._workspace) // _ELEMENT_BYTES
        starts = addresses[items[:, 0]] + items[:, 1, None] * self.itemsizes
        padded = np.maximum(_SHORTEST, 1 << np.ceil(np.log2(np.maximum(items[:, 2], 1))).astype(np.int64))
        for width in np.unique(padded).tolist():
            rows = np.flatnonzero(padded == width)
            step = max(1, most // (width * len(self.decoders)))
            for first in range(0, len(rows), step):
                piece = rows[first : first + step]
                self._run_piece(items[piece], starts[piece], width, arena)
        return int(items[:, 2].sum() * self.itemsizes.sum())

    def slots(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What `run` has left of the items from `first` to before `last`, in the memory of the host."""
        some = slice(first - self.held.start, last - self.held.start)
        return self._selfs[some].cpu(), self._pairs[some].cpu()

    def fold(
        self,
        folded: cpu.Tile | None,
        slots: Sequence[tuple[torch.Tensor, torch.Tensor]],
        resolve: Resolve,
        threads: int,
    ) -> cpu.Tile:
        """What the chunks of one tensor come to, those before these `slots` and these, as `gpu.Tile.fold`."""
        selfs, pairs = (np.concatenate(column) for column in zip(*slots, strict=True))
        host = folded or self._host
        with host.part(host.next_item, host.next_item + len(selfs)) as part:
            self._fill(host, part, selfs, pairs, resolve, threads)
        return host

    def finish(self, resolve: Resolve, threads: int, folded: cpu.Tile | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The sums of all tensors, certified to 1e-12, as `cpu.Tile.finish`: what is in doubt is run again there.

        Args:
            resolve: tensors (Q,) -> addresses (Q, N) in the memory of the host.
            threads: for that.
            folded: what `fold` has made of all chunks of the one tensor, where this tile does not hold them all.
        Returns:
            (K, N, 6) and (K, P, 5) float64.
        """
        if folded is not None:
            return folded.finish(resolve, threads)
        for part in self._host.parts(threads):
            selfs, pairs = self.slots(int(part[0, 3]), int(part[-1, 3]) + 1)
            self._fill(self._host, part, selfs.numpy(), pairs.numpy(), resolve, threads)
        return self._host.finish(resolve, threads)

    def _fill(
        self, host: cpu.Tile, part: np.ndarray, selfs: np.ndarray, pairs: np.ndarray, resolve: Resolve, threads: int
    ) -> None:
        """Fill the slots of a part with what `slots` has given, or by the processor where that is not to be used."""
        selfs, doubts = self._sums.self_slots(selfs)
        pairs = self._sums.pair_slots(pairs)[:, host._order]  # the host's tile keeps its pairs in an order of its own
        if doubts is not None and doubts.any():
            items = part[doubts.any(axis=1)]
            tensors, numbers = np.unique(items[:, 0], return_inverse=True)
            addresses, items = resolve(tensors), np.c_[numbers, items[:, 1:]]
            cpu.run_tasks(host.tasks(threads, items), lambda task: host.run(task, addresses), threads)
            selfs = np.where(doubts[..., None], host._self_slots, selfs)
            of_pairs = doubts[:, host._ordered].any(axis=2)
            pairs = np.where(of_pairs[..., None], host._pair_slots, pairs)
        host._self_slots[:], host._pair_slots[:] = selfs, pairs

    def _run_piece(self, items: np.ndarray, starts: np.ndarray, width: int, arena: torch.Tensor | None) -> None:
        import torch

        lengths = torch.from_numpy(np.ascontiguousarray(items[:, 2])).to(self.device)
        slots = torch.from_numpy(items[:, 3] - self.held.start).to(self.device)
        inside = None
        if (items[:, 2] != width).any():
            inside = torch.arange(width, device=self.device) < lengths[:, None]
        wanted, sums = self._host.wanted, self._sums
        operands = []
        for n, decoder in enumerate(self.decoders):
            raw = self._raw(starts[:, n], items[:, 2] * decoder.itemsize, width * decoder.itemsize, arena)
            operand, numbers = sums.operand(raw, decoder, self._tables.get(decoder.code), inside, wanted)
            if operand is not None:
                self._selfs[slots, n] = numbers
            operands.append(operand)
        for p, (i, j) in enumerate(self.pairs.tolist()):
            if operands[i] is not None and operands[j] is not None:
                self._pairs[slots, p] = sums.pair_sums(operands[i], operands[j], wanted)

    def _raw(self, starts: np.ndarray, sizes: np.ndarray, row_bytes: int, arena: torch.Tensor | None) -> torch.Tensor:
        """(rows, row_bytes) uint8 on the device: what lies at each start, and zeros behind it."""
        import torch

        rows = torch.zeros((len(starts), row_bytes), dtype=torch.uint8, device=self.device)
        flat = rows.view(-1)
        origin = 0 if arena is None else arena.data_ptr()
        at = 0
        while at < len(starts):
            end = at + 1  # full rows that follow each other in memory are one copy
            while end < len(starts) and sizes[end - 1] == row_bytes and starts[end] == starts[end - 1] + row_bytes:
                end += 1
            start, size = int(starts[at]) - origin, int(sizes[at:end].sum())
            if arena is None:
                source = torch.from_numpy(reference.bytes_at(start, size).copy())
            else:
                source = arena[start : start + size]
            flat[at * row_bytes : at * row_bytes + size].copy_(source)
            at = end
        return rows
