"""The sums of all pairs -> the family that a tree is estimated from."""

from __future__ import annotations

import numpy as np

from ...kernels.wanted import Wanted
from ..all_pairs import AllPairs
from .family import Family

__all__ = ["WANTED", "family_of"]

WANTED = Wanted.SQ_DIFF | Wanted.DOT | Wanted.DIFFERING | Wanted.SQUARES | Wanted.TOTALS
"""The sums that a tree is estimated from."""


def family_of(found: AllPairs) -> Family:
    """What the tree is estimated from.

    Args:
        found: the raw sums of N checkpoints.
    Returns:
        The family. What was skipped on request or cannot be decoded counts neither for nor against a copy.
    """
    dtypes = [[tensor.dtypes.get(number, "") for number in range(len(found.labels))] for tensor in found.tensors]
    whole = np.zeros(len(found.labels), np.int64)
    for standing in found.ledger.standings:
        if standing.status != "skipped":
            whole[standing.checkpoint] += standing.ref.elements
    table = np.array(dtypes, str).reshape(len(found.tensors), len(found.labels))
    return Family(found.labels, found.selfs, found.sums, found.compared, table, whole)
