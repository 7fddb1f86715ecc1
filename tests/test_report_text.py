"""Names and numbers as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.engine.report.text import count, elide, plain, size, speed, value


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.layer.0.weight", "encoder.layer.0.weight"),
        ("poids.é.重み", "poids.é.重み"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("a\u202eb", "a\\u202eb"),
        ("a\x9bb", "a\\x9bb"),
        ("a\ud800b", "a\\ud800b"),
    ],
)
def test_plain(name, expected):
    assert plain(name) == expected


@given(st.text())
def test_plain_is_always_printable(name):
    assert plain(name).isprintable()


@given(st.text(), st.integers(4, 60))
def test_elided_fits_and_keeps_both_ends(name, width):
    short = elide(name, width)
    assert len(short) <= max(width, 0) and short[:1] == name[:1] and short[-1:] == name[-1:]


def test_elided_keeps_the_layer_number():
    assert elide("model.decoder.layers.31.self_attn.q_proj.weight", 40).endswith(".31.self_attn.q_proj.weight")
    assert elide("short", None) == "short"


@pytest.mark.parametrize(
    ("number", "distance", "expected"),
    [
        (None, None, ""),
        (math.nan, None, "nan"),
        (-math.inf, None, "-inf"),
        (0.0, None, "0"),
        (0, None, "0"),
        (1.0, 0.0, "1"),
        (1 - 3.2e-9, 3.2e-9, "1-3.2e-09"),
        (0.99726, 0.00274, "0.99726"),
        (0.00668, None, "0.00668"),
        (-0.5, None, "-0.50000"),
        (12.3456789, None, "12.346"),
        (123456.7, None, "123457"),
        (6.68e-7, None, "6.68e-07"),
        (1.5e12, None, "1.50e+12"),
    ],
)
def test_value(number, distance, expected):
    assert value(number, distance) == expected


def test_sizes_and_speeds():
    assert [size(n) for n in (0, 999, 1000, 438_000_000, 1_760_000_000, 5_400_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "438.0 MB",
        "1.76 GB",
        "5.40 TB",
    ]
    assert speed(880_000_000, 0.4) == "read 880.0 MB in 0.40 s, 2.20 GB/s"
    assert speed(3_200, 0.001) == "read 3.2 kB in 1 ms, 3.2 MB/s"
    assert speed(181_700_000, 0.0211) == "read 181.7 MB in 21 ms, 8.61 GB/s"
    assert speed(40, 0.00025) == "read 40 B in 0.25 ms, 160.0 kB/s"
    assert speed(0, 0.0) == "read 0 B in 0 ms"
    assert [count(1, "tensor"), count(1234, "tensor")] == ["1 tensor", "1,234 tensors"]
