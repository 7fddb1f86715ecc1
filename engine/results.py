"""The results of a sweep, read back from its folder: tables, summaries of every other, comparisons as they were."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ..kernels.threads import thread_pool
from .arrow import numbers_of
from .errors import FormatError, OptionError
from .ledger import STATUSES, Ledger
from .options import named
from .row_table import EXTRA_TYPES, RAW_COLUMNS
from .store import MANIFEST, Store
from .summary import GROUPINGS, KINDS, UNIONS, summarise
from .table import Comparison

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["OtherRows", "Results", "open_results", "raw_sums", "split", "summaries"]

_READ = ("tensor", "status", "kind", "layer", *RAW_COLUMNS)
_READERS = 4  # files at a time; most of the time goes into decompression, outside the interpreter's lock
_ENTRY = {"label": str, "source": str, "extra": dict, "status": str}


@dataclass(frozen=True, eq=False)
class OtherRows:
    """What summaries and plots need of one other, as columns over its R matched rows.

    Attributes:
        entry: its entry in the manifest.
        counts: rows of the ledger by status, in the order of `STATUSES`.
        tensors, kinds, layers: (R,) objects; a layer is an int or None.
        sums: `Comparison` with the raw sums and without a ledger: its metrics, `undefined` and `settled` hold.
    """

    entry: Mapping[str, Any]
    counts: Mapping[str, int]
    tensors: NDArray[np.object_]
    kinds: NDArray[np.object_]
    layers: NDArray[np.object_]
    sums: Comparison

    def groups(self, by: str | None) -> list[tuple[Any, NDArray[np.intp]]]:
        """The rows of every group, in the order of `summary.group_rows`; None: all rows as one."""
        if by is None:
            return [(None, np.arange(len(self.kinds)))]
        if by == "kind":
            found = [(kind, np.flatnonzero(np.isin(self.kinds, UNIONS.get(kind, (kind,))))) for kind in KINDS]
            return [(kind, rows) for kind, rows in found if kind != "other" or len(rows)]
        if by == "layer":
            order = sorted(set(self.layers.tolist()), key=lambda layer: (layer is None, layer or 0))
            return [(layer, np.flatnonzero(self.layers == layer)) for layer in order]
        return [(name, np.array([index], dtype=np.intp)) for index, name in enumerate(self.tensors)]

    def kept(self, keep: NDArray[np.bool_]) -> OtherRows:
        """The same with some of the rows only; the counts stay those of the whole ledger."""
        sums = self.sums
        part = _without_ledger(sums.other_self[keep], sums.base_self[keep], sums.pair[keep])
        return OtherRows(self.entry, self.counts, self.tensors[keep], self.kinds[keep], self.layers[keep], part)


class Results(Mapping[str, Comparison]):
    """The results of a sweep: a mapping from label to `Comparison`, in the order of the sweep.

    An other whose file of rows is damaged is not among the labels but among `failures`.

    Attributes:
        path: the folder.
        manifest: `sweep.json` as it was when the results were opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """
        Raises:
            FormatError: there is no sweep in the folder, or its manifest is broken.
        """
        self._store = Store(path)
        self.path = self._store.path
        self.manifest = self._store.manifest
        others, extra = self.manifest.get("others"), self.manifest.get("extra")
        if not isinstance(others, list) or not isinstance(extra, dict):
            raise FormatError(self._broken("no list of others and no extra columns"))
        for name, kind in extra.items():
            if not isinstance(kind, str) or kind not in EXTRA_TYPES:
                raise FormatError(self._broken(f'the extra column "{name}" has the type {kind!r}'))
        for number, entry in enumerate(others, 1):
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), t) for k, t in _ENTRY.items()):
                raise FormatError(self._broken(f"entry {number} of its others lacks {', '.join(_ENTRY)}"))

    def _broken(self, what: str) -> str:
        return f'"{self.path / MANIFEST}" is broken ({what}); run the sweep again with --force.'

    @property
    def base(self) -> str:
        """The label of the base."""
        return str(self.manifest.get("base", ""))

    @property
    def extra(self) -> tuple[str, ...]:
        """The names of the extra columns."""
        return tuple(self.manifest["extra"])

    @property
    def others(self) -> list[dict[str, Any]]:
        """The entries of the manifest: label, source, extra, identity, status, reason, file."""
        return list(self.manifest["others"])

    @property
    def labels(self) -> list[str]:
        """The labels of the others that are done and can be read, in the order of the sweep."""
        return list(self._read[0])

    @property
    def failures(self) -> list[dict[str, str]]:
        """label, source and reason of every other that failed, and of every one whose rows are damaged."""
        failed = [entry | {"reason": entry.get("reason", "")} for entry in self.others if entry["status"] == "failed"]
        return [
            {name: str(entry[name]) for name in ("label", "source", "reason")} for entry in (*failed, *self.damaged)
        ]

    @property
    def damaged(self) -> list[dict[str, Any]]:
        """The entries of the others that are done and whose rows cannot be read, with the reason."""
        return list(self._read[1])

    @property
    def pending(self) -> int:
        """How many others are not computed yet: the sweep runs, or was stopped."""
        return sum(entry["status"] not in ("done", "failed") for entry in self.others)

    @cached_property
    def _read(self) -> tuple[dict[str, OtherRows], list[dict[str, Any]]]:
        done: dict[str, OtherRows] = {}
        damaged = []
        entries = [entry for entry in self.others if entry["status"] == "done"]
        with thread_pool(_READERS) as pool:
            for entry, found in zip(entries, pool.map(self._rows_of, entries), strict=True):
                if isinstance(found, FormatError):
                    damaged.append(entry | {"reason": str(found)})
                else:
                    done[entry["label"]] = found
        return done, damaged

    def _rows_of(self, entry: Mapping[str, Any]) -> OtherRows | FormatError:
        try:
            return _other_rows(entry, self._table_of(entry["label"], list(_READ)))
        except FormatError as error:
            return error

    def _table_of(self, label: str, columns: list[str] | None = None) -> pyarrow.Table:
        table = self._store.read(label, columns)
        if columns is not None and len(missing := set(columns) - set(table.column_names)):
            path = self._store.file(label)
            raise FormatError(f'"{path}" is damaged (no column "{min(missing)}"); delete it and run the sweep again.')
        return table

    @property
    def columns_of_others(self) -> list[OtherRows]:
        """The matched rows of every other as columns, in the order of `labels`."""
        return list(self._read[0].values())

    def table(self, columns: Sequence[str] | None = None) -> pyarrow.Table:
        """The rows of all labels under each other, with the columns of the Parquet files.

        Args:
            columns: which of them; all where None.
        Raises:
            OptionError: a column that there is none of.
        """
        import pyarrow as pa

        from .row_table import schema_of

        schema = schema_of(self.manifest["extra"])
        chosen = (
            list(schema.names) if columns is None else [named(c, schema.names, "column", "columns") for c in columns]
        )
        parts = [self._table_of(label, chosen).select(chosen) for label in self.labels]
        return pa.concat_tables(parts) if parts else schema.empty_table().select(chosen)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """`table()` as a list of dicts; None where a row was not compared."""
        return self.table().to_pylist()

    def to_pandas(self) -> pandas.DataFrame:
        """`table()` as a data frame.

        Raises:
            OptionError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise OptionError("to_pandas() needs pandas; install weighbridge[pandas].") from error
        return self.table().to_pandas()

    def summary(self, by: str | None = None) -> list[dict[str, Any]]:
        """A dict per other, or per other and group: label, extra columns, counts by status, the group, its numbers.

        The numbers are those of `Comparison.overall`, or with `by` those of `Comparison.summary(by)`.

        Args:
            by: None, "kind", "layer" or "tensor".
        Raises:
            OptionError: `by` is none of them.
        """
        if by is not None:
            named(by, GROUPINGS, "grouping", "by")
        return list(summaries(self.columns_of_others, self.extra, by))

    def __getitem__(self, label: str) -> Comparison:
        """The comparison of an other with the base, as it was; without the bytes read and the seconds.

        Raises:
            KeyError: there is no such label among `labels`.
            FormatError: its rows are damaged.
        """
        from .rebuilding import rebuilt

        if not any(entry["label"] == label and entry["status"] == "done" for entry in self.others):
            raise KeyError(label)
        return rebuilt(self._table_of(label), self.base)

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"Results({os.fspath(self.path)!r}: {len(self.labels)} of {len(self.others)} others against "
            f"{self.base!r}, {len(self.failures)} failed, {self.pending} pending)"
        )


def open_results(path: str | os.PathLike[str]) -> Results:
    """The results of a sweep, from the folder of its `--out`; the sweep may still be running, or have been stopped.

    Raises:
        FormatError: there is no sweep in the folder, or its manifest is broken.
    """
    return Results(path)


def summaries(others: Sequence[OtherRows], extra: Sequence[str], by: str | None) -> Iterator[dict[str, Any]]:
    """The lines of `Results.summary`."""
    for other in others:
        head = {"label": other.entry["label"], **{name: other.entry["extra"].get(name) for name in extra}}
        head |= other.counts
        for key, rows in other.groups(by):
            yield head | ({} if by is None else {by: key}) | summarise(other.sums, rows)


def _other_rows(entry: Mapping[str, Any], table: pyarrow.Table) -> OtherRows:
    statuses = np.array(table.column("status").to_pylist(), dtype=object)
    matched = statuses == "matched"
    totals = Counter(statuses.tolist())
    tensors, kinds, layers = (
        np.array(table.column(name).to_pylist(), dtype=object)[matched] for name in ("tensor", "kind", "layer")
    )
    sums = raw_sums(table)[matched]
    counts = {status: totals[status] for status in STATUSES}
    return OtherRows(entry, counts, tensors, kinds, layers, _without_ledger(*split(sums)))


def raw_sums(table: pyarrow.Table) -> NDArray[np.float64]:
    """(rows, 17) the raw sums in the order of `RAW_COLUMNS`; undefined in rows that were not compared."""
    return np.stack([numbers_of(table.column(name)) for name in RAW_COLUMNS], axis=1)


def split(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The other's self sums (R, 6), the base's (R, 6) and the pair sums (R, 5), each contiguous."""
    parts = (sums[:, :6], sums[:, 6:12], sums[:, 12:])
    first, second, third = (np.ascontiguousarray(part) for part in parts)
    return first, second, third


def _without_ledger(
    other_self: NDArray[np.float64], base_self: NDArray[np.float64], pair: NDArray[np.float64]
) -> Comparison:
    # Metrics and summaries follow from the sums alone; a thousand ledgers of objects would take a minute to build.
    return Comparison(cast(Ledger, None), other_self, base_self, pair)
