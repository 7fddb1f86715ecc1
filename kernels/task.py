"""What a walk over a tile is called with, and what of it belongs to one of its work items."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from .accumulate import COMPILED
from .layout import PAIR_SLOTS, SELF_SLOTS, TASK_WORDS
from .memory import doubles, integers, matrix
from .operands import Room, room_of

__all__ = ["Task", "slots_of", "task_of"]


class Task(NamedTuple):
    """A run of work items over K tensors of N operands with P pairs.

    Attributes:
        room: the memory of the walk.
        items: (W, 4), rows (tensor, start, length, slot): the elements of a chunk, and where its sums go.
        addresses: (K, N) where each operand's first element lies or would lie.
        pairs: (P, 2), rows (i, j).
        force: whether Σxy is to be taken from the products.
        self_slots_at, pair_slots_at: where the slots of the first chunk of all lie or would lie, (N, SELF_SLOTS) and
            (P, PAIR_SLOTS) float64 a chunk.
    """

    room: Room
    items: Any
    addresses: Any
    pairs: Any
    force: int
    self_slots_at: int
    pair_slots_at: int


@njit(**COMPILED)
def task_of(scratch_type: Any, at: int) -> Task:
    """The task that TASK_WORDS int64 describe.

    They are: where scratch lies, (2, N, BLOCK) of the working type that `scratch_type` points to, whose second half
    holds int32 fixed point; where work lies, `WORK_SLOTS + N * WORK_OPERAND` float64; W and where the items lie; K and
    where the addresses lie; N and where the (OPERAND_ROWS, N) description of the operands lies, see `layout.py`; P and
    where the pairs lie; force; where the two kinds of slots lie. All arrays are C-contiguous.
    """
    words = matrix(integers(), at, 1, TASK_WORDS)[0]
    operands = words[6]
    return Task(
        room_of(scratch_type, words[0], words[1], operands, words[7]),
        matrix(integers(), words[3], words[2], 4),
        matrix(integers(), words[5], words[4], operands),
        matrix(integers(), words[9], words[8], 2),
        words[10],
        words[11],
        words[12],
    )


@njit(**COMPILED)
def slots_of(task: Task, slot: int) -> tuple[Any, Any]:
    """The slots of a chunk: (N, SELF_SLOTS) and (P, PAIR_SLOTS)."""
    operands, pairs = task.addresses.shape[1], len(task.pairs)
    return (
        matrix(doubles(), task.self_slots_at + 8 * SELF_SLOTS * operands * slot, operands, SELF_SLOTS),
        matrix(doubles(), task.pair_slots_at + 8 * PAIR_SLOTS * pairs * slot, pairs, PAIR_SLOTS),
    )
