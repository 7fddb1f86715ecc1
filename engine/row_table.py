"""The rows of one comparison as a Parquet file: the columns of `table.COLUMNS`, label, extras, identities, raw sums."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from .arrow import array_of
from .errors import OptionError
from .metrics import METRICS
from .others import Other
from .summary import COUNTS
from .table import COLUMNS, LEDGER_COLUMNS, Comparison, ledger_row_dict

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "EXTRA_TYPES",
    "RAW_COLUMNS",
    "comparison_table",
    "extra_types",
    "parquet_bytes",
    "read_parquet",
    "schema_of",
    "with_extras",
]

RAW_COLUMNS = (
    *(f"other_{name}" for name in SELF_SUMS),
    *(f"base_{name}" for name in SELF_SUMS),
    *PAIR_SUMS,
)
"""The raw sums in the order of `Comparison.other_self`, `.base_self`, `.pair`; `base_nonfinite` is a metric as well."""

_FIXED = (*COLUMNS, "label", "base_identity", "other_identity", *RAW_COLUMNS)
EXTRA_TYPES = {"bool": "bool_", "int64": "int64", "double": "float64", "string": "string"}
"""What an extra column can be, and what Arrow calls it."""

_INTEGERS = ("layer", "elements", *COUNTS)
_LISTS = ("shape", "rows")
_METADATA = b"weighbridge"
_INT64 = 1 << 63


def extra_types(extras: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Extra column -> "bool", "int64", "double" or "string", decided over all others; sorted as first met.

    Raises:
        OptionError: an extra column has the name of one of the results' own.
    """
    kinds: dict[str, set[type]] = {}
    for extra in extras:
        for name, value in extra.items():
            kinds.setdefault(name, set())
            if value is not None:
                # What no column of integers holds is kept as text.
                kinds[name].add(str if isinstance(value, int) and not -_INT64 <= value < _INT64 else type(value))
    for name in kinds:
        if name in _FIXED:
            raise OptionError(f'the extra column "{name}" has the name of a column of the results; rename it.')
    return {name: _type_of(found) for name, found in kinds.items()}


def _type_of(found: set[type]) -> str:
    if found == {bool}:
        return "bool"
    if found == {int}:
        return "int64"
    return "double" if found and found <= {int, float} else "string"


def schema_of(extras: Mapping[str, str]) -> pyarrow.Schema:
    """The schema of every file of a sweep with these extra columns."""
    import pyarrow as pa

    fields = [("label", pa.string()), *((name, getattr(pa, EXTRA_TYPES[kind])()) for name, kind in extras.items())]
    for name in dict.fromkeys((*COLUMNS, "base_identity", "other_identity", *RAW_COLUMNS)):
        if name in _LISTS:
            kind = pa.list_(pa.int64())
        elif name in _INTEGERS:
            kind = pa.int64()
        elif name in METRICS or name in RAW_COLUMNS:
            kind = pa.float64()
        else:
            kind = pa.string()
        fields.append((name, kind))
    return pa.schema(fields)


def comparison_table(comparison: Comparison, other: Other, extras: Mapping[str, str], base: str) -> pyarrow.Table:
    """A row for every row of the ledger; metrics and sums are null where it was not compared.

    Args:
        comparison: the base against this other.
        other: its label and extra columns.
        extras: name -> type of the extra columns of the whole sweep.
        base: the label of the base.
    """
    import pyarrow as pa

    schema = schema_of(extras)
    rows = comparison.ledger.rows
    count = len(rows)
    records = [ledger_row_dict(row) for row in rows]
    columns: dict[str, Any] = {name: [record[name] for record in records] for name in (*LEDGER_COLUMNS, "reason")}
    matched = np.array([row.status == "matched" for row in rows], bool)
    numbers = dict(comparison.metrics)
    sums = np.concatenate([comparison.other_self, comparison.base_self, comparison.pair], axis=1)
    numbers |= {name: sums[:, place] for place, name in enumerate(RAW_COLUMNS) if name not in METRICS}
    place = np.cumsum(matched) - 1
    for name, values in numbers.items():
        whole = values[place] if len(values) else np.zeros(count)
        columns[name] = array_of(
            whole.astype(np.int64) if name in _INTEGERS else whole, schema.field(name).type, matched
        )
    constant = {
        "label": other.label,
        "base": base,
        "other": other.source,
        "base_identity": comparison.ledger.base.identity,
        "other_identity": comparison.ledger.other.identity,
    } | _extra_values(other, extras)
    columns |= {name: [value] * count for name, value in constant.items()}
    arrays = [
        columns[name] if name in numbers else array_of(columns[name], schema.field(name).type) for name in schema.names
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _extra_values(other: Other, extras: Mapping[str, str]) -> dict[str, Any]:
    convert: dict[str, Callable[[Any], Any]] = {"string": _text, "double": float, "int64": int, "bool": bool}
    given = {name: other.extra.get(name) for name in extras}
    return {name: None if value is None else convert[extras[name]](value) for name, value in given.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def with_extras(table: pyarrow.Table, other: Other, extras: Mapping[str, str]) -> pyarrow.Table:
    """The same rows with the label and extra columns as they are asked for now."""
    import pyarrow as pa

    schema = schema_of(extras)
    values = {"label": other.label, "other": other.source} | _extra_values(other, extras)
    arrays = [
        array_of([values[name]] * table.num_rows, schema.field(name).type)
        if name in values
        else table.column(name).combine_chunks()
        for name in schema.names
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def parquet_bytes(table: pyarrow.Table, key: Mapping[str, Any]) -> bytes:
    """The table as a Parquet file; equal tables and keys give equal bytes.

    Args:
        table: what `comparison_table` made.
        key: what the rows follow from; kept in the file, see `read_parquet`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    kept = table.replace_schema_metadata({_METADATA: json.dumps(dict(key), sort_keys=True).encode()})
    pq.write_table(
        kept,
        sink,
        compression="zstd",
        use_dictionary=list(_DICTIONARY),
        write_statistics=False,
        write_page_checksum=True,  # a bit that flips on a disk is then an error and not a number
    )
    return sink.getvalue().to_pybytes()


# Columns of few values. All others are stored plainly: a dictionary of distinct numbers costs time and saves nothing.
_DICTIONARY = ("status", "rule", "kind", "dtype", "base_dtype", "label", "base", "other", "reason")


def read_parquet(path: str, columns: Sequence[str] | None = None) -> tuple[pyarrow.Table | None, dict[str, Any]]:
    """The rows (None where no columns are asked for, as []) and the key of a file that `parquet_bytes` made."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        key = json.loads((file.schema_arrow.metadata or {}).get(_METADATA, b"{}"))
        if columns is not None and not columns:
            return None, key
        return file.read(columns=list(columns) if columns is not None else None).replace_schema_metadata(None), key
