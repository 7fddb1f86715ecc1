"""A task of a sweep: some others that are compared with the base in one pass, and what becomes of each."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint
from .errors import DeviceError, DeviceMemoryError, ReadError, WeighbridgeError
from .formats import open_checkpoint
from .formats.shard import digest
from .ledger import Ledger, LedgerRow, require_matches
from .matching import match
from .others import Other
from .sweep_record import keep

if TYPE_CHECKING:
    from .execute import Progress

__all__ = ["Outcome", "Settings", "Task", "failure", "match_like", "row_key", "run_task"]


@dataclass(frozen=True)
class Settings:
    """What all tasks of a sweep have in common; picklable.

    Attributes:
        base: the path or hub id of the base.
        base_label, base_identity: what it is called, and what it was when the sweep began.
        out: the folder of the store, or None: rows are then returned.
        options: the matching options by name, as for `match`.
        computation: the digest of metric version, rules, options and arithmetic.
        extra: name -> type of the extra columns.
        threads, io, device, device_memory: as for `compare`.
        strict: whether the first failure is raised.
        arithmetic: what the last bits of the rows follow from, see `devices.arithmetic`; "" while only a cluster could
            tell and there is nothing to compute.
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
    device_memory: int | None = None
    strict: bool = False
    arithmetic: str = "cpu"

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
        status: "done"; "failed"; "reused": its rows were there and still right; or "kept": its rows were there, and
            the checkpoint cannot be found or read any more.
        reason: one sentence where it failed, or why it could not be looked at again.
        bytes_read: the bytes that were read for it; the base's are counted with the first of a task.
        same_bytes: the bytes of its tensors that were recognised as bytes already read.
        seconds: its share of the time of its task.
        identity: what the checkpoint was.
        table: its rows as a Parquet file, until they are written.
    """

    other: Other
    status: str
    reason: str = ""
    bytes_read: int = 0
    same_bytes: int = 0
    seconds: float = 0.0
    identity: str = ""
    table: bytes | None = None


def run_task(
    task: Task,
    settings: Settings,
    *,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> list[Outcome]:
    """Compare the others of a task with the base and write the rows of each, or return them.

    Args:
        task: the others.
        settings: what the tasks of the sweep have in common.
        progress, say: as for `compare`.
    Raises:
        DeviceError: the device is not there, or computes in another arithmetic than the rest of the sweep.
        WeighbridgeError: the base cannot be read or changed, the rows cannot be written, or `settings.strict` and an
            other failed. All else that is wrong with an other is its outcome.
    """
    started = time.perf_counter()
    _require_arithmetic(settings)
    base = replace(open_checkpoint(settings.base), label=settings.base_label)
    if base.identity != settings.base_identity:
        raise ReadError(
            f'the base "{base.label}" changed since the sweep began; run it again when nothing writes to it.'
        )
    outcomes = {outcome.other.label: outcome for outcome in _computed(base, task.others, settings, progress, say)}
    seconds = (time.perf_counter() - started) / len(task.others)
    finished = [replace(outcomes[other.label], seconds=seconds) for other in task.others]
    return finished if settings.out is None else keep(finished, settings)


def _require_arithmetic(settings: Settings) -> None:
    """Raise DeviceError where rows from here would not have the last digits of those from elsewhere."""
    from .devices import arithmetic_here

    here = arithmetic_here(settings.device)
    if here != settings.arithmetic:
        raise DeviceError(
            f'--device {settings.device} computes in the arithmetic "{here}" on {platform.node()} and this sweep is in '
            f'"{settings.arithmetic}", and their last digits differ; let only GPUs of one kind take part, or begin it '
            "anew with --device cpu and --force."
        )


def failure(other: Other, error: WeighbridgeError, settings: Settings) -> Outcome:
    """The outcome of an other that cannot be compared; raises the error instead where the sweep is strict."""
    if settings.strict:
        raise error
    return Outcome(other, "failed", str(error))


def _computed(
    base: Checkpoint,
    others: Sequence[Other],
    settings: Settings,
    progress: Progress | None,
    say: Callable[[str], object] | None,
) -> Iterator[Outcome]:
    """Each other with its rows; where a pass fails it is halved until the one that spoils it stands alone.

    Each half opens its others anew: what has changed while it was read may be whole now, or say better what is wrong.
    Halves are also what a device has room for that has none for a tensor of the base and all its others.
    """
    from .blocked import compare_batch
    from .row_table import comparison_table, parquet_bytes

    ledgers: list[tuple[Other, Ledger]] = []
    for other in others:
        try:
            ledger = match_like(base, open_checkpoint(other.source), settings.options)
            ledgers.append((other, require_matches(ledger)))
        except WeighbridgeError as error:
            yield failure(other, error, settings)
    if not ledgers:
        return
    try:
        blocked = compare_batch(
            [ledger for _, ledger in ledgers],
            threads=settings.threads,
            io=settings.io,
            progress=progress,
            say=say,
            **settings.on_device,
        )
    except (ReadError, DeviceMemoryError) as error:
        if len(ledgers) > 1:
            left = [other for other, _ in ledgers]
            for half in (left[: len(left) // 2], left[len(left) // 2 :]):
                yield from _computed(base, half, settings, progress, say)
            return
        if open_checkpoint(settings.base).identity != settings.base_identity:
            raise
        yield failure(ledgers[0][0], error, settings)
        return
    for (other, ledger), comparison, same in zip(ledgers, blocked.comparisons, blocked.same_bytes, strict=True):
        identity = ledger.other.identity
        table = comparison_table(comparison, other, settings.extra, settings.base_label)
        data = parquet_bytes(table, row_key(other, identity, settings))
        yield Outcome(other, "done", bytes_read=comparison.bytes_read, same_bytes=same, identity=identity, table=data)


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


_ledgers: dict[str, tuple[Ledger, tuple[LedgerRow, ...]]] = {}
_LEDGERS = 64


def match_like(base: Checkpoint, other: Checkpoint, options: Mapping[str, Any]) -> Ledger:
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
    swapped = tuple(
        replace(
            row,
            base=None if row.base_tensor is None else base.tensors[row.base_tensor],
            other=None if row.tensor is None else other.tensors[row.tensor],
        )
        for row in rows
    )
    return replace(known, base=base, other=other, rows=swapped)
