"""Checkpoints -> the sums of their family, every byte read once."""

from __future__ import annotations

import numpy as np

from ...kernels.sums import PAIR_SUMS, SELF_SUMS
from ..all_pairs import AllPairs
from ..execute import Progress, execute
from ..joint import JointLedger, pairs_of
from ..loading import Say
from ..plan import Joined
from .family import Family

__all__ = ["family_of", "sums_of"]


def family_of(found: AllPairs) -> Family:
    """What the tree is estimated from, of the sums of all pairs."""
    dtypes = [[tensor.dtypes.get(number, "") for number in range(len(found.labels))] for tensor in found.tensors]
    whole = np.zeros(len(found.labels), np.int64)
    for standing in found.ledger.standings:
        if standing.status != "skipped":
            whole[standing.checkpoint] += standing.ref.elements
    table = np.array(dtypes, str).reshape(len(found.tensors), len(found.labels))
    return Family(found.labels, found.selfs, found.sums, found.compared, table, whole)


def sums_of(
    ledger: JointLedger, *, threads: int | None, io: str, progress: Progress | None, say: Say | None
) -> AllPairs:
    """The sums of a joint ledger, tensors of the same checkpoints and pairs at once.

    Args:
        threads, io, progress, say: as for `execute`.
    """
    count = len(ledger.checkpoints)
    ends = pairs_of(count)
    selfs = np.full((len(ledger.tensors), count, len(SELF_SUMS)), np.nan)
    sums = np.full((len(ledger.tensors), len(ends), len(PAIR_SUMS)), np.nan)
    patterns: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
    for k, tensor in enumerate(ledger.tensors):
        patterns.setdefault((tuple(tensor.refs), tensor.pairs.tobytes()), []).append(k)
    joined = [Joined(k, tuple(tensor.refs.values()), tensor.elements) for k, tensor in enumerate(ledger.tensors)]
    whole = sum(each.nbytes for each in joined)
    read, seconds = 0, 0.0
    for (members, _), indices in patterns.items():
        place = {number: operand for operand, number in enumerate(members)}
        pairs = ledger.tensors[indices[0]].pairs
        done = execute(
            [Joined(row, joined[k].operands, joined[k].elements) for row, k in enumerate(indices)],
            len(members),
            [(place[one], place[two]) for one, two in ends[pairs].tolist()],
            threads=threads,
            io=io,
            progress=_continued(progress, read, whole),
            say=say,
        )
        selfs[np.ix_(indices, members)] = done.selfs
        sums[np.ix_(indices, pairs)] = done.pairs
        read += done.bytes_read
        seconds += done.seconds
    return AllPairs(ledger, selfs, sums, read, 0, seconds)


def _continued(progress: Progress | None, before: int, whole: int) -> Progress | None:
    """A progress function for a part of the work that begins when `before` of `whole` bytes are done."""
    return None if progress is None else lambda done, _: progress(before + done, whole)
