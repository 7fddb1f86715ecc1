"""Checkpoints -> the sums of their family, every byte read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...kernels.decoders import DECODERS
from ...kernels.sums import PAIR_SUMS, SELF_SUMS
from ..checkpoint import Checkpoint, TensorRef
from ..execute import Progress, execute
from ..loading import Say
from ..matching import match
from ..plan import Joined
from .family import Family

__all__ = ["gather"]


def gather(
    checkpoints: Sequence[Checkpoint],
    reference: int,
    matching: dict[str, Any],
    *,
    threads: int | None,
    io: str,
    progress: Progress | None,
    say: Say | None,
) -> tuple[Family, int, float]:
    """The family of N checkpoints, the bytes read and the seconds it took.

    Each is matched with the reference by the rules of `compare`. A tensor that the reference lacks is one tensor in all
    that have it by the same name and in the same shape.

    Args:
        reference: the number of the checkpoint whose names the others are brought to.
        matching: keyword arguments of `matching.match`.
        threads, io, progress, say: as for `execute`.
    """
    tensors = _joint(checkpoints, reference, matching)
    count = len(checkpoints)
    place = np.full((count, count), -1)
    first, second = np.triu_indices(count, 1)
    place[first, second] = np.arange(len(first))
    selfs = np.zeros((len(tensors), count, len(SELF_SUMS)))
    pairs = np.zeros((len(tensors), len(first), len(PAIR_SUMS)))
    present = np.array([[number in having for number in range(count)] for _, having in tensors], bool)
    dtypes = np.array(
        [[having[number].dtype if number in having else "" for number in range(count)] for _, having in tensors], str
    )
    patterns: dict[tuple[int, ...], list[int]] = {}
    for index, (_, having) in enumerate(tensors):
        patterns.setdefault(tuple(sorted(having)), []).append(index)
    whole = sum(elements * sum(DECODERS[ref.dtype].itemsize for ref in having.values()) for elements, having in tensors)
    read, seconds = 0, 0.0
    for members, indices in patterns.items():
        chosen = np.array(members)
        one, two = np.triu_indices(len(members), 1)
        joined = [
            Joined(k, tuple(tensors[index][1][number] for number in members), tensors[index][0])
            for k, index in enumerate(indices)
        ]
        sums = execute(
            joined,
            len(members),
            list(zip(one.tolist(), two.tolist(), strict=True)),
            threads=threads,
            io=io,
            progress=_continued(progress, read, whole),
            say=say,
        )
        selfs[np.ix_(indices, members)] = sums.selfs
        pairs[np.ix_(indices, place[chosen[one], chosen[two]])] = sums.pairs
        read += sums.bytes_read
        seconds += sums.seconds
    labels = tuple(checkpoint.label for checkpoint in checkpoints)
    family = Family(labels, selfs, pairs, present.reshape(-1, count), dtypes.reshape(-1, count))
    return family, read, seconds


def _continued(progress: Progress | None, before: int, whole: int) -> Progress | None:
    """A progress function for a part of the work that begins when `before` of `whole` bytes are done."""
    return None if progress is None else lambda done, _: progress(before + done, whole)


def _joint(
    checkpoints: Sequence[Checkpoint], reference: int, matching: dict[str, Any]
) -> list[tuple[int, dict[int, TensorRef]]]:
    """(elements, checkpoint -> its tensor) of every tensor that two or more have."""
    base = checkpoints[reference]
    having: dict[str, dict[int, TensorRef]] = {}
    elements: dict[str, int] = {}
    for number, checkpoint in enumerate(checkpoints):
        for row in match(base, checkpoint, **matching).rows:
            if row.status == "matched" and row.other is not None and row.base is not None:
                key, ref = row.base.name, row.other
            elif row.status in ("only_in_other", "outside_base_model") and row.tensor is not None and row.other:
                # Not a name of the reference's: those belong to its own tensors.
                key, ref = f"\0{row.tensor}{row.other.shape}", row.other
            else:
                continue
            if ref.dtype in DECODERS:
                having.setdefault(key, {})[number] = ref
                elements[key] = min(elements.get(key, row.elements), row.elements)
    return [(elements[key], refs) for key, refs in having.items()]
