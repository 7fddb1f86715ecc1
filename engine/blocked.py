"""One base against a batch of others in one pass: every byte is read once, the base's once for all of them.

For each tensor of the base, it and the tensors of the others that matched it are the operands of one `Joined`, the base
first. Tensors that are the very same bytes (one file and offset, whatever links lead there) are one operand. Those
others that have as many leading elements in common with the base, and the same working type, are compared in one `Way`:
a tile of its own with the base as operand 0 and the pairs (i, 0), over bytes that all ways have in common. Where an
other's tensor is the base's own, the base's bytes stand in once more, and the sums are the bits that reading a copy
would have given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, count, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..kernels.decoders import DECODERS
from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from .checkpoint import TensorRef
from .execute import Progress, execute_ways
from .places import Places
from .plan import Joined
from .table import Comparison
from .together import Way

if TYPE_CHECKING:
    from .ledger import Ledger
    from .loading import Say

__all__ = ["Blocked", "compare_batch"]


@dataclass(frozen=True)
class Blocked:
    """What one pass over a batch gave.

    Attributes:
        comparisons: one for each ledger; its `bytes_read` are those that none before it had read, the base's among
            them: with the first, and with a later one what it compares of the base beyond.
        same_bytes: of each, the bytes of the other's tensors that were recognised and not read.
    """

    comparisons: list[Comparison]
    same_bytes: list[int]

    @property
    def bytes_read(self) -> int:
        """The bytes of the whole pass."""
        return sum(comparison.bytes_read for comparison in self.comparisons)


def compare_batch(
    ledgers: Sequence[Ledger],
    *,
    threads: int | None = None,
    io: str = "auto",
    progress: Progress | None = None,
    say: Say | None = None,
    **device: Any,
) -> Blocked:
    """Compare the others of several ledgers with their one base.

    Args:
        ledgers: of one and the same base; each with matched rows.
        threads, io, progress, say: as for `compare`; `progress` counts from 0 for every pass.
        device: `device` and `device_memory`, handed on to `execute_ways`.
    Returns:
        `Blocked`; each comparison has the bits of `compare` of that pair.
    Raises:
        ReadError: a file of any of them cannot be read, or changed.
    """
    tensors, read, same = _shared(ledgers)
    ends = [0, *accumulate(len(ledger.matched) for ledger in ledgers)]
    selfs = np.zeros((ends[-1], 2, len(SELF_SUMS)))
    pairs = np.zeros((ends[-1], len(PAIR_SUMS)))
    total, done, seconds = sum(read), 0, 0.0
    for operands, members in _groups(tensors).items():  # K tensors each

        def report(now: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + now, total)

        joined = [tensor for tensor, _ in members]
        uses = list(zip(*(uses for _, uses in members), strict=True))  # of each way, K of them
        ways = [_way(*each) for each in zip(operands, uses, strict=True)]
        found = execute_ways(joined, ways, threads=threads, io=io, progress=report, say=say, **device)
        done += found[0].bytes_read
        seconds += found[0].seconds
        for sums, of_way in zip(found, uses, strict=True):
            tensor = np.repeat(np.arange(len(joined)), [len(use.rows) for use in of_way])
            row = np.fromiter(chain.from_iterable(use.rows for use in of_way), np.int64)
            operand = np.fromiter(chain.from_iterable(use.operands for use in of_way), np.int64)
            selfs[row, 0] = sums.selfs[tensor, operand]
            selfs[row, 1] = sums.selfs[tensor, 0]
            pairs[row] = sums.pairs[tensor, operand - 1]
    # Bytes are counted where they are read, and must agree with what was planned.
    assert done == total
    comparisons = []
    for ledger, (start, stop), nbytes in zip(ledgers, pairwise(ends), read, strict=True):
        sums_of = selfs[start:stop, 0], selfs[start:stop, 1], pairs[start:stop]
        comparisons.append(Comparison(ledger, *sums_of, nbytes, seconds * nbytes / max(total, 1)))
    return Blocked(comparisons, same)


class _Use(NamedTuple):
    """What one way of a tensor is for.

    Attributes:
        elements: how many leading elements take part.
        rows: the matched rows that are compared so, numbered through all ledgers.
        operands: which operand the other of each is.
    """

    elements: int
    rows: list[int]
    operands: list[int]


_Operands = tuple[tuple[int, ...], ...]  # of each way, places among the operands of a `Joined`


class _Shared:
    """A tensor of the base and those that are compared with it.

    Attributes:
        operands: the base's, then each other's that is not the very same bytes as one before.
        lengths: how many leading elements of each take part.
        ways: (leading elements, whether in float64) -> what is compared so. A tile in which one operand needs float64
            is computed in float64, and rounds otherwise: kept apart.
    """

    def __init__(self, base: TensorRef, place: tuple[Any, ...]) -> None:
        self.operands, self.lengths = [base], [0]
        self.ways: dict[tuple[int, bool], _Use] = {}
        self._places = {place: 0}

    def operand(self, ref: TensorRef, place: tuple[Any, ...]) -> int:
        """Which operand an other's tensor is."""
        operand = self._places.setdefault(place, len(self.operands))
        if operand == len(self.operands):
            self.operands.append(ref)
            self.lengths.append(0)
        return operand

    def lengthen(self, operand: int, elements: int) -> int:
        """Let so many leading elements of an operand take part; how many did not before."""
        more = elements - self.lengths[operand]
        if more <= 0:
            return 0
        self.lengths[operand] = elements
        return more

    def arranged(self) -> tuple[_Operands, tuple[TensorRef, ...], list[_Use]]:
        """The operands of each way, all operands, and what each way is for, with operands by their place in it.

        They are numbered anew, way by way, that of most first. So it is how many each way has that tells tensors apart,
        not which, and a family that has other dtypes or lengths in every tensor is a few groups all the same.
        """
        uses = list(self.ways.values())
        if len(uses) == 1 and 0 not in uses[0].operands:  # as they stand, in most families all of them
            return (tuple(range(len(self.operands))),), tuple(self.operands), uses
        number, operands, out = {0: 0}, [], []
        for use in sorted(uses, key=lambda use: -len(use.rows)):
            others = set(use.operands)
            inside = [0, *sorted(others - {0}), *(others & {0})]
            operands.append(tuple([number.setdefault(old, len(number)) for old in inside]))
            place = {old: at for at, old in enumerate(inside)}  # the base's own bytes as an other's: the last
            out.append(_Use(use.elements, use.rows, [place[old] for old in use.operands]))
        return tuple(operands), tuple(self.operands[old] for old in number), out


def _shared(ledgers: Sequence[Ledger]) -> tuple[list[_Shared], list[int], list[int]]:
    """The tensors of the base; of each ledger the bytes that are read for it, and those that are bytes already read."""
    places = Places([ledgers[0].base, *(ledger.other for ledger in ledgers)])
    found: dict[str, _Shared] = {}
    read, same = [0] * len(ledgers), [0] * len(ledgers)
    number = count()
    for n, ledger in enumerate(ledgers):
        for row in ledger.matched:
            assert row.base is not None and row.other is not None
            if (tensor := found.get(row.base.name)) is None:
                tensor = found[row.base.name] = _Shared(row.base, places.of(row.base))
            base, other = DECODERS[row.base.dtype], DECODERS[row.other.dtype]
            elements, operand = row.elements, tensor.operand(row.other, places.of(row.other))
            of_base, of_other = tensor.lengthen(0, elements), tensor.lengthen(operand, elements)
            read[n] += of_base * base.itemsize + of_other * other.itemsize
            same[n] += (elements - of_other) * other.itemsize
            key = elements, "f64" in (base.wide, other.wide)
            if (use := tensor.ways.get(key)) is None:
                use = tensor.ways[key] = _Use(elements, [], [])
            use.rows.append(next(number))
            use.operands.append(operand)
    return list(found.values()), read, same


def _groups(tensors: Sequence[_Shared]) -> dict[_Operands, list[tuple[Joined, list[_Use]]]]:
    """The tensors whose ways have the same operands, to be handed to `execute_ways` together."""
    found: dict[_Operands, list[tuple[Joined, list[_Use]]]] = {}
    for tensor in tensors:
        operands, refs, uses = tensor.arranged()
        found.setdefault(operands, []).append((Joined(0, refs, tensor.lengths[0]), uses))
    return found


def _way(operands: tuple[int, ...], uses: Sequence[_Use]) -> Way:
    """One way of K tensors: every operand but the first against the first."""
    pairs = [(n, 0) for n in range(1, len(operands))]
    return Way(operands, np.array(pairs, np.int64), np.array([use.elements for use in uses], np.int64))
