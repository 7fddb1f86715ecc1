"""The act of the library: open checkpoints, read them once, say which descends from which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..checkpoint import Checkpoint
from ..errors import OptionError
from ..formats import open_checkpoint
from .tree import Tree

if TYPE_CHECKING:
    from ..execute import Progress
    from ..loading import Say

__all__ = ["check_scipy", "lineage"]

Source = str | os.PathLike[str] | Checkpoint


def lineage(
    checkpoints: Sequence[Source],
    *,
    base: Source | None = None,
    rules: str | Sequence[str] = "auto",
    map: Sequence[str] = (),
    rules_file: str | os.PathLike[str] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    rows: str = "overlap",
    threads: int | None = None,
    io: str = "auto",
    device: str = "auto",
    device_memory: str | int | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Tree:
    """The tree that a family of checkpoints came from, as far as their weights tell.

    Copies, half-precision copies and averages are found and named; all others hang on the checkpoint that they
    moved away from, and unrelated ones are roots of their own. Every byte is read once. docs/lineage.md says how it is
    done and how often it is right.

    Args:
        checkpoints: paths, hub ids or opened checkpoints, one or more; one given twice counts once.
        base: the checkpoint from which its relatives descend, one of those or another; None: the weights must tell.
        rules, map, rules_file, include, exclude, rows: as for `compare`, for every two.
        threads, io, device, device_memory, progress, say: as for `compare`.
    Returns:
        A `Tree`, its nodes in the order of the checkpoints, a base that is none of them first.
    Raises:
        WeighbridgeError: a checkpoint cannot be opened or read, none is given, or scipy is not installed.
    """
    check_scipy()
    opened = [open_checkpoint(source) for source in checkpoints]
    notes: list[str] = []
    if base is not None:
        opened.insert(0, open_checkpoint(base))
    if not opened:
        raise OptionError("lineage has no checkpoint; give one or more.")
    different: dict[str, Checkpoint] = {}
    for checkpoint in opened:
        first = different.setdefault(os.path.realpath(checkpoint.path), checkpoint)
        if first is not checkpoint and not (base is not None and first is opened[0]):
            notes.append(f"{checkpoint.label} was given twice and counts once")
    from ..all_pairs import gather
    from ..joint import join
    from .descent import descend
    from .gathering import WANTED, family_of

    ledger = join(
        list(different.values()),
        None if base is None else 0,
        rules=rules,
        map=map,
        rules_file=rules_file,
        include=include,
        exclude=exclude,
        rows=rows,
    )
    found = gather(
        ledger,
        wanted=WANTED,
        threads=threads,
        io=io,
        device=device,
        device_memory=device_memory,
        progress=progress,
        say=say,
    )
    tree = descend(family_of(found), None if base is None else 0)
    if len(different) > 1:
        lonely = [label for label, total in zip(found.labels, ledger.totals, strict=True) if not total.get("matched")]
        notes += [f"{label} has no tensor in common with any other" for label in lonely]
    said = (*notes, *ledger.notes, *tree.notes)
    return replace(tree, notes=said, bytes_read=found.bytes_read, seconds=found.seconds)


def check_scipy() -> None:
    """Finds out before any work whether the tree can be drawn.

    Raises:
        OptionError: scipy is not installed.
    """
    from importlib.util import find_spec

    if find_spec("scipy") is None:
        raise OptionError("lineage needs scipy; install weighbridge[lineage].")
