"""The GPU backend: fused Triton kernels, launched through torch. Neither is imported before a tile is made."""

from .available import available
from .tile import TASK_BYTES, Tile

__all__ = ["TASK_BYTES", "Tile", "available"]
