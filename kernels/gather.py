"""The last step of a tile: the slots of each tensor's chunks added in order to its sums."""

from __future__ import annotations

from typing import Any

from numba import njit

from .accumulate import COMPILED, add_compensated, add_plain, joined, larger
from .layout import PAIR_SLOTS, SELF_SLOTS
from .memory import doubles, integers, matrix

__all__ = ["gather"]

assert SELF_SLOTS == PAIR_SLOTS  # `_add_slots` serves both


def gather(
    item_count: int,
    items_at: int,
    resumed: bool,
    operands: int,
    pair_count: int,
    self_slots_at: int,
    pair_slots_at: int,
    work_at: int,
    self_sums_at: int,
    self_bounds_at: int,
    pair_sums_at: int,
    pair_bounds_at: int,
) -> None:
    """Add the slots of each tensor's chunks, in order, and write its sums and the bounds of Σx and of Σxy.

    There: (K, N, SELF_SUMS) and (K, P, PAIR_SUMS), the number of elements left to the caller, and (K, N) and (K, P).
    Work is (N + P, SELF_SLOTS + 2) float64; a pair has as many slots as an operand. It keeps what the last tensor has
    come to: where `resumed`, the first items are further chunks of the tensor with which the call before ended.
    """
    items = matrix(integers(), items_at, item_count, 4)
    totals = matrix(doubles(), work_at, operands + pair_count, SELF_SLOTS + 2)
    begin = 0
    while begin < item_count:
        tensor = items[begin, 0]
        end = begin + 1
        while end < item_count and items[end, 0] == tensor:
            end += 1
        further = resumed and begin == 0
        for n in range(operands):
            whole = totals[n]
            for row in range(begin, end):
                part = matrix(
                    doubles(), self_slots_at + 8 * SELF_SLOTS * (items[row, 3] * operands + n), 1, SELF_SLOTS
                )[0]
                _add_slots(whole, part, row == begin and not further, 0, 4, 1)
            out = matrix(doubles(), self_sums_at + 8 * 6 * (tensor * operands + n), 1, 6)[0]
            out[1], out[2], out[3] = joined(whole[0], whole[7]), joined(whole[1], whole[2]), joined(whole[4], whole[8])
            out[4], out[5] = whole[5], whole[6]
            matrix(doubles(), self_bounds_at, 1, operands * (tensor + 1))[0, tensor * operands + n] = whole[3]
        for p in range(pair_count):
            whole = totals[operands + p]
            for row in range(begin, end):
                part = matrix(
                    doubles(), pair_slots_at + 8 * PAIR_SLOTS * (items[row, 3] * pair_count + p), 1, PAIR_SLOTS
                )[0]
                _add_slots(whole, part, row == begin and not further, 0, 1, 2)
            out = matrix(doubles(), pair_sums_at + 8 * 5 * (tensor * pair_count + p), 1, 5)[0]
            out[0], out[1], out[2] = joined(whole[0], whole[7]), joined(whole[1], whole[8]), joined(whole[2], whole[3])
            out[3], out[4] = whole[5], whole[6]
            matrix(doubles(), pair_bounds_at, 1, pair_count * (tensor + 1))[0, tensor * pair_count + p] = whole[4]
        begin = end


@njit(**COMPILED)
def _add_slots(whole: Any, part: Any, first: bool, plain: int, squares: int, compensated: int) -> None:
    """Add a chunk's slots to a tensor's, whose two plain sums have their low parts behind the slots."""
    if first:
        for at in range(SELF_SLOTS):
            whole[at] = part[at]
        whole[SELF_SLOTS], whole[SELF_SLOTS + 1] = 0.0, 0.0
        return
    add_plain(whole, plain, SELF_SLOTS, part[plain])
    add_plain(whole, squares, SELF_SLOTS + 1, part[squares])
    add_compensated(whole, compensated, part[compensated], part[compensated + 1], part[compensated + 2])
    whole[5] = larger(whole[5], part[5])
    whole[6] += part[6]
