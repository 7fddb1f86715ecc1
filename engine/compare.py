"""The acts of the library: open two checkpoints, match them, compare what matched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint
from .formats import open_checkpoint
from .matching import match as match_checkpoints
from .matching import require_matches
from .plan import Joined

if TYPE_CHECKING:
    from .execute import Progress
    from .inspection import Inspection
    from .ledger import Ledger
    from .loading import Say
    from .table import Comparison

__all__ = ["compare", "inspect", "match"]

Source = str | os.PathLike[str] | Checkpoint


def match(
    base: Source,
    other: Source,
    *,
    rules: str | Sequence[str] = "auto",
    map: Sequence[str] = (),
    rules_file: str | os.PathLike[str] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rows: str = "overlap",
) -> Ledger:
    """Pair the tensors of two checkpoints by name, without reading any of them.

    Args:
        base: the checkpoint compared against: a path, a hub id or an opened `Checkpoint`.
        other: the checkpoint under study.
        rules: "auto", "none", or the names of the rules to apply, as a list or joined by commas.
        map: renamings 'REGEX=>REPLACEMENT', applied in the order given.
        rules_file: a TOML file of renamings.
        include, exclude: globs over tensor names; what they leave out becomes `skipped` rows.
        rows: "overlap" compares the leading rows of embeddings that differ in their number, "strict" does not.
    Returns:
        A `Ledger` that holds every tensor of both checkpoints exactly once.
    Raises:
        WeighbridgeError: a checkpoint cannot be opened or a rule is wrong. That nothing matched is an answer, no error.
    """
    return match_checkpoints(
        open_checkpoint(base),
        open_checkpoint(other),
        rules=rules,
        map=map,
        rules_file=rules_file,
        include=include,
        exclude=exclude,
        rows=rows,
    )


def compare(
    base: Source,
    other: Source,
    *,
    rules: str | Sequence[str] = "auto",
    map: Sequence[str] = (),
    rules_file: str | os.PathLike[str] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rows: str = "overlap",
    threads: int | None = None,
    io: str = "auto",
    device: str = "auto",
    device_memory: str | int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Comparison:
    """Compare the weights of two checkpoints, tensor by tensor, in one pass over their bytes.

    The matching options are those of `match`.

    Args:
        base: the checkpoint compared against: a path, a hub id or an opened `Checkpoint`.
        other: the checkpoint under study.
        threads: worker threads, default all processors this process may use. The result does not depend on it.
        io: "map" files, "pread" them into buffers, or "auto": read what lies on a network file system or outside the
            page cache, map the rest.
        device: where the sums are computed: "auto", "cpu", "cuda" (all GPUs), "cuda:N", "xpu", "mps", or "portable" for
            plain torch operations; see `engine.devices`.
        device_memory: the most memory used on each device, in bytes or as "8GB"; default what is free, less a margin.
            The result does not depend on it.
        progress: called with (bytes done, bytes in all) a few times a second at most.
        say: told in a sentence what takes long before any byte is read: the kernels are compiled once on a machine.
    Returns:
        A `Comparison`: a row with every metric for each tensor of either side, totals, and summaries.
    Raises:
        WeighbridgeError: a checkpoint cannot be opened or read, or no tensor of the two matched.
    """
    ledger = match(
        base, other, rules=rules, map=map, rules_file=rules_file, include=include, exclude=exclude, rows=rows
    )
    require_matches(ledger)
    from .execute import execute
    from .table import Comparison

    joined = [
        Joined(index, (row.base, row.other), row.elements)
        for index, row in enumerate(ledger.matched)
        if row.base is not None and row.other is not None
    ]
    sums = execute(
        joined,
        2,
        [(1, 0)],
        threads=threads,
        io=io,
        device=device,
        device_memory=device_memory,
        progress=progress,
        say=say,
    )
    return Comparison(
        ledger=ledger,
        base_self=sums.selfs[:, 0],
        other_self=sums.selfs[:, 1],
        pair=sums.pairs[:, 0],
        bytes_read=sums.bytes_read,
        seconds=sums.seconds,
    )


def inspect(
    checkpoint: Source,
    *,
    stats: bool = False,
    threads: int | None = None,
    io: str = "auto",
    device: str = "auto",
    device_memory: str | int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Inspection:
    """What a checkpoint holds: its tensors, dtypes, shapes and sizes, and with `stats` the self sums of each.

    Args:
        checkpoint: a path, a hub id or an opened `Checkpoint`.
        stats: read every tensor once for its mean, magnitudes, norm and non-finite count.
        threads, io, device, device_memory, progress, say: as for `compare`.
    Raises:
        WeighbridgeError: the checkpoint cannot be opened or read.
    """
    from .inspection import Inspection

    opened = open_checkpoint(checkpoint)
    if not stats:
        return Inspection(checkpoint=opened, self_sums=None, bytes_read=0, seconds=0.0)
    import numpy as np

    from ..kernels.decoders import DECODERS
    from .execute import execute

    refs = list(opened.tensors.values())
    joined = [Joined(index, (ref,), ref.elements) for index, ref in enumerate(refs) if ref.dtype in DECODERS]
    sums = execute(
        joined,
        1,
        [],
        threads=threads,
        io=io,
        device=device,
        device_memory=device_memory,
        progress=progress,
        say=say,
    )
    # A dtype that cannot be decoded has no sums: its row is NaN, and says so when it is printed.
    self_sums = np.full((len(refs), sums.selfs.shape[-1]), np.nan)
    self_sums[[tensor.index for tensor in joined]] = sums.selfs[:, 0]
    return Inspection(checkpoint=opened, self_sums=self_sums, bytes_read=sums.bytes_read, seconds=sums.seconds)
