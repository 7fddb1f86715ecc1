"""Arrow arrays from buffers: what pyarrow.array would have made, without importing pandas."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.engine.arrow import array_of, numbers_of

INT64 = st.integers(-(2**63), 2**63 - 1)
COLUMNS = [
    (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    (pa.int64(), INT64),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.list_(pa.int64()), st.lists(INT64, max_size=4)),
]


@pytest.mark.parametrize(("kind", "values"), COLUMNS, ids=[str(kind) for kind, _ in COLUMNS])
@settings(deadline=None)
@given(data=st.data())
def test_values_come_back(kind, values, data):
    column = data.draw(st.lists(st.none() | values, max_size=20))
    made = array_of(column, kind)
    made.validate(full=True)
    assert made.to_pylist() == column and made.equals(pa.array(column, kind))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(allow_nan=False), st.booleans()), max_size=20))
def test_numbers_with_a_mask(pairs):
    values, there = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], bool)
    made = array_of(values, pa.float64(), there)
    assert made.to_pylist() == [value if here else None for value, here in pairs]
    column = pa.chunked_array([made, made.slice(len(made) // 2)])
    twice = np.concatenate([there, there[len(made) // 2 :]])
    np.testing.assert_array_equal(
        numbers_of(column)[twice], [value for value in column.to_pylist() if value is not None]
    )


def test_integers_come_as_floats():
    assert numbers_of(pa.chunked_array([pa.array([1, 2**40])])).tolist() == [1.0, 2.0**40]
    assert numbers_of(pa.chunked_array([], pa.int64())).tolist() == []


def test_text_that_is_no_unicode_is_escaped():
    assert array_of(["caf\udce9"], pa.string()).to_pylist() == ["caf\\udce9"]


@pytest.mark.parametrize(("call", "pandas"), [("array_of([1.0, None], pa.float64())", False), ("pa.scalar(1.0)", True)])
def test_pandas_is_not_imported(call, pandas):
    pytest.importorskip("pandas")
    code = f"import sys, pyarrow as pa; from weighbridge.engine.arrow import array_of, numbers_of; made = {call}\n"
    code += (
        "numbers_of(pa.chunked_array([made])) if isinstance(made, pa.Array) else None; print('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.split()[-1] == (
        str(pandas).encode()
    )
