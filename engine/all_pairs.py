"""A joint ledger -> the raw sums of every pair, every byte read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.decoders import DECODERS
from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from .checkpoint import TensorRef
from .execute import Progress, execute
from .joint import JointLedger, JointTensor, pairs_of
from .loading import Say
from .places import Places
from .plan import Joined

__all__ = ["AllPairs", "Block", "Work"]

BLOCK_BYTES = 8 << 30
_BLOCK_SUMS_BYTES = 128 << 20  # of the sums of one block
_HELD_BYTES = 1 << 30  # sums beyond this lie in a file that has no name


@dataclass(frozen=True, eq=False)
class AllPairs:
    """The raw sums of a family.

    Attributes:
        ledger: the N checkpoints and the K tensors that two or more of them share.
        selfs: (K, N, 6) float64 in the order of `kernels.sums.SELF_SUMS`; NaN where a checkpoint has not the tensor.
        sums: (K, P, 5) float64 in the order of `kernels.sums.PAIR_SUMS`, pairs in the order of `pairs`; NaN where the
            pair is not compared in the tensor. Each is what `compare` of that pair has, bit for bit. x - y and y - x
            have the same sums.
        bytes_read: the bytes of all operands, counted as they were handed to the kernel.
        same_bytes: the bytes of tensors that were recognised as bytes read already.
        seconds: how long that took.
    """

    ledger: JointLedger
    selfs: NDArray[np.float64]
    sums: NDArray[np.float64]
    bytes_read: int = 0
    same_bytes: int = 0
    seconds: float = 0.0

    @property
    def labels(self) -> tuple[str, ...]:
        """What the N checkpoints are called."""
        return tuple(checkpoint.label for checkpoint in self.ledger.checkpoints)

    @property
    def tensors(self) -> tuple[JointTensor, ...]:
        """The K tensors."""
        return self.ledger.tensors

    @property
    def present(self) -> NDArray[np.bool_]:
        """(K, N) which checkpoint has which tensor."""
        return self.ledger.present

    @cached_property
    def pairs(self) -> NDArray[np.int64]:
        """(P, 2) the pairs i < j in the order of `numpy.triu_indices(N, 1)`."""
        return pairs_of(len(self.ledger.checkpoints))

    @cached_property
    def compared(self) -> NDArray[np.bool_]:
        """(K, P) which pair is compared in which tensor."""
        out = np.zeros((len(self.tensors), len(self.pairs)), bool)
        for k, tensor in enumerate(self.tensors):
            out[k, tensor.pairs] = True
        return out
