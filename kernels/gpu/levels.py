"""In which order the slots of a tensor are added: policy, and nothing of a device.

Up to FAN chunks are added by one row of the second step, whose sums are a tensor's if it has no more; else they are
added likewise. So one large tensor has as many programs at work as many small ones, and what is added to what follows
from the number of its chunks alone, not from what else a tile holds.
"""

from __future__ import annotations

import numpy as np

from .constants import FAN

__all__ = ["levels"]


def levels(chunks: np.ndarray) -> list[np.ndarray]:
    """The rows of the second step, level by level: each level adds what the one before has left.

    Args:
        chunks: (K,) of each tensor.
    Returns:
        (rows, 3) int64: what a row adds, from and to before, and the place of its sums. The first level adds the items
        of the tile. All others add sums: those of tensor k stand at place k, those of parts of tensors behind them.
    """
    found = []
    used = len(chunks)
    begins, places = np.cumsum(chunks) - chunks, np.arange(used)
    while len(chunks):
        parts = np.maximum(-(-chunks // FAN), 1)
        of = np.repeat(np.arange(len(chunks)), parts)
        first = begins[of] + (np.arange(len(of)) - (np.cumsum(parts) - parts)[of]) * FAN
        last = np.minimum(first + FAN, (begins + chunks)[of])
        cut = parts > 1
        to = places[of]
        to[cut[of]] = used + np.arange(int(parts[cut].sum()))
        found.append(np.c_[first, last, to].astype(np.int64))
        chunks, places = parts[cut], places[cut]
        begins = used + np.cumsum(chunks) - chunks
        used += int(chunks.sum())
    return found
