"""The plan of a sweep: which others there are, which are computed already, and in which tasks the rest is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint
from .errors import FormatError, OptionError, WeighbridgeError
from .formats import open_checkpoint
from .formats.shard import digest
from .matching import match
from .metrics import METRIC_VERSION
from .others import Other, find_others
from .places import files_id
from .store import Store
from .sweep_record import is_ours
from .sweep_task import Outcome, Settings, Task, failure, match_like

if TYPE_CHECKING:
    from .loading import Say

__all__ = ["BATCH_BYTES", "Plan", "estimated_seconds", "plan_sweep"]

# 17 files of 0.1 GB in the page cache, swept by 1, 2, 4, 8 and 16 others at a time: 1, 0.78, 0.69, 0.63 and 0.62 of the
# time. So more others than that only make what a kill can lose larger. Memory does not bound a pass: what it holds
# besides the files' own pages is 0.3 % of its bytes.
BATCH_BYTES = 16 << 30
BATCH_OTHERS = 32
_GPU_KINDS = ("cuda", "xpu")  # of devices, which do not tell the arithmetic
_KINDS = ("cpu", "portable", *_GPU_KINDS)


@dataclass(frozen=True)
class Plan:
    """What a sweep would do.

    Attributes:
        settings: what the tasks have in common.
        others: all that were found.
        tasks: what is to be computed.
        known: what became already of those that are in no task: reused, kept, or failed to open.
        force: whether all is computed anew, whatever is there.
    """

    settings: Settings
    others: tuple[Other, ...]
    tasks: tuple[Task, ...]
    known: tuple[Outcome, ...]
    force: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes to be read."""
        return sum(task.nbytes for task in self.tasks)

    def count(self, status: str) -> int:
        """How many of `known` have a status."""
        return sum(outcome.status == status for outcome in self.known)


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
    cluster: str | None = None,
    force: bool = False,
    strict: bool = False,
    batch_bytes: int | None = None,
    say: Say | None = None,
) -> Plan:
    """Find the others, see which are computed already, and share the rest out among tasks; reads headers only.

    The arguments are those of `sweep`; `device` "auto" is the processor here, which is as fast for a sweep. `say` is
    told in a sentence what a cluster is waited for.

    Raises:
        WeighbridgeError: the base cannot be opened, no others are found, an option is wrong, there is no such cluster
            and something to compute, or `out` holds a sweep of another base, with other matching options or in another
            arithmetic and `force` is not given.
    """
    from .devices import arithmetic_here, arithmetics_of, as_bytes, check_device
    from .row_table import extra_types

    if cluster is not None and workers > 1:
        raise OptionError("--workers and --cluster exclude each other; leave one of them out.")
    opened = open_checkpoint(base)
    source = opened.path if isinstance(base, Checkpoint) else os.fspath(base)
    found = find_others(others, manifest)
    options: dict[str, Any] = {
        "rules": rules if isinstance(rules, str) else list(rules),
        "map": [map] if isinstance(map, str) else list(map),
        "rules_file": None if rules_file is None else os.path.abspath(rules_file),
        "include": [include] if isinstance(include, str) else list(include),
        "exclude": [exclude] if isinstance(exclude, str) else list(exclude),
        "rows": rows,
    }
    match(opened, opened, **options)  # a rule that is malformed is found out before anything else
    # `auto` might choose another device for the rest than for the beginning, and each has last digits of its own.
    device = "cpu" if check_device(device) == "auto" else device
    if cluster is None:  # a device that is not there is found out before anything else, too
        possible: tuple[str, ...] = (arithmetic_here(device),)
    else:  # which need not be there for a sweep that is finished
        possible = arithmetics_of(device)
    store = Store(out) if out is not None else None
    there: Mapping[str, Any] = store.manifest if store is not None and store.exists() else {}
    begun_in = _begun_in(there, options) if there and not force else ""
    sums = begun_in or (possible[0] if len(possible) == 1 else "")
    if store is not None and there and not force:
        where = f"--device {device} computes in {_either(possible)} {'here' if cluster is None else 'on the cluster'}"
        _require_same(store.path, there, opened, options, begun_in, possible, where)
    extras = [*(entry["extra"] for entry in there.get("others", ())), *(other.extra for other in found)]
    settings = Settings(
        source, opened.label, opened.identity, None if out is None else os.fspath(out), options,
        _computation(options, sums), extra_types(extras), threads, io, device, as_bytes(device_memory), strict, sums,
    )  # fmt: skip
    sized: list[tuple[Other, Checkpoint]] = []
    known: list[Outcome] = []
    for other in found:
        key = store.key(other.label) if store is not None and there and not force else None
        if key is not None and not is_ours(key, settings):
            key = None
        try:
            each = open_checkpoint(other.source)
        except WeighbridgeError as error:
            outcome = failure(other, error, settings)
            # Rows of a checkpoint that is gone, or whose disk is, are not thrown away; those of a damaged one are.
            if key is not None and key["source"] == other.source and not isinstance(error, FormatError):
                outcome = Outcome(other, "kept", outcome.reason, identity=key["identity"])
            known.append(outcome)
            continue
        if key is not None and key["identity"] == each.identity:
            known.append(Outcome(other, "reused", identity=each.identity))
        else:
            sized.append((other, each))
    slots = workers
    if cluster is not None and sized:
        from .cluster import survey

        sums, slots = survey(cluster, device, threads, begun_in, say)
        settings = replace(settings, arithmetic=sums, computation=_computation(options, sums))
    tasks = tuple(_tasks(sized, opened, slots, batch_bytes or BATCH_BYTES))
    return Plan(settings, tuple(found), tasks, tuple(known), force)


def _computation(options: Mapping[str, Any], sums: str) -> str:
    """A digest of all but the checkpoints that the numbers follow from."""
    text = ""
    if options["rules_file"] is not None:
        with suppress(OSError):  # `match` has read it a moment ago
            text = Path(options["rules_file"]).read_text(encoding="utf-8", errors="replace")
    return digest(str(METRIC_VERSION), json.dumps({**options, "rules_file": text, "device": sums}, sort_keys=True))


def _begun_in(there: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """In which arithmetic a folder was begun; "" where nothing was computed yet, or other options hide it.

    A manifest of before it was kept there has the kind of the device in its digest.
    """
    if "arithmetic" in there:
        return str(there["arithmetic"])
    return next((kind for kind in _KINDS if there.get("computation") == _computation(options, kind)), "")


def _require_same(
    path: Path, there: Mapping[str, Any], base: Checkpoint, options: Mapping[str, Any], begun_in: str,
    possible: Sequence[str], where: str,
) -> None:  # fmt: skip
    """Raise OptionError where a folder is that of another sweep, or of this one in another arithmetic."""
    if there.get("base") != base.label:
        raise OptionError(
            f'"{path}" holds a sweep of the base "{there.get("base")}" and this is one of "{base.label}"; choose '
            "another --out, or --force to begin it anew."
        )
    if there.get("computation") != _computation(options, begun_in):
        what = (
            f"with other matching options ({json.dumps(there.get('options'))})"
            if there.get("metric_version") == METRIC_VERSION
            else f"by metric version {there.get('metric_version')} and this is {METRIC_VERSION}"
        )
        raise OptionError(f'"{path}" holds a sweep {what}; choose another --out, or --force to begin it anew.')
    if begun_in in _GPU_KINDS:
        raise OptionError(
            f'"{path}" holds a sweep that was begun on a GPU by a version that did not keep its arithmetic; choose '
            "another --out, or --force to begin it anew."
        )
    if begun_in and begun_in not in possible:
        raise OptionError(
            f'"{path}" holds a sweep in the arithmetic "{begun_in}" and {where}, whose last digits are others; go on '
            "where it began, on a device of its kind, choose another --out, or --force to begin it anew."
        )


def _either(names: Sequence[str]) -> str:
    *most, last = (f'"{name}"' for name in names)
    return f"{', '.join(most)} or {last}" if most else last


def _tasks(sized: Sequence[tuple[Other, Checkpoint]], base: Checkpoint, slots: int, batch_bytes: int) -> list[Task]:
    """The others in tasks of at most `batch_bytes`, as many as there are slots if that is enough.

    Others that are the same files under several names stand next to each other, so that one pass reads them once.
    """
    alike: dict[tuple[Any, ...], list[tuple[Other, int]]] = {}
    for other, checkpoint in sized:
        alike.setdefault(files_id(checkpoint), []).append((other, checkpoint.nbytes))
    own = files_id(base)
    whole = sum(each[0][1] for files, each in alike.items() if files != own)
    share = -(-whole // max(slots, 1))
    tasks: list[Task] = []
    batch: list[Other] = []
    used, inside = 0, {own}

    def close() -> None:
        tasks.append(Task(len(tasks), tuple(batch), base.nbytes + used))
        batch.clear()

    for files, each in alike.items():
        for other, nbytes in each:
            more = 0 if files in inside else nbytes
            full = used + more + base.nbytes > batch_bytes or (more and used >= share)
            if batch and (full or len(batch) == BATCH_OTHERS):
                close()
                used, inside, more = 0, {own}, 0 if files == own else nbytes
            batch.append(other)
            inside.add(files)
            used += more
    if batch:
        close()
    return tasks


def estimated_seconds(plan: Plan, nbytes: int = 256 << 20) -> float | None:
    """The time that a plan would take at the speed at which this machine reads its first bytes; None without tasks."""
    from .execute import execute
    from .plan import Joined

    if not plan.tasks:
        return None
    settings = plan.settings
    joined: list[Joined] = []
    total = 0
    for other in plan.tasks[0].others:
        try:
            ledger = match_like(open_checkpoint(settings.base), open_checkpoint(other.source), settings.options)
        except WeighbridgeError:
            continue
        for row in ledger.matched:
            if row.base is not None and row.other is not None and total < nbytes:
                joined.append(Joined(len(joined), (row.base, row.other), row.elements))
                total += joined[-1].nbytes
    if not joined:
        return None
    sums = execute(joined, 2, [(1, 0)], threads=settings.threads, io=settings.io, **settings.on_device)
    return plan.nbytes * sums.seconds / max(sums.bytes_read, 1)
