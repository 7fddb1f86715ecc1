"""A joint ledger -> the raw sums of every pair, every byte read once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.decoders import DECODERS
from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from ..kernels.wanted import Wanted
from .checkpoint import TensorRef
from .execute import Progress, execute
from .joint import JointLedger, JointTensor, pairs_of
from .loading import Say
from .places import Places
from .plan import Joined

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
        bytes_read: the bytes of all operands, counted as they were handed to the kernel.
        same_bytes: the bytes of tensors that were recognised as bytes read already.
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
        nbytes = _nbytes(tensor)
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
    total = sum(_nbytes(tensor) for tensor in ledger.tensors)
    done, read, same, seconds = 0, 0, 0, 0.0
    for tensors in parts:
        block = kept.load(tensors)
        if block is None:
            here = _continued(progress, done, total)
            block = _compute(ledger, tensors, places, here, wanted=wanted, threads=threads, io=io, say=say, **device)
            kept.save(block)
            read, same, seconds = read + block.bytes_read, same + block.same_bytes, seconds + block.seconds
        selfs[tensors.start : tensors.stop] = block.selfs
        sums[tensors.start : tensors.stop] = block.sums
        homes[tensors.start : tensors.stop] = block.homes
        done += sum(_nbytes(ledger.tensors[k]) for k in tensors)
    return AllPairs(ledger, selfs, sums, homes, read, same, seconds, wanted)


def _nbytes(tensor: JointTensor) -> int:
    return tensor.elements * sum(DECODERS[ref.dtype].itemsize for ref in tensor.refs.values())


def held(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """An array for sums, in memory where it fits there well."""
    if 8 * np.prod(shape) <= _HELD_BYTES:
        return np.empty(shape)
    with tempfile.TemporaryFile(prefix="weighbridge-") as file:  # the map outlives the descriptor
        return np.memmap(file, np.float64, "w+", shape=shape)


def _continued(progress: Progress | None, before: int, total: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(before + done, total)


@dataclass(frozen=True, eq=False)
class _Tile:
    """Tensors whose operands form the same pairs.

    Attributes:
        pairs: (S, 2) the pairs of slots; a slot is an operand, and checkpoints with the very same bytes share one.
        place: (Q,) for each pair of checkpoints the pair of slots that has its sums.
        members: (tensor, its operands, checkpoint -> slot).
    """

    pairs: NDArray[np.int64]
    place: NDArray[np.int64]
    members: list[tuple[int, Joined, dict[int, int]]]


def _compute(ledger: JointLedger, tensors: range, places: Places, progress: Progress | None, **options: Any) -> Block:
    count = len(ledger.checkpoints)
    ends = pairs_of(count)
    selfs = np.full((len(tensors), count, len(SELF_SUMS)), np.nan)
    sums = np.full((len(tensors), len(ends), len(PAIR_SUMS)), np.nan)
    homes = np.full(selfs.shape[:2], -1)
    planned = read = done = 0
    seconds = 0.0
    total = sum(_nbytes(ledger.tensors[k]) for k in tensors)
    for tile in _tiles(ledger, tensors, places, ends):
        joined = [tensor for _, tensor, _ in tile.members]
        report = _continued(progress, done, total)
        found = execute(joined, len(joined[0].operands), tile.pairs.tolist(), progress=report, **options)
        for place, (k, _, slots) in enumerate(tile.members):
            selfs[k - tensors.start, list(slots)] = found.selfs[place, list(slots.values())]
            first = {slot: number for number, slot in reversed(slots.items())}
            homes[k - tensors.start, list(slots)] = [first[slot] for slot in slots.values()]
            sums[k - tensors.start, ledger.tensors[k].pairs] = found.pairs[place, tile.place]
        read, seconds = read + found.bytes_read, seconds + found.seconds
        planned += sum(tensor.nbytes for tensor in joined)
        done += sum(_nbytes(ledger.tensors[k]) for k, _, _ in tile.members)
    assert read == planned, "bytes are counted where they are read, and must agree with what was planned"
    return Block(tensors, selfs, sums, homes, read, total - read, seconds)


def _tiles(ledger: JointLedger, tensors: range, places: Places, ends: NDArray[np.int64]) -> Iterator[_Tile]:
    found: dict[tuple[int, tuple[int, ...]], _Tile] = {}
    for k in tensors:
        tensor = ledger.tensors[k]
        slots: dict[int, int] = {}
        operands: list[TensorRef] = []
        by_place: dict[tuple[Any, ...], int] = {}
        for number, ref in tensor.refs.items():
            slot = by_place.setdefault(places.of(ref), len(operands))
            if slot == len(operands):
                operands.append(ref)
            slots[number] = slot
        # One array of pairs is shared by all tensors of one pattern, so it is told by what it is, not by what it holds.
        key = (id(tensor.pairs), tuple(slots.values()))
        if key not in found:
            slot_of = np.full(len(ledger.checkpoints), -1)
            slot_of[list(slots)] = list(slots.values())
            pairs, place = np.unique(np.sort(slot_of[ends[tensor.pairs]], axis=1), axis=0, return_inverse=True)
            found[key] = _Tile(pairs, place.reshape(-1), [])
        found[key].members.append((k, Joined(k, tuple(operands), tensor.elements), slots))
    yield from found.values()
