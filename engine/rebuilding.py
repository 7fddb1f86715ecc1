"""The rows of one other in a sweep's folder -> the `Comparison` that they came from."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.decoders import DECODERS
from .checkpoint import Checkpoint, TensorRef
from .errors import FormatError
from .ledger import Ledger, LedgerRow
from .matching import _RULE_ORDER
from .results import raw_sums, split
from .table import LEDGER_COLUMNS, Comparison

if TYPE_CHECKING:
    import pyarrow

__all__ = ["rebuilt"]

_SHAPES = re.compile(r"\(.*?\) in the other and \((.*?)\) in the base;")


def rebuilt(table: pyarrow.Table, base: str) -> Comparison:
    """The comparison, with the numbers, names, statuses, reasons and shapes that it had.

    What the folder does not keep is empty: files and offsets, configs, the notes of the matching, bytes and seconds.
    The shape in the base of a pair that was skipped is taken to be that in the other.

    Args:
        table: all rows and columns of one other.
        base: the label of the base.
    Raises:
        FormatError: the table has no rows.
    """
    columns = (*LEDGER_COLUMNS, "reason", "other", "base_identity", "other_identity")
    records = table.select(list(columns)).to_pylist()
    if not records:
        raise FormatError("the rows of an other are damaged (there are none); run the sweep again.")
    rows = tuple(_row(record) for record in records)
    matched = np.array([row.status == "matched" for row in rows])
    first = records[0]
    base_side = _checkpoint(base, first["base_identity"], [row.base for row in rows])
    other_side = _checkpoint(first["other"], first["other_identity"], [row.other for row in rows])
    alone = ("only_in_other", "only_in_base")
    used = {rule for row in rows if row.status not in alone for rule in row.rule.split("+")}
    rules = tuple(rule for rule in _RULE_ORDER if rule in used)
    return Comparison(Ledger(base_side, other_side, rows, rules), *split(raw_sums(table)[matched]))


def _row(record: dict[str, Any]) -> LedgerRow:
    shape = tuple(record["shape"])
    rows = tuple(record["rows"]) if record["rows"] is not None else None
    base_shape = shape
    if rows is not None:
        base_shape = (rows[1] if shape[0] == rows[0] else rows[0], *shape[1:])
    elif record["status"] == "shape_mismatch" and (found := _SHAPES.match(record["reason"])):
        base_shape = tuple(int(part) for part in found[1].split(",") if part.strip())
    return LedgerRow(
        **{name: record[name] for name in ("tensor", "base_tensor", "status", "rule", "kind", "layer", "reason")},
        other=_ref(record["tensor"], record["dtype"], shape),
        base=_ref(record["base_tensor"], record["base_dtype"], base_shape),
        rows=rows,
    )


def _ref(name: str | None, dtype: str, shape: tuple[int, ...]) -> TensorRef | None:
    if name is None:
        return None
    itemsize = DECODERS[dtype].itemsize if dtype in DECODERS else 0
    return TensorRef(name, dtype, shape, math.prod(shape) * itemsize, "", None)


def _checkpoint(label: str, identity: str, refs: list[TensorRef | None]) -> Checkpoint:
    return Checkpoint(label, label, "", {ref.name: ref for ref in refs if ref is not None}, {}, (), identity)
