"""Loads and stores of tensors that may have one element, which go by scalars then.

For every load and store of a tensor, be it of one element, Triton looks at all of a kernel to see how threads should
lie; for a scalar it does not. Of a pair that was a third of the time that a compilation took. The code is the same.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["loaded", "store"]


@triton.jit
def _scalar(x):
    if x.numel == 1:
        return x.item()
    else:
        return x


@triton.jit
def loaded(places):
    """What stands at these places, in their shape."""
    return tl.broadcast_to(tl.load(_scalar(places)), places.shape)


@triton.jit
def store(places, values, columns):
    """Values stored, but those of a column below zero; all three are of one shape."""
    tl.store(_scalar(places), _scalar(values), _scalar(columns) >= 0)
