"""The act of a matrix: open N checkpoints, match them, compare all pairs; or open what an earlier run has kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..kernels.wanted import Wanted
from .all_pairs import gather
from .checkpoint import Checkpoint
from .devices import arithmetic_here, check_device
from .entries import MATRIX_METRICS
from .errors import NothingMatchedError, OptionError
from .formats import open_checkpoint
from .joint import join
from .ledger import require_matches
from .matching import match
from .matrix_table import TASK_COSINE, Matrix
from .metrics import needed
from .options import names
from .task_vectors import task_vectors

if TYPE_CHECKING:
    from .execute import Progress
    from .loading import Say

__all__ = ["ALL_METRICS", "chosen_metrics", "matrix", "open_matrix"]

ALL_METRICS = (*MATRIX_METRICS, TASK_COSINE)

Source = str | os.PathLike[str] | Checkpoint


def matrix(
    checkpoints: Sequence[Source],
    *,
    base: Source | None = None,
    metrics: str | Iterable[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
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
) -> Matrix:
    """Compare every two of N checkpoints, each byte of them read once.

    Args:
        checkpoints: two or more: paths, hub ids or opened checkpoints. One that is named twice is there twice.
        base: the one that task vectors start from; it comes first where it is not among the checkpoints.
        metrics: which of `ALL_METRICS`, a list or joined by commas; all, `task_cosine` only where there is a base. Sums
            that none of them needs are not computed.
        out: a folder for the raw sums: a run that was stopped goes on where it was, and `open_matrix` reads it.
        force: throw away what is in `out`.
        rules, map, rules_file, include, exclude, rows: as for `match`.
        threads, io, progress, say: as for `compare`.
        device, device_memory: as for `compare`. With `out`, "auto" is the processor: for the rest of a matrix it might
            choose another device than for its beginning, and each kind has last digits of its own. So a folder that
            was begun on a GPU fast at float64 is not taken up on one that is slow at it.
    Returns:
        A `Matrix`.
    Raises:
        OptionError: fewer than two checkpoints, `task_cosine` without a base, or `out` keeps other sums than `metrics`
            need.
        NothingMatchedError: no two of them have a tensor in common.
        WeighbridgeError: a checkpoint cannot be opened or read, or `out` is the folder of something else.
    """
    chosen = chosen_metrics(metrics, base is not None)
    opened, number = _opened(checkpoints, base)
    matching = {
        "rules": rules,
        "map": map,
        "rules_file": rules_file,
        "include": include,
        "exclude": exclude,
        "rows": rows,
    }
    device = check_device(device)
    if out is not None and device == "auto":
        device = "cpu"
    ledger = join(opened, number, **matching)
    if not ledger.tensors:
        _nothing_matched(opened, matching)
    store = None
    wanted = Wanted.ALL if metrics is None else _sums_of(chosen)
    if out is not None:
        from .matrix_store import MatrixStore

        store = MatrixStore(out)
        options = _plain_options(matching) | {"device": arithmetic_here(device)}
        wanted = store.begin(ledger, options, wanted, force=force)
    sums = gather(
        ledger,
        wanted=wanted,
        kept=store,
        threads=threads,
        io=io,
        device=device,
        device_memory=device_memory,
        progress=progress,
        say=say,
    )
    tasks = None
    if TASK_COSINE in chosen and number is not None:
        tasks = store.load_tasks(sums) if store else None
        if tasks is None:
            tasks = task_vectors(sums, number, io=io)
            if store:
                store.save_tasks(tasks)
    return Matrix(sums, chosen, tasks)


def open_matrix(path: str | os.PathLike[str], metrics: str | Iterable[str] | None = None) -> Matrix:
    """The matrix that lies in a folder of `out`, without its checkpoints being there.

    Args:
        path: the folder.
        metrics: as for `matrix`; all that follow from the sums that are there. `task_cosine` only where it was asked
            for when the folder was written.
    Raises:
        FormatError: there is none, it is not finished, or it is damaged.
        OptionError: a metric is asked for whose sums, or whose products of task vectors, are not there.
    """
    from .matrix_store import MatrixStore

    store = MatrixStore(path)
    sums = store.read()
    tasks = store.load_tasks(sums)
    if (
        tasks is None
        and metrics is not None
        and TASK_COSINE in (names(metrics, ALL_METRICS, "metric", "metrics") or ())
    ):
        raise OptionError(f'"{path}" holds no {TASK_COSINE}; run the matrix again with --base and without --metrics.')
    chosen = chosen_metrics(metrics, tasks is not None)
    if metrics is None:
        chosen = tuple(metric for metric in chosen if not _sums_of([metric]) & ~sums.wanted)
    else:
        store.require(_sums_of(chosen))
    return Matrix(sums, chosen, tasks if TASK_COSINE in chosen else None)


def _sums_of(metrics: Iterable[str]) -> Wanted:
    """The sums that metrics are computed from; cosines of task vectors from squared differences."""
    metrics = list(metrics)
    return needed(metrics) | (Wanted.SQ_DIFF if TASK_COSINE in metrics else Wanted(0))


def chosen_metrics(metrics: str | Iterable[str] | None, base: bool) -> tuple[str, ...]:
    """The metrics that are computed: those asked for; without, all, and `task_cosine` only where there is a base.

    Raises:
        OptionError: an unknown metric, or `task_cosine` without a base.
    """
    chosen = names(metrics, ALL_METRICS, "metric", "--metrics")
    if chosen is None:
        return ALL_METRICS if base else MATRIX_METRICS
    if TASK_COSINE in chosen and not base:
        raise OptionError(f"{TASK_COSINE} is the cosine of what was added to a base; name one with --base.")
    return chosen


def _opened(checkpoints: Sequence[Source], base: Source | None) -> tuple[list[Checkpoint], int | None]:
    """The checkpoints under labels of their own, and the number of the base."""
    opened = [open_checkpoint(source) for source in checkpoints]
    number = None
    if base is not None:
        start = open_checkpoint(base)
        real = [os.path.realpath(checkpoint.path) for checkpoint in opened]
        there = os.path.realpath(start.path)
        if there not in real:
            opened.insert(0, start)
        number = real.index(there) if there in real else 0
    if len(opened) < 2:
        given = f'"{opened[0].label}" alone' if opened else "none"
        raise OptionError(f"a matrix is of two or more checkpoints and this is {given}; see one with `inspect`.")
    seen: dict[str, int] = {}
    out = []
    for checkpoint in opened:
        label = checkpoint.label
        while label in seen:
            seen[checkpoint.label] += 1
            label = f"{checkpoint.label} ({seen[checkpoint.label]})"
        seen[label] = 1
        out.append(checkpoint if label == checkpoint.label else replace(checkpoint, label=label))
    return out, number


def _nothing_matched(opened: Sequence[Checkpoint], matching: dict[str, Any]) -> None:
    try:
        require_matches(match(opened[0], opened[1], **matching))
    except NothingMatchedError as error:
        if len(opened) == 2:
            raise
        raise NothingMatchedError(
            f"no two of the {len(opened)} checkpoints have a tensor in common: {error}"
        ) from error


def _plain_options(matching: dict[str, Any]) -> dict[str, Any]:
    """The matching options as JSON; a file of rules by what is in it."""
    out = {
        key: value if isinstance(value, str) else [str(v) for v in value or ()]
        for key, value in matching.items()
        if key != "rules_file"
    }
    if matching["rules_file"] is not None:
        with open(matching["rules_file"], encoding="utf-8") as file:
            out["rules_file"] = file.read()
    return out
