"""The act of a sweep: one base against many others, each kept as soon as it is done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .checkpoint import Checkpoint
from .errors import OptionError
from .others import Other
from .store import Store
from .sweep_plan import Plan, plan_sweep
from .sweep_record import begin, finish
from .sweep_task import Outcome, Task

if TYPE_CHECKING:
    from .results import Results
    from .sweep_progress import SweepProgress

__all__ = ["run_sweep", "sweep"]


def sweep(
    base: str | os.PathLike[str] | Checkpoint,
    others: Sequence[str | os.PathLike[str] | Other] = (),
    *,
    out: str | os.PathLike[str],
    manifest: str | os.PathLike[str] | None = None,
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
    workers: int = 1,
    cluster: str | None = None,
    force: bool = False,
    strict: bool = False,
    batch_bytes: int | None = None,
    progress: SweepProgress | None = None,
) -> Results:
    """Compare one base with many others and keep the rows of each; run again, only what is missing is computed.

    The numbers are those of `compare` to the last bit, however the others are shared out and whatever was interrupted.

    Args:
        base: the checkpoint compared against: a path, a hub id or an opened `Checkpoint`.
        others: paths, globs, hub ids, or `Other`s with a label and extra columns.
        out: the folder of results, see `store`.
        manifest: a file that names more others, see `others.find_others`.
        rules, map, rules_file, include, exclude, rows: how tensors are paired, as for `match`.
        threads: threads of each process; all its processors by default, shared among the workers.
        io: how bytes are read, as for `compare`.
        device, device_memory: where the sums are computed, as for `compare`.
        workers: processes on this machine.
        cluster: the address of a Ray cluster that computes instead; "auto" is the one that this machine belongs to.
        force: compute again what is there.
        strict: raise the first failure instead of keeping it.
        batch_bytes: the most bytes that one pass reads, by default 16 GiB. The result does not depend on it.
        progress: told what happens; None for silence.
    Returns:
        `Results`; its failures are the others that could not be compared.
    Raises:
        WeighbridgeError: the base, an option, the cluster or the folder is wrong; or, with `strict`, an other.
    """
    plan = plan_sweep(
        base, others, out=out, manifest=manifest, rules=rules, map=map, rules_file=rules_file, include=include,
        exclude=exclude, rows=rows, threads=threads, io=io, device=device, device_memory=device_memory,
        workers=workers, cluster=cluster, force=force, strict=strict, batch_bytes=batch_bytes,
        say=None if progress is None else progress.say,
    )  # fmt: skip
    run_sweep(plan, workers, cluster, progress)
    from .results import open_results

    return open_results(out)


def run_sweep(
    plan: Plan, workers: int = 1, cluster: str | None = None, progress: SweepProgress | None = None
) -> list[Outcome]:
    """Carry out a plan.

    Returns:
        What became of each other, in the order in which they were found.
    Raises:
        OutputError: the folder cannot be written to.
        WeighbridgeError: as for `sweep`.
    """
    if plan.settings.out is None:
        raise OptionError("a sweep needs a folder for its results; give --out DIR.")
    store = Store(plan.settings.out)
    store.prepare()
    store.clean()
    begin(plan, store)
    outcomes = {outcome.other.label: outcome for outcome in plan.known}
    if progress is not None:
        progress.start(plan)
    try:
        for task, finished in _run(plan, workers, cluster, progress):
            outcomes.update((outcome.other.label, outcome) for outcome in finished)
            if progress is not None:
                progress.finished(task.nbytes, finished)
    finally:
        if progress is not None:
            progress.close()
    finish(store)
    store.clean()
    return [outcomes[other.label] for other in plan.others]


def _run(
    plan: Plan, workers: int, cluster: str | None, progress: SweepProgress | None
) -> Iterator[tuple[Task, list[Outcome]]]:
    from .workers import run_processes, run_serial

    reading = None if progress is None else progress.reading
    if cluster is not None and plan.tasks:
        from .cluster import run_ray

        return run_ray(plan.tasks, plan.settings, cluster)
    if workers > 1 and plan.tasks:
        return run_processes(plan.tasks, plan.settings, workers, reading)
    return run_serial(plan.tasks, plan.settings, reading, None if progress is None else progress.say)
