"""The portable backend: the same sums by plain torch operations, on any torch device.

Meant for MPS, XPU, CUDA without Triton, and whatever else torch has a device for. Every operation is a pass over memory
of its own, so it is slower than a fused kernel, and as exact.

    tile.py         the tile: which rows are taken together, and where their sums stand
    decode.py       bytes of any dtype as numbers
    exact.py        what operations round off
    in_float64.py   the sums of rows where the device has float64
    in_float32.py   and where it has not
"""

from .tile import TASK_BYTES, WORKSPACE_BYTES, Tile, has_float64

__all__ = ["TASK_BYTES", "WORKSPACE_BYTES", "Tile", "has_float64"]
