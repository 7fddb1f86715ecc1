"""Loads of tensors that may have one element, and stores of such as have: these go by scalars.

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
def store(place, value, column):
    """A value stored, unless its column is below zero; all three are tensors of one element."""
    tl.store(place.item(), value.item(), column.item() >= 0)
