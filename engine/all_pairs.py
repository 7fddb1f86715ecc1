"""A joint ledger -> the raw sums of every pair, every byte read once.

The parts of a tensor whose pairs differ in length or in working type are computed together, from the same bytes. A
block may end between them: the parts beyond its end are kept for the next block.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.decoders import DECODERS
from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from ..kernels.wanted import Wanted
from .checkpoint import TensorRef
from .execute import Progress, execute_ways
from .joint import JointLedger, JointTensor, pairs_of
from .loading import Say
from .places import Places
from .plan import Joined
from .together import Way

__all__ = ["AllPairs", "Block", "Kept", "blocks", "gather", "held"]

BLOCK_BYTES = 4 << 30
_BLOCK_SUMS_BYTES = 128 << 20  # of the sums of one block: what an interrupt can lose, and what is held twice
_HELD_BYTES = 1 << 30  # sums beyond that lie in a temporary file, and the system keeps of it what there is room for


@dataclass(frozen=True, eq=False)
class AllPairs:
    """The raw sums of a family.

    Attributes:
        ledger: the N checkpoints and the K tensors that two or more of them share.
        selfs: (K, N, 6) float64 in the order of `kernels.sums.SELF_SUMS`; NaN where a checkpoint has not the tensor.
        sums: (K, P, 5) float64 in the order of `kernels.sums.PAIR_SUMS`, pairs in the order of `pairs`; NaN where the
            pair is not compared in the tensor. Each is what `compare` of that pair has, bit for bit. x - y and y - x
            have the same sums.
        homes: (K, N) int64, the first checkpoint in which the tensor is the very same run of bytes of one file: for
            most their own number, -1 where the tensor is missing.
        bytes_read: the bytes of all operands that any pair compares, counted as they were handed to the kernels for the
            first time: once for all parts of a tensor (see `JointTensor`). Tensors whose sums are in doubt are read
            again, and not counted again.
        same_bytes: the bytes of tensors that were recognised as the very same run of bytes of a file.
        seconds: how long that took.
        wanted: which sums were asked for; all others are NaN, but for maxima in tensors that are computed in float64.
    """

    ledger: JointLedger
    selfs: NDArray[np.float64]
    sums: NDArray[np.float64]
    homes: NDArray[np.int64]
    bytes_read: int = 0
    same_bytes: int = 0
    seconds: float = 0.0
    wanted: Wanted = Wanted.ALL

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


@dataclass(frozen=True, eq=False)
class Block:
    """The raw sums of some tensors of a family: what is computed, and kept, in one go.

    Attributes:
        tensors: their numbers in the ledger, ascending.
        selfs, sums, homes: (B, N, 6), (B, P, 5) and (B, N) as in `AllPairs`.
        bytes_read, same_bytes, seconds: as in `AllPairs`.
    """

    tensors: range
    selfs: NDArray[np.float64]
    sums: NDArray[np.float64]
    homes: NDArray[np.int64]
    bytes_read: int = 0
    same_bytes: int = 0
    seconds: float = 0.0


class Kept:
    """Where blocks are kept between runs; this one keeps none."""

    def load(self, tensors: range) -> Block | None:
        """The block of these tensors, if it is there."""
        return None

    def save(self, block: Block) -> None:
        """Keep a block."""


def blocks(ledger: JointLedger) -> list[range]:
    """The tensors in runs of bounded bytes and sums, the same for one ledger whenever it is asked."""
    count = len(ledger.checkpoints)
    most = max(1, _BLOCK_SUMS_BYTES // max(8 * len(PAIR_SUMS) * (count * (count - 1) // 2), 1))
    cuts, filled = [0], 0
    for k, tensor in enumerate(ledger.tensors):
        nbytes = tensor.elements * sum(DECODERS[ref.dtype].itemsize for ref in tensor.refs.values())
        if k > cuts[-1] and (filled + nbytes > BLOCK_BYTES or k - cuts[-1] == most):
            cuts.append(k)
            filled = 0
        filled += nbytes
    ends = [*cuts[1:], len(ledger.tensors)]
    return [range(start, stop) for start, stop in zip(cuts, ends, strict=True) if stop > start]


def gather(
    ledger: JointLedger,
    *,
    wanted: Wanted = Wanted.ALL,
    kept: Kept | None = None,
    threads: int | None = None,
    io: str = "auto",
    progress: Progress | None = None,
    say: Say | None = None,
    **device: Any,
) -> AllPairs:
    """The raw sums of all pairs of a family.

    Args:
        ledger: the family, matched.
        wanted: the sums that are taken.
        kept: has blocks of an earlier run, with the same sums, and takes those of this one.
        threads, io, progress, say: as for `execute`.
        device: handed on to `execute`.
    Raises:
        ReadError: a file cannot be read, or changed.
    """
    kept = kept or Kept()
    count, parts = len(ledger.checkpoints), blocks(ledger)
    pairs = count * (count - 1) // 2
    selfs = np.full((len(ledger.tensors), count, len(SELF_SUMS)), np.nan)
    sums = held((len(ledger.tensors), pairs, len(PAIR_SUMS)))
    homes = np.full(selfs.shape[:2], -1)
    places = Places(ledger.checkpoints)
    total = _nbytes(ledger, range(len(ledger.tensors)))
    done, read, same, seconds = 0, 0, 0, 0.0
    ahead: _Ahead = {}
    for tensors in parts:
        block = kept.load(tensors)
        numbers = _with_all_parts(ledger, [k for k in tensors if k not in ahead])
        if block is None:
            here = _continued(progress, done, total)
            options = {"wanted": wanted, "threads": threads, "io": io, "say": say, **device}
            block = _compute(ledger, tensors, numbers, ahead, places, here, **options)
            kept.save(block)
            read, same, seconds = read + block.bytes_read, same + block.same_bytes, seconds + block.seconds
        selfs[tensors.start : tensors.stop] = block.selfs
        sums[tensors.start : tensors.stop] = block.sums
        homes[tensors.start : tensors.stop] = block.homes
        ahead = {k: rows for k, rows in ahead.items() if k >= tensors.stop}
        done += _nbytes(ledger, numbers)
    return AllPairs(ledger, selfs, sums, homes, read, same, seconds, wanted)


def _wholes(ledger: JointLedger, numbers: Iterable[int]) -> list[list[int]]:
    """The numbers of parts, ascending, tensor by tensor."""
    return [list(parts) for _, parts in groupby(numbers, lambda k: ledger.tensors[k].whole)]


def _with_all_parts(ledger: JointLedger, numbers: list[int]) -> list[int]:
    """Numbers and those that follow of the last one's tensor."""
    out = list(numbers)
    while (
        out and out[-1] + 1 < len(ledger.tensors) and ledger.tensors[out[-1] + 1].whole == ledger.tensors[out[-1]].whole
    ):
        out.append(out[-1] + 1)
    return out


def _nbytes(ledger: JointLedger, numbers: Iterable[int]) -> int:
    """The bytes that take part in some parts, those of a checkpoint's tensor once for all parts of it."""
    total = 0
    for ks in _wholes(ledger, numbers):
        longest: dict[int, int] = {}
        for k in ks:
            for number, ref in ledger.tensors[k].refs.items():
                nbytes = ledger.tensors[k].elements * DECODERS[ref.dtype].itemsize
                longest[number] = max(longest.get(number, 0), nbytes)
        total += sum(longest.values())
    return total


def held(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """An array for sums, in memory where it fits there well."""
    if 8 * np.prod(shape) <= _HELD_BYTES:
        return np.empty(shape)
    with tempfile.TemporaryFile(prefix="weighbridge-") as file:  # the map outlives the descriptor
        return np.memmap(file, np.float64, "w+", shape=shape)


def _continued(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Progress of a part as that of the whole; what a run that was stopped left half done is counted no further."""
    return None if progress is None else lambda done, _: progress(min(before + done, total), total)


@dataclass(frozen=True, eq=False)
class _Part:
    """One part of every tensor of a group.

    Attributes:
        operands: (N,) the slots that take part, ascending; a slot is an operand, and checkpoints with the very same
            bytes share one.
        slots: checkpoint -> its place in `operands`.
        pairs: (S, 2) the pairs of places in `operands`.
        place: (Q,) for each pair of checkpoints the pair that has its sums.
    """

    operands: tuple[int, ...]
    slots: dict[int, int]
    pairs: NDArray[np.int64]
    place: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Group:
    """Tensors whose operands form the same pairs, in the same parts.

    Attributes:
        parts: P of them.
        members: of each tensor the numbers of its parts, and its slots joined.
    """

    parts: list[_Part]
    members: list[tuple[list[int], Joined]]


_Rows = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]  # of one part: its selfs, sums and homes

_Ahead = dict[int, _Rows]
"""The parts that lie in a later block than the first part of their tensor, with which they were computed."""


def _compute(
    ledger: JointLedger,
    tensors: range,
    numbers: Sequence[int],
    ahead: _Ahead,
    places: Places,
    progress: Progress | None,
    **options: Any,
) -> Block:
    """The block of some tensors.

    Args:
        tensors: their numbers.
        numbers: those that are to be computed; some may lie behind the block, and come to `ahead`.
        ahead: has the others.
    """
    count = len(ledger.checkpoints)
    ends = pairs_of(count)
    block = _empty(len(tensors), count)
    rows: _Ahead = {k: (block[0][at], block[1][at], block[2][at]) for at, k in enumerate(tensors)}
    for k in numbers:
        if k not in rows:
            one = _empty(1, count)
            rows[k] = ahead[k] = one[0][0], one[1][0], one[2][0]
    for k in tensors:
        if k in ahead:
            for here, there in zip(rows[k], ahead[k], strict=True):
                here[:] = there
    total = _nbytes(ledger, numbers)
    planned = read = done = 0
    seconds = 0.0
    for group in _groups(ledger, numbers, places, ends):
        ways = []
        for p, part in enumerate(group.parts):
            elements = np.array([ledger.tensors[ks[p]].elements for ks, _ in group.members], np.int64)
            ways.append(Way(part.operands, part.pairs, elements))
        report = _continued(progress, done, total)
        found = execute_ways([tensor for _, tensor in group.members], ways, progress=report, **options)
        for p, part in enumerate(group.parts):
            mine, slots = list(part.slots), list(part.slots.values())
            first = {slot: number for number, slot in reversed(part.slots.items())}
            for place, (ks, _) in enumerate(group.members):
                k = ks[p]
                selfs, sums, homes = rows[k]
                selfs[mine] = found[p].selfs[place, slots]
                sums[ledger.tensors[k].pairs] = found[p].pairs[place, part.place]
                homes[mine] = np.array([first[slot] for slot in slots], np.int64)
        planned += _planned(ledger, group)
        read += sum(each.bytes_read for each in found)
        seconds += sum(each.seconds for each in found)
        done += _nbytes(ledger, [k for ks, _ in group.members for k in ks])
    assert read == planned, "bytes are counted where they are read, and must agree with what was planned"
    return Block(tensors, *block, read, total - planned, seconds)


def _empty(tensors: int, count: int) -> _Rows:
    selfs = np.full((tensors, count, len(SELF_SUMS)), np.nan)
    return selfs, np.full((tensors, len(pairs_of(count)), len(PAIR_SUMS)), np.nan), np.full(selfs.shape[:2], -1)


def _planned(ledger: JointLedger, group: _Group) -> int:
    """The bytes of all slots of a group, those that several parts have in common once."""
    total = 0
    for ks, joined in group.members:
        longest = [0] * len(joined.operands)
        for k, part in zip(ks, group.parts, strict=True):
            for slot in part.operands:
                longest[slot] = max(longest[slot], ledger.tensors[k].elements)
        total += sum(n * DECODERS[ref.dtype].itemsize for n, ref in zip(longest, joined.operands, strict=True))
    return total


def _groups(ledger: JointLedger, numbers: Iterable[int], places: Places, ends: NDArray[np.int64]) -> Iterator[_Group]:
    found: dict[tuple[Any, ...], _Group] = {}
    for ks in _wholes(ledger, numbers):
        tensors = [ledger.tensors[k] for k in ks]
        slots: dict[int, int] = {}
        operands: list[TensorRef] = []
        by_place: dict[tuple[Any, ...], int] = {}
        for tensor in tensors:
            for number, ref in tensor.refs.items():
                slot = by_place.setdefault(places.of(ref), len(operands))
                if slot == len(operands):
                    operands.append(ref)
                slots[number] = slot
        # One array of pairs is shared by all tensors of one pattern, so it is told by what it is, not by what it holds.
        key = (*(id(tensor.pairs) for tensor in tensors), *slots.values())
        if key not in found:
            found[key] = _Group([_part(tensor, slots, ends) for tensor in tensors], [])
        most = max(tensor.elements for tensor in tensors)
        found[key].members.append((ks, Joined(ks[0], tuple(operands), most)))
    yield from found.values()


def _part(tensor: JointTensor, slots: dict[int, int], ends: NDArray[np.int64]) -> _Part:
    numbers = list(tensor.refs)
    operands, local = np.unique([slots[number] for number in numbers], return_inverse=True)
    place_of = np.full(int(ends.max()) + 1, -1)
    place_of[numbers] = local
    pairs, place = np.unique(np.sort(place_of[ends[tensor.pairs]], axis=1), axis=0, return_inverse=True)
    return _Part(tuple(operands.tolist()), dict(zip(numbers, local.tolist(), strict=True)), pairs, place.reshape(-1))
