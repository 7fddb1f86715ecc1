"""Values into Arrow arrays and back by their buffers, as the Arrow columnar format lays them out.

`pyarrow.array`, `pyarrow.scalar` and `to_numpy` look whether they are given anything of pandas, and import it for that
where it is installed: 0.4 s, as long as a sweep takes to read several gigabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow

__all__ = ["array_of", "numbers_of"]


def array_of(values: Sequence[Any] | NDArray[Any], kind: pyarrow.DataType, there: Any = None) -> pyarrow.Array:
    """An Arrow array of texts, numbers, booleans or lists of integers.

    Args:
        values: n of them; None is null.
        kind: string, bool, int64, float64, or list of int64.
        there: (n,) booleans, false where a value is null; by default all that are not None.
    """
    import pyarrow as pa

    if there is None:
        there = [value is not None for value in values]
    bits = pa.py_buffer(np.packbits(np.asarray(there, bool), bitorder="little"))
    if pa.types.is_string(kind):
        texts = [(value or "").encode("utf-8", "backslashreplace") for value in values]
        return pa.Array.from_buffers(kind, len(values), [bits, _offsets(texts), pa.py_buffer(b"".join(texts))])
    if pa.types.is_list(kind):
        lists = [value or [] for value in values]
        inner = array_of([number for each in lists for number in each], kind.value_type)
        return pa.Array.from_buffers(kind, len(values), [bits, _offsets(lists)], children=[inner])
    if not isinstance(values, np.ndarray):
        values = np.array([value if value is not None else 0 for value in values], kind.to_pandas_dtype())
    data = np.packbits(values, bitorder="little") if pa.types.is_boolean(kind) else np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(data)])


def _offsets(parts: Sequence[Any]) -> pyarrow.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.array(list(accumulate(map(len, parts), initial=0)), np.int32))


def numbers_of(column: pyarrow.ChunkedArray) -> NDArray[np.float64]:
    """A column of numbers as float64; what stands where it is null is undefined."""
    parts = [np.zeros(0)]
    for chunk in column.chunks:
        data = np.frombuffer(chunk.buffers()[1] or b"", chunk.type.to_pandas_dtype())
        parts.append(data[chunk.offset : chunk.offset + len(chunk)].astype(np.float64))
    return np.concatenate(parts)
