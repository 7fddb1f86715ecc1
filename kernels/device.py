"""What tiles on torch devices have in common: the processor's tile says what there is to do, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import cpu
from .wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["DeviceTile"]


class DeviceTile:
    """K tensors with N operands each and P pairs on a torch device: `cpu.Tile`, with the bytes in device memory.

    Args:
        codes, elements, pairs: as for `cpu.tile_sums`.
        device: a torch device, or its name.
        wanted: as for `cpu.Tile`.
        held: which items there are slots for; by default all. Of a tensor whose slots do not fit at once, several tiles
            hold some each: what they have left comes together by `fold`.
        float64, force: see the backends.
        workspace_bytes: what temporary tensors of `run` may take on the device, of a backend that has any; None: as
            much as suits it.
    Raises:
        KeyError: a dtype has no decoder; the engine leaves such tensors out beforehand.
    """

    TASK_BYTES: int

    GROUP: int
    """Chunks of a tensor that are folded at a time, whatever tiles they are from."""

    def __init__(
        self,
        codes: Sequence[str],
        elements: np.ndarray,
        pairs: np.ndarray,
        device: torch.device | str,
        *,
        wanted: Wanted = Wanted.ALL,
        held: range | None = None,
        float64: bool | None = None,
        force: bool = False,
        workspace_bytes: int | None = None,
    ) -> None:
        import torch

        self._host = cpu.Tile(codes, elements, pairs, wanted=wanted, force=force)
        self.decoders, self.itemsizes = self._host.decoders, self._host.itemsizes
        self.elements, self.pairs, self.items = self._host.elements, self._host.pairs, self._host.items
        self.held = range(len(self.items)) if held is None else held
        self.device, self._float64, self._workspace = torch.device(device), float64, workspace_bytes
        self._make_slots()

    def _make_slots(self) -> None:
        """Take memory of the device, for the slots and whatever else is needed there from the beginning."""
        raise NotImplementedError

    def tasks(self, task_bytes: int | None = None) -> list[np.ndarray]:
        """The items cut into runs of about `task_bytes`, by default of the backend's own `TASK_BYTES`."""
        return self._host.tasks(1, self._host.items, task_bytes or self.TASK_BYTES)
