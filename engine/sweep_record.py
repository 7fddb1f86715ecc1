"""What a sweep writes down as it goes: whose the folder is, and the state of every other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import OutputError, WeighbridgeError
from .metrics import METRIC_VERSION
from .others import Other
from .store import FORMAT, Store, entry_of, merge_entries

if TYPE_CHECKING:
    from .sweep_plan import Plan
    from .sweep_task import Outcome, Settings

__all__ = ["begin", "finish", "is_ours", "keep", "owner"]

_STATUS = {"done": "done", "reused": "done", "kept": "done", "failed": "failed"}  # an outcome's -> the manifest's


def owner(settings: Settings) -> dict[str, str]:
    """What all rows of a folder have in common, as it stands in the manifest."""
    return {
        "base": settings.base_label,
        "base_identity": settings.base_identity,
        "computation": settings.computation,
    }


def is_ours(described: Mapping[str, Any], settings: Settings) -> bool:
    """Whether a manifest, or the key of a row file, is of a sweep's base, options and arithmetic."""
    return all(described.get(name) == value for name, value in owner(settings).items())


def begin(plan: Plan, store: Store) -> None:
    """Enter the others in their order; rows that no longer hold, of the others or of a changed base, go.

    What another sweep has finished since the plan was made stays: somebody may be reading it, and what is computed
    again takes its place in one step.
    """
    settings = plan.settings

    def enter(manifest: dict[str, Any]) -> None:
        if manifest and not is_ours(manifest, settings):
            for entry in manifest["others"]:
                store.file(entry["label"]).unlink(missing_ok=True)
            manifest["others"] = []
        others = manifest.get("others", [])
        manifest |= {"format": FORMAT, **owner(settings), "base_source": settings.base}
        manifest |= {"metric_version": METRIC_VERSION, "options": dict(settings.options)}
        manifest |= {"arithmetic": settings.arithmetic}
        manifest |= {"extra": dict(settings.extra), "others": others}
        known = {outcome.other.label: outcome for outcome in plan.known}
        entries = []
        for other in plan.others:
            outcome = known.get(other.label)
            if outcome is None and not plan.force and _holds(store, other, settings):
                continue
            if outcome is None or outcome.status == "failed":
                store.file(other.label).unlink(missing_ok=True)
            entries.append(entry_of(other, "pending") if outcome is None else _entry(outcome))
        merge_entries(manifest, entries)

    store.update(enter)


def keep(outcomes: Sequence[Outcome], settings: Settings) -> list[Outcome]:
    """Write the rows of the others that are done, and the state of all; from then on they are there, come what may.

    Returns:
        The outcomes without their rows.
    Raises:
        OutputError: the folder cannot be written to, or another sweep with another base or other options has taken it.
    """
    assert settings.out is not None
    store = Store(settings.out)
    with store.writer() as writer:
        for outcome in outcomes:
            if outcome.table is not None:
                writer.add(outcome.other.label, outcome.table)
        writer.sync()

        def enter(manifest: dict[str, Any]) -> None:
            if not is_ours(manifest, settings):
                raise OutputError(
                    f'"{store.path}" was taken by another sweep (of "{manifest.get("base")}") while this one of '
                    f'"{settings.base_label}" ran; choose another --out.'
                )
            writer.publish()
            for outcome in outcomes:
                if outcome.status == "failed":
                    store.file(outcome.other.label).unlink(missing_ok=True)
            merge_entries(manifest, [_entry(outcome) for outcome in outcomes])

        store.update(enter)
    return [replace(outcome, table=None) for outcome in outcomes]


def finish(store: Store) -> None:
    """Give every file the extra columns of the whole manifest, so that one glob reads them all."""
    store.update(lambda manifest: _settle(manifest, store))


def _settle(manifest: dict[str, Any], store: Store) -> None:
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
        writer.sync()
        writer.publish()


def _holds(store: Store, other: Other, settings: Settings) -> bool:
    """Whether there are rows of an other as it is now, and of this sweep's base and options."""
    from .formats import open_checkpoint

    key = store.key(other.label)
    if key is None or not is_ours(key, settings):
        return False
    with suppress(WeighbridgeError):
        return bool(key["identity"] == open_checkpoint(other.source).identity)
    return False


def _entry(outcome: Outcome) -> dict[str, Any]:
    status = _STATUS[outcome.status]
    reason = outcome.reason if status == "failed" else ""
    return entry_of(outcome.other, status, outcome.identity, reason)
