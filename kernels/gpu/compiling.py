"""The fused kernels made ready before anything is timed: compiled by Triton, or loaded from its cache on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cpu import functions
from ..wanted import Wanted
from .available import capability, fast_float64, interpreted, packs_halves
from .constants import STRIPS
from .programs import kernels_of, options
from .tile import on_current

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

__all__ = ["compile_ahead"]


def compile_ahead(
    codes: Sequence[str],
    pairs: np.ndarray,
    device: torch.device | str,
    *,
    wanted: Wanted = Wanted.ALL,
    float64: bool | None = None,
) -> None:
    """Have the machine code of all that a `Tile` of these dtypes and pairs launches.

    That takes two seconds or more for each kernel that no process on this machine has compiled yet. Triton tells
    kernels by the types of their arguments, so types stand for arguments here.

    Args:
        codes, pairs, wanted, float64: as for `Tile`.
        device: a CUDA device, or its name; kernels are compiled for a kind of GPU, and loaded for each.
    """
    if interpreted():
        return
    import torch

    from .gather import gather_kernel

    arena, table, slots = torch.int32, torch.int64, torch.float64
    columns = len(codes) + len(pairs)
    place = torch.device(device)
    sums = functions(codes, pairs, wanted)[1]
    wide = fast_float64(place) if float64 is None else float64
    packed, arch = packs_halves(place), capability(place)
    with on_current(place):
        for kernel in kernels_of(codes, pairs, sums, wide, packed, arch):
            counts = len(codes), len(kernel.cells), 1, columns
            kernel.function.warmup(arena, table, table, slots, *counts, grid=(1,), **kernel.keywords)
        for strips in (STRIPS, 1):
            gather_kernel.warmup(slots, table, slots, 0, 1, columns, strips, grid=(1,), **options())
