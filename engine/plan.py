"""Joined tensors -> stacks of one shape and dtypes -> batches bounded in bytes.

A joined tensor is one tensor seen in N checkpoints: N operands of the same number of elements. `compare` joins two
(base, other), a sweep 1 + M, a matrix N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..kernels.decoders import DECODERS
from .checkpoint import TensorRef

__all__ = ["Batch", "Joined", "Stack", "batches", "stacks"]

BATCH_BYTES = 8 << 30
"""Default bound of a batch. On the CPU a batch holds addresses and partial sums only, about 0.3 % of its bytes."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One tensor in N checkpoints.

    Attributes:
        index: its place in the caller's order; results come back under it.
        operands: N references; operand n is the tensor in checkpoint n.
        elements: how many leading elements of every operand take part.
    """

    index: int
    operands: tuple[TensorRef, ...]
    elements: int

    @property
    def nbytes(self) -> int:
        """The bytes that take part, all operands together."""
        return self.elements * sum(DECODERS[ref.dtype].itemsize for ref in self.operands)


@dataclass(frozen=True, slots=True)
class Stack:
    """Joined tensors with equal elements and equal dtypes, handed to a kernel together."""

    elements: int
    dtypes: tuple[str, ...]
    members: tuple[Joined, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Stacks of equal dtypes that are computed in one go."""

    dtypes: tuple[str, ...]
    stacks: tuple[Stack, ...]

    @property
    def members(self) -> list[Joined]:
        """The tensors of all stacks in the order in which they lie in the files, so that disks read forwards."""
        joined = [tensor for stack in self.stacks for tensor in stack.members]
        return sorted(joined, key=lambda t: (t.operands[-1].file, t.operands[-1].offset or 0, t.index))


def stacks(joined: Sequence[Joined]) -> list[Stack]:
    """Group tensors by number of elements and dtypes, in the order in which each group is first met."""
    groups: dict[tuple[int, tuple[str, ...]], list[Joined]] = {}
    for tensor in joined:
        key = (tensor.elements, tuple(ref.dtype for ref in tensor.operands))
        groups.setdefault(key, []).append(tensor)
    return [Stack(elements, dtypes, tuple(members)) for (elements, dtypes), members in groups.items()]


def batches(joined: Sequence[Joined], batch_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
    """Stacks of equal dtypes gathered up to `batch_bytes`; a stack that is larger is cut between its tensors.

    The results do not depend on the cuts.
    """
    by_dtypes: dict[tuple[str, ...], list[Stack]] = {}
    for stack in stacks(joined):
        by_dtypes.setdefault(stack.dtypes, []).append(stack)
    for dtypes, group in by_dtypes.items():
        held: list[Stack] = []
        room = batch_bytes
        for stack in group:
            members: list[Joined] = []
            for tensor in stack.members:
                if tensor.nbytes > room and (held or members):
                    if members:
                        held.append(Stack(stack.elements, dtypes, tuple(members)))
                    yield Batch(dtypes, tuple(held))
                    held, members, room = [], [], batch_bytes
                members.append(tensor)
                room -= tensor.nbytes
            held.append(Stack(stack.elements, dtypes, tuple(members)))
        if held:
            yield Batch(dtypes, tuple(held))
