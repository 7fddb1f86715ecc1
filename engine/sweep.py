"""The act of a sweep: which others are computed, in which tasks, and what became of each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint
from .errors import OptionError, ReadError, WeighbridgeError
from .formats import open_checkpoint
from .formats.shard import digest
from .ledger import Ledger, LedgerRow, require_matches
from .matching import match
from .others import Other, find_others
from .store import FORMAT, Store, entry_of, merge_entries

if TYPE_CHECKING:
    from .execute import Progress
    from .sweep_progress import SweepProgress

__all__ = ["METRIC_VERSION", "Outcome", "Plan", "Settings", "Task", "plan_sweep", "run_task", "sweep"]

METRIC_VERSION = 1
"""Raised when a sum or metric changes its meaning or its bits, so that results of before are not taken for new ones."""

BATCH_BYTES = 16 << 30
_BATCH_OTHERS = 32  # the base's share of reading is then 3 %, and what a kill can lose is small


@dataclass(frozen=True)
class Settings:
    """What all tasks of a sweep have in common; picklable.

    Attributes:
        base: the path or hub id of the base.
        base_label, base_identity: what it is called, and what it was when the sweep began.
        out: the folder of the store, or None: rows are then returned.
        options: the matching options by name, as for `match`.
        computation: the digest of metric version, rules and options.
        extra: name -> type of the extra columns.
        threads, io, device: as for `compare`.
        force: whether rows that are there are computed again.
        strict: whether the first failure is raised.
        device_memory: as for `compare`.
    """

    base: str
    base_label: str
    base_identity: str
    out: str | None
    options: Mapping[str, Any]
    computation: str
    extra: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    io: str = "auto"
    device: str = "auto"
    force: bool = False
    strict: bool = False
    device_memory: int | None = None

    @property
    def on_device(self) -> dict[str, Any]:
        """The device and its memory, as arguments of `execute`."""
        return {"device": self.device, "device_memory": self.device_memory}


@dataclass(frozen=True)
class Task:
    """Others that are computed in one pass over the base; picklable.

    Attributes:
        number: its place in the plan, from 0.
        others: at least one.
        nbytes: the bytes of their tensors and the base's.
    """

    number: int
    others: tuple[Other, ...]
    nbytes: int


@dataclass(frozen=True)
class Outcome:
    """What became of one other; picklable.

    Attributes:
        other: which.
        status: "done", "failed" or "reused".
        reason: one sentence where it failed.
        bytes_read: the bytes that were read for it; the base's are counted with the first of a task.
        seconds: its share of the time of its task.
        table: its rows as a Parquet file, where there is no folder to write to.
        identity: what the checkpoint was.
        same_bytes: the bytes of tensors that were recognised as bytes already read.
    """

    other: Other
    status: str
    reason: str = ""
    bytes_read: int = 0
    seconds: float = 0.0
    table: bytes | None = None
    identity: str = ""
    same_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """What a sweep would do.

    Attributes:
        settings: what the tasks have in common.
        others: all that were found.
        tasks: what is to be computed.
        reused: others whose rows are there and still right.
        failed: others that cannot be opened.
    """

    settings: Settings
    others: tuple[Other, ...]
    tasks: tuple[Task, ...]
    reused: tuple[Outcome, ...]
    failed: tuple[Outcome, ...]

    @property
    def nbytes(self) -> int:
        """The bytes to be read."""
        return sum(task.nbytes for task in self.tasks)


# Computing


def run_task(
    task: Task,
    settings: Settings,
    *,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> list[Outcome]:
    """Compare the others of a task with the base and write the rows of each, or return them.

    Raises:
        WeighbridgeError: the base cannot be read or changed, the rows cannot be written, or `settings.strict` and an
            other failed. All else that is wrong with an other is its outcome.
    """
    base = replace(open_checkpoint(settings.base), label=settings.base_label)
    if base.identity != settings.base_identity:
        raise ReadError(
            f'the base "{base.label}" changed since the sweep began; run it again when nothing writes to it.'
        )
    started = time.perf_counter()
    outcomes: dict[str, Outcome] = {}
    ledgers: list[tuple[Other, Ledger]] = []
    for other in task.others:
        try:
            opened = open_checkpoint(other.source)
            ledger = _match(base, opened, settings.options)
            ledgers.append((other, require_matches(ledger)))
        except WeighbridgeError as error:
            outcomes[other.label] = _failed(other, error, settings)
    for other, outcome, data in _computed(ledgers, settings, progress, say):
        outcomes[other.label] = outcome if data is None else replace(outcome, table=data)
    seconds = (time.perf_counter() - started) / len(task.others)
    finished = [replace(outcomes[other.label], seconds=seconds) for other in task.others]
    if settings.out is None:
        return finished
    with Store(settings.out).writer() as writer:
        for outcome in finished:
            if outcome.table is not None:
                writer.add(outcome.other.label, outcome.table)
        writer.publish()
    return [replace(outcome, table=None) for outcome in finished]


def _failed(other: Other, error: WeighbridgeError, settings: Settings) -> Outcome:
    if settings.strict:
        raise error
    return Outcome(other, "failed", str(error))


def _computed(
    ledgers: Sequence[tuple[Other, Ledger]],
    settings: Settings,
    progress: Progress | None,
    say: Callable[[str], object] | None,
) -> Iterator[tuple[Other, Outcome, bytes | None]]:
    """Each other with its rows; where a pass fails it is halved until the one that spoils it stands alone."""
    if not ledgers:
        return
    from .blocked import compare_batch
    from .row_table import comparison_table, parquet_bytes

    try:
        blocked = compare_batch(
            [ledger for _, ledger in ledgers],
            threads=settings.threads,
            io=settings.io,
            progress=progress,
            say=say,
            **settings.on_device,
        )
    except ReadError as error:
        if len(ledgers) > 1:
            middle = len(ledgers) // 2
            yield from _computed(ledgers[:middle], settings, progress, say)
            yield from _computed(ledgers[middle:], settings, progress, say)
            return
        if open_checkpoint(settings.base).identity != settings.base_identity:
            raise
        yield ledgers[0][0], _failed(ledgers[0][0], error, settings), None
        return
    for (other, ledger), comparison, same in zip(ledgers, blocked.comparisons, blocked.same_bytes, strict=True):
        table = comparison_table(comparison, other, settings.extra, settings.base_label)
        data = parquet_bytes(table, row_key(other, ledger.other.identity, settings))
        outcome = Outcome(
            other, "done", bytes_read=comparison.bytes_read, identity=ledger.other.identity, same_bytes=same
        )
        yield other, outcome, data


def row_key(other: Other, identity: str, settings: Settings) -> dict[str, Any]:
    """What the rows of an other follow from: kept in their file, and compared before it is taken for an answer."""
    return {
        "label": other.label,
        "source": other.source,
        "extra": dict(other.extra),
        "types": dict(settings.extra),
        "identity": identity,
        "base_identity": settings.base_identity,
        "base": settings.base_label,
        "computation": settings.computation,
    }


_COMPUTED_FROM = ("identity", "base_identity", "base", "computation")

_ledgers: dict[str, tuple[Ledger, tuple[LedgerRow, ...]]] = {}
_LEDGERS = 64


def _match(base: Checkpoint, other: Checkpoint, options: Mapping[str, Any]) -> Ledger:
    """`match`; others with the same names, shapes, dtypes and config are matched once, as the steps of a run are."""
    structure = [(ref.name, ref.dtype, ref.shape) for ref in other.tensors.values()]
    key = digest(
        base.identity, base.path, repr(structure), json.dumps(other.config, sort_keys=True, default=str),
        repr(other.tied), repr(sorted(options.items())),
    )  # fmt: skip
    if key not in _ledgers:
        ledger = match(base, other, **options)
        while len(_ledgers) >= _LEDGERS:
            _ledgers.pop(next(iter(_ledgers)))
        if ledger.matched:
            _ledgers[key] = (ledger, ledger.rows)
        return ledger
    known, rows = _ledgers[key]
    swapped = tuple(row if row.tensor is None else replace(row, other=other.tensors[row.tensor]) for row in rows)
    return replace(known, base=base, other=other, rows=swapped)


# Planning


def plan_sweep(
    base: str | os.PathLike[str] | Checkpoint,
    others: Sequence[str | os.PathLike[str] | Other],
    *,
    out: str | os.PathLike[str] | None,
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
    force: bool = False,
    strict: bool = False,
    batch_bytes: int | None = None,
) -> Plan:
    """Find the others, see which are computed already, and share the rest out among tasks; reads headers only.

    The arguments are those of `sweep`.

    Raises:
        WeighbridgeError: the base cannot be opened, no others are found, an option is wrong, or `out` holds a sweep of
            another base or with other matching options and `force` is not given.
    """
    from .devices import as_bytes, check_device
    from .row_table import extra_types

    opened = open_checkpoint(base)
    source = opened.path if isinstance(base, Checkpoint) else os.fspath(base)
    named = [other for other in others if isinstance(other, Other)]
    paths = [other for other in others if not isinstance(other, Other)]
    found = [*named, *(find_others(paths, manifest) if paths or manifest is not None or not named else [])]
    options = {
        "rules": rules if isinstance(rules, str) else list(rules),
        "map": [map] if isinstance(map, str) else list(map),
        "rules_file": None if rules_file is None else os.path.abspath(rules_file),
        "include": [include] if isinstance(include, str) else list(include),
        "exclude": [exclude] if isinstance(exclude, str) else list(exclude),
        "rows": rows,
    }
    match(opened, opened, **options)  # a rule that is malformed is found out before anything else
    computation = _computation(options)
    store = Store(out) if out is not None else None
    known: Mapping[str, Any] = store.manifest if store is not None and store.exists() else {}
    if known and not force:
        _require_same(Path(store.path if store else ""), known, opened, computation)
    entries = {entry["label"]: entry for entry in known.get("others", ())}
    everything = [*(entry["extra"] for entry in entries.values()), *(other.extra for other in found)]
    settings = Settings(
        source, opened.label, opened.identity, None if out is None else os.fspath(out), options, computation,
        extra_types(everything), threads, io, check_device(device), force, strict, as_bytes(device_memory),
    )  # fmt: skip
    sized, reused, failed = [], [], []
    for other in found:
        try:
            each = open_checkpoint(other.source)
        except WeighbridgeError as error:
            failed.append(_failed(other, error, settings))
            continue
        key = store.key(other.label) if store is not None and not force and known else None
        wanted = row_key(other, each.identity, settings)
        if key is not None and all(key.get(name) == wanted[name] for name in _COMPUTED_FROM):
            reused.append(Outcome(other, "reused", identity=each.identity))
        else:
            sized.append((other, each.nbytes))
    tasks = _tasks(sized, opened.nbytes, workers, batch_bytes or BATCH_BYTES)
    return Plan(settings, tuple(found), tuple(tasks), tuple(reused), tuple(failed))


def _computation(options: Mapping[str, Any]) -> str:
    text = ""
    if options["rules_file"] is not None:
        with suppress(OSError):  # `match` has read it a moment ago
            text = Path(options["rules_file"]).read_text(encoding="utf-8", errors="replace")
    return digest(str(METRIC_VERSION), json.dumps({**options, "rules_file": text}, sort_keys=True))


def _require_same(path: Path, known: Mapping[str, Any], base: Checkpoint, computation: str) -> None:
    if known.get("base") != base.label:
        raise OptionError(
            f'"{path}" holds a sweep of the base "{known.get("base")}" and this is one of "{base.label}"; choose '
            "another --out, or --force to begin it anew."
        )
    if known.get("computation") != computation:
        raise OptionError(
            f'"{path}" holds a sweep with other matching options ({json.dumps(known.get("options"))}); choose another '
            "--out, or --force to begin it anew."
        )


def _tasks(sized: Sequence[tuple[Other, int]], base_bytes: int, workers: int, batch_bytes: int) -> list[Task]:
    most = max(1, min(_BATCH_OTHERS, -(-len(sized) // max(workers, 1))))
    tasks: list[Task] = []
    batch: list[tuple[Other, int]] = []
    for other, nbytes in [*sized, (None, 0)]:
        total = base_bytes + sum(size for _, size in batch)
        if batch and (other is None or len(batch) == most or total + nbytes > batch_bytes):
            tasks.append(Task(len(tasks), tuple(each for each, _ in batch), total))
            batch = []
        if other is not None:
            batch.append((other, nbytes))
    return tasks


def estimated_seconds(plan: Plan, nbytes: int = 256 << 20) -> float | None:
    """The time that a plan would take at the speed at which this machine reads its first bytes; None without tasks."""
    from .execute import execute
    from .plan import Joined

    if not plan.tasks:
        return None
    joined, total = [], 0
    for other in plan.tasks[0].others:
        try:
            ledger = _match(open_checkpoint(plan.settings.base), open_checkpoint(other.source), plan.settings.options)
        except WeighbridgeError:
            continue
        for row in ledger.matched:
            if row.base is not None and row.other is not None and total < nbytes:
                joined.append(Joined(len(joined), (row.base, row.other), row.elements))
                total += joined[-1].nbytes
    if not joined:
        return None
    settings = plan.settings
    sums = execute(joined, 2, [(1, 0)], threads=settings.threads, io=settings.io, **settings.on_device)
    return plan.nbytes * sums.seconds / max(sums.bytes_read, 1)


# The act


def sweep(
    base: str | os.PathLike[str] | Checkpoint,
    others: Sequence[str | os.PathLike[str] | Other] = (),
    *,
    out: str | os.PathLike[str],
    manifest: str | os.PathLike[str] | None = None,
    workers: int = 1,
    cluster: str | None = None,
    progress: SweepProgress | None = None,
    **options: Any,
) -> Any:
    """Compare one base with many others and keep the rows of each; run again, only what is missing is computed.

    Args:
        base: the checkpoint compared against.
        others: paths, globs, hub ids, or `Other`s.
        out: the folder of results.
        manifest: a file that names more others (`others.find_others`).
        rules, map, rules_file, include, exclude, rows, threads, io: as for `compare`.
        device, device_memory: as for `compare`.
        workers: processes on this machine.
        cluster: "auto" or the address of a Ray cluster that computes instead.
        force: compute again what is there.
        strict: raise the first failure instead of keeping it.
        batch_bytes: the most bytes of one pass. The result does not depend on it.
        progress: told what happens; None for silence.
    Returns:
        `Results`; its failures are the others that could not be compared.
    Raises:
        WeighbridgeError: the base, an option or the folder is wrong; or, with `strict`, an other.
    """
    run_sweep(
        plan_sweep(base, others, out=out, manifest=manifest, workers=workers, **options), workers, cluster, progress
    )
    from .results import open_results  # type: ignore[import-not-found,unused-ignore]

    return open_results(out)


def run_sweep(
    plan: Plan, workers: int = 1, cluster: str | None = None, progress: SweepProgress | None = None
) -> list[Outcome]:
    """Carry out a plan.

    Returns:
        What became of each other, in the order in which they were found.
    Raises:
        OptionError: both workers and a cluster.
        OutputError: the folder cannot be written to.
    """
    if cluster is not None and workers > 1:
        raise OptionError("--workers and --cluster exclude each other; leave one of them out.")
    settings = plan.settings
    if settings.out is None:
        raise OptionError("a sweep needs a folder for its results; give --out DIR.")
    store = Store(settings.out)
    store.prepare()
    store.clean()
    outcomes = {outcome.other.label: outcome for outcome in (*plan.reused, *plan.failed)}
    store.update(lambda manifest: _register(manifest, plan, store))
    if progress is not None:
        progress.start(sum(len(task.others) for task in plan.tasks) + len(plan.failed), plan.nbytes)
        progress.finished(0, list(plan.failed))
    try:
        for task, finished in _run(plan.tasks, settings, workers, cluster, progress):
            returned = [outcome for outcome in finished if outcome.table is not None]
            if returned:
                with store.writer() as writer:
                    for outcome in returned:
                        assert outcome.table is not None
                        writer.add(outcome.other.label, outcome.table)
                    writer.publish()
                finished = [replace(outcome, table=None) for outcome in finished]
            outcomes.update((outcome.other.label, outcome) for outcome in finished)
            store.update(lambda manifest, finished=finished: _record(manifest, finished, store))
            if progress is not None:
                progress.finished(task.nbytes, finished)
    finally:
        if progress is not None:
            progress.close()
    store.update(lambda manifest: _settle(manifest, store))
    store.clean()
    return [outcomes[other.label] for other in plan.others]


def _run(
    tasks: Sequence[Task], settings: Settings, workers: int, cluster: str | None, progress: SweepProgress | None
) -> Iterable[tuple[Task, list[Outcome]]]:
    if cluster is not None:
        from .cluster import run_ray  # type: ignore[import-not-found,unused-ignore]

        return run_ray(tasks, settings, cluster)  # type: ignore[no-any-return,unused-ignore]
    from .workers import run_processes, run_serial

    if workers > 1 and len(tasks) > 1:
        return run_processes(tasks, settings, workers)
    reading = None if progress is None else lambda done, _: progress.reading(done)
    return run_serial(tasks, settings, progress=reading, say=progress.say if progress is not None else None)


def _register(manifest: dict[str, Any], plan: Plan, store: Store) -> None:
    """Enter the others in their order; what no longer holds of a changed base or of others' options goes."""
    settings = plan.settings
    keys = ("base_identity", "computation", "base")
    if manifest and any(manifest.get(key) != getattr(settings, _SETTING[key]) for key in keys):
        for entry in manifest["others"]:
            store.file(entry["label"]).unlink(missing_ok=True)
        manifest["others"] = []
    manifest |= {
        "format": FORMAT,
        "base": settings.base_label,
        "base_source": settings.base,
        "base_identity": settings.base_identity,
        "metric_version": METRIC_VERSION,
        "computation": settings.computation,
        "options": dict(settings.options),
        "extra": dict(settings.extra),
        "others": manifest.get("others", []),
    }
    states = {outcome.other.label: outcome for outcome in (*plan.reused, *plan.failed)}
    entries = []
    for other in plan.others:
        outcome = states.get(other.label)
        if outcome is None or outcome.status == "failed":
            # Rows of before are of a checkpoint that is no longer there, or are about to be replaced.
            store.file(other.label).unlink(missing_ok=True)
        entries.append(
            entry_of(other, "pending")
            if outcome is None
            else entry_of(other, _KEPT[outcome.status], outcome.identity, outcome.reason)
        )
    merge_entries(manifest, entries)


_SETTING = {"base_identity": "base_identity", "computation": "computation", "base": "base_label"}
_KEPT = {"reused": "done", "done": "done", "failed": "failed"}


def _record(manifest: dict[str, Any], outcomes: Sequence[Outcome], store: Store) -> None:
    for outcome in outcomes:
        if outcome.status == "failed":
            store.file(outcome.other.label).unlink(missing_ok=True)
    merge_entries(
        manifest,
        [entry_of(each.other, _KEPT[each.status], each.identity, each.reason) for each in outcomes],
    )


def _settle(manifest: dict[str, Any], store: Store) -> None:
    """Give every file the extra columns of the whole manifest, so that one glob reads them all."""
    from .row_table import extra_types, parquet_bytes, read_parquet, with_extras

    types = extra_types([entry["extra"] for entry in manifest["others"]])
    manifest["extra"] = types
    with store.writer_under_lock() as writer:
        for entry in manifest["others"]:
            key = store.key(entry["label"]) if entry["status"] == "done" else None
            wanted = {"types": types, "extra": entry["extra"], "source": entry["source"]}
            if key is None or all(key.get(name) == value for name, value in wanted.items()):
                continue
            table, _ = read_parquet(str(store.file(entry["label"])))
            assert table is not None
            other = Other(entry["source"], entry["label"], entry["extra"])
            writer.add(entry["label"], parquet_bytes(with_extras(table, other, types), key | wanted))
        writer.publish()
