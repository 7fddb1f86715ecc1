"""One base against a batch of others in one pass: every byte is read once, the base's once for all of them.

For each tensor of the base, the tensors of the others that matched it with the same leading elements are the operands
1..M of one `Joined`, and the pairs are (i, 0). Tensors that are the very same bytes (one file and offset, whatever
links lead there) are one operand. Where they are the base's own, the base's chunk stands in once more for all: it is
still in the processor's cache, no byte is read again, and the sums are the bits that reading a copy would have given.
A tensor of the base that some others need in float64 and some do not is read once for either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.decoders import DECODERS
from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from .checkpoint import TensorRef
from .execute import Progress, execute
from .places import Places
from .plan import Joined
from .table import Comparison

if TYPE_CHECKING:
    from .ledger import Ledger
    from .loading import Say

__all__ = ["Blocked", "compare_batch"]


@dataclass(frozen=True)
class Blocked:
    """What one pass over a batch gave.

    Attributes:
        comparisons: one for each ledger; its `bytes_read` are those read for it alone, the base's being the first's.
        same_bytes: of each, the bytes of tensors that were recognised and not read.
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
        device: `device` and `device_memory`, handed on to `execute`.
    Returns:
        `Blocked`; each comparison has the bits of `compare` of that pair.
    Raises:
        ReadError: a file of any of them cannot be read, or changed.
    """
    work = _Work.of(ledgers)
    selfs = [np.zeros((len(ledger.matched), 2, len(SELF_SUMS))) for ledger in ledgers]
    pairs = [np.zeros((len(ledger.matched), len(PAIR_SUMS))) for ledger in ledgers]
    total = sum(joined.nbytes for each in work.by_operands.values() for joined, _ in each)
    done, seconds, counted = 0, 0.0, 0
    for count, each in work.by_operands.items():

        def report(now: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + now, total)

        joined = [tensor for tensor, _ in each]
        to_base = [(operand, 0) for operand in range(1, count)]
        sums = execute(joined, count, to_base, threads=threads, io=io, progress=report, say=say, **device)
        done += sum(tensor.nbytes for tensor in joined)
        seconds += sums.seconds
        counted += sums.bytes_read
        for k, (_, users) in enumerate(each):
            for number, index, operand in users:
                selfs[number][index, 0] = sums.selfs[k, operand]
                selfs[number][index, 1] = sums.selfs[k, 0]
                pairs[number][index] = sums.pairs[k, operand - 1]
    read = work.read
    # Bytes are counted where they are read, and must agree with what was planned.
    assert counted == sum(read) + work.mirrored
    return Blocked(
        [
            Comparison(ledger, selfs[n][:, 0], selfs[n][:, 1], pairs[n], read[n], seconds * read[n] / max(sum(read), 1))
            for n, ledger in enumerate(ledgers)
        ],
        work.same,
    )


User = tuple[int, int, int]
"""A matched row that a joined tensor serves: which ledger, which of its matched rows, and which operand it is."""


@dataclass(frozen=True)
class _Work:
    """What is handed to `execute` for a batch.

    Attributes:
        by_operands: number of operands -> the joined tensors of so many, each with those that it serves.
        read, same: of each ledger, the bytes that are read for it, and those that are bytes already read.
        mirrored: the bytes of the operands that are the base once more.
    """

    by_operands: dict[int, list[tuple[Joined, list[User]]]]
    read: list[int]
    same: list[int]
    mirrored: int

    @classmethod
    def of(cls, ledgers: Sequence[Ledger]) -> _Work:
        places = Places([ledgers[0].base, *(ledger.other for ledger in ledgers)])
        groups: dict[tuple[str, int, bool], list[tuple[int, int, TensorRef, TensorRef]]] = {}
        for number, ledger in enumerate(ledgers):
            for index, row in enumerate(ledger.matched):
                assert row.base is not None and row.other is not None
                # A tile in which one operand needs float64 is computed in float64, and rounds otherwise: kept apart.
                wide = "f64" in (DECODERS[row.base.dtype].wide, DECODERS[row.other.dtype].wide)
                key = (row.base.name, row.elements, wide)
                groups.setdefault(key, []).append((number, index, row.base, row.other))

        work = cls({}, [0] * len(ledgers), [0] * len(ledgers), 0)
        mirrored = 0
        for (_, elements, _), members in groups.items():
            first, _, base, _ = members[0]
            work.read[first] += elements * DECODERS[base.dtype].itemsize
            home = places.of(base)
            operands, users = [base], []
            slots: dict[tuple[Any, ...], int] = {}
            for number, index, _, ref in members:
                place = places.of(ref)
                nbytes = elements * DECODERS[ref.dtype].itemsize
                counts = work.same if place in slots or place == home else work.read
                counts[number] += nbytes
                if place not in slots:
                    slots[place] = len(operands)
                    operands.append(base if place == home else ref)
                    mirrored += nbytes if place == home else 0
                users.append((number, index, slots[place]))
            joined = Joined(0, tuple(operands), elements)
            work.by_operands.setdefault(len(operands), []).append((joined, users))
        return replace(work, mirrored=mirrored)
