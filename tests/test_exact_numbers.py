"""Numbers that lie: weights made to be summed wrongly, the right answers worked out in fractions, on every backend."""

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from safetensors.numpy import save_file

import weighbridge
from weighbridge.engine.metrics import METRICS
from weighbridge.kernels.sums import PAIR_SUMS, SELF_SUMS

from support import portable_backend
from support.kernel_cases import BACKENDS, raw, run

pytestmark = pytest.mark.interpreted

TOLERANCE = Fraction(1, 10**12)
LEAST = Fraction(5e-324)  # below the normal numbers a result is right to the last bit that there is
TINY, HUGE = 5e-324, 1.7976931348623157e308
BEYOND = Fraction(2**1024 - 2**970)  # the least that rounds to infinity
BIG32, SMALL32 = float(np.float32(3.4e38)), float(np.float32(1e-45))


EVERY = {**BACKENDS, **portable_backend.BACKENDS}


@pytest.fixture(params=EVERY.values(), ids=EVERY)
def backend(request):
    return request.param


# name -> (x, y), both finite
FINITE = {
    "one beside 1e16 and back": ([1e16, 1.0, -1e16], [1.0, 1.0, 1.0]),
    "one beside 1e300 and back": ([1e300, 1.0, -1e300] * 5, [1.0, 1e-300, 1.0] * 5),
    "sum cancels to the last bit": ([1.0, 2.0**-52, -1.0], [1.0, -1.0, 2.0**-52]),
    "the dot product cancels": ([1e8, 1.0, -1e8, 3.0], [1e8, 1e-8, 1e8, 1e-9]),
    "the dot product is exactly 0": ([3.0, -1.0] * 50, [1.0, 3.0] * 50),
    "the difference is one bit of 1e300": ([1e300, 1.0], [math.nextafter(1e300, math.inf), 1.0]),
    "1e±300": ([1e300, 1e-300, -1e300, 1e-300], [1e-300, 1e300, 1e300, -1e-300]),
    "squares overflow": ([1e200, -1e200, 1.0], [1e200, 1e200, 1.0]),
    "squares underflow": ([1e-200] * 3, [3e-200] * 3),
    "the sum overflows on the way": ([HUGE, HUGE, -HUGE, -HUGE, 1.0], [1.0, -1.0, 1.0, -1.0, 1.0]),
    "the difference overflows": ([HUGE, 1.0], [-HUGE, 1.0]),
    "subnormal": ([TINY, -TINY, 3 * TINY], [2 * TINY, TINY, -TINY]),
    "subnormal against ones": ([TINY, 1.0, 1e-310], [1.0, TINY, 1.0]),
    "the smallest normal and its neighbour": ([2.0**-1022, 2.0**-1022], [math.nextafter(2.0**-1022, 0), 2.0**-1022]),
    "zeros of both signs": ([0.0, -0.0, 0.0, -0.0], [-0.0, 0.0, 0.0, -0.0]),
    "a zero of either sign among numbers": ([0.0, 1.5, -0.0], [-0.0, 1.5, 0.0]),
    "harmonic, signs in turn": ([(-1.0) ** n / (n + 1) for n in range(5000)], [1.0 / (n + 1) for n in range(5000)]),
    "powers of two, all of them": ([2.0**n for n in range(-1074, 1024)], [-(2.0**n) for n in range(-1074, 1024)]),
    "pairs that cancel far apart": ([float(n) ** 5 for n in range(-900, 901)], [1.0] * 1801),
}
# name -> (x, y) as float32
NARROW = {
    "one beside 1e30 and back": ([1e30, 1.0, -1e30] * 7, [1.0] * 21),
    "the ends of float32": ([BIG32, -BIG32, SMALL32], [BIG32, BIG32, -SMALL32]),
    "subnormal": ([SMALL32, 3 * SMALL32, -SMALL32], [SMALL32, -SMALL32, 1.0]),
    "2**24 and ones": ([2.0**24, 1.0] * 300, [1.0, 2.0**24] * 300),
    "zeros of both signs": ([0.0, -0.0, 1.0], [-0.0, 0.0, 1.0]),
    "one bit apart": ([1.0, 16777217.0], [float(np.nextafter(np.float32(1), np.float32(2))), 1.0]),
}


def true_sums(x, y):
    """Both sides' self sums and the pair's in exact arithmetic, as fractions."""
    x, y = [Fraction(each) for each in x], [Fraction(each) for each in y]

    def selfs(v):
        return len(v), sum(map(abs, v)), sum(v), sum(each * each for each in v), max(map(abs, v)), 0

    d = [a - b for a, b in zip(x, y, strict=True)]
    pair = (
        sum(map(abs, d)),
        sum(each * each for each in d),
        sum(a * b for a, b in zip(x, y, strict=True)),
        max(map(abs, d)),
        sum(each != 0 for each in d),
    )
    return selfs(x), selfs(y), pair


def assert_is(found, exact, what):
    """A float64 is an exact number, to 1e-12 relative, or infinite where no float64 is as large."""
    exact = Fraction(exact)
    if abs(exact) >= BEYOND:
        assert math.isinf(found) and (found > 0) == (exact > 0), f"{what} is {found} and should overflow"
        return
    assert math.isfinite(found), f"{what} is {found} and should be {float(exact)}"
    assert abs(Fraction(found) - exact) <= max(TOLERANCE * abs(exact), LEAST), f"{what}: {found} for {float(exact)}"


def check(backend, x, y, dtype):
    code = {np.float64: "F64", np.float32: "F32"}[dtype]
    stack = raw(y, x, dtype=dtype)
    x, y = ([float(each) for each in np.asarray(side, dtype)] for side in (x, y))
    selfs, pairs = run(backend, [stack], [code, code])
    true_x, true_y, true_pair = true_sums(x, y)
    for found, true, names in (
        (selfs[0, 1], true_x, SELF_SUMS),
        (selfs[0, 0], true_y, SELF_SUMS),
        (pairs[0, 0], true_pair, PAIR_SUMS),
    ):
        for value, exact, name in zip(found.tolist(), true, names, strict=True):
            assert_is(value, exact, name)


@pytest.mark.parametrize("name", FINITE)
def test_float64(backend, name):
    check(backend, *FINITE[name], np.float64)


@pytest.mark.parametrize("name", NARROW)
def test_float32(backend, name):
    check(backend, *NARROW[name], np.float32)


@pytest.mark.parametrize("name", NARROW)
def test_float32_against_float64(backend, name):
    """The same values on both sides of different dtypes."""
    x, y = NARROW[name]
    x = [float(each) for each in np.asarray(x, np.float32)]
    stack = [*raw(np.asarray(y, np.float32), dtype=np.float32), *raw(x, dtype=np.float64)]
    _, pairs = run(backend, [stack], ["F32", "F64"])
    _, _, true = true_sums(x, [float(each) for each in np.asarray(y, np.float32)])
    for value, exact, what in zip(pairs[0, 0].tolist(), true, PAIR_SUMS, strict=True):
        assert_is(value, exact, what)


# What is not finite: by the rules of IEEE 754, worked out by hand. Σ|d|, Σd², Σxy, max|d|, differing

INF, NAN = math.inf, math.nan
SPECIAL = {
    "inf - inf": ([INF, 1.0], [INF, 1.0], (NAN, NAN, INF, NAN)),
    "inf + inf": ([INF, 1.0], [-INF, 1.0], (INF, INF, -INF, INF)),
    "inf against a number": ([INF, 1.0], [2.0, 1.0], (INF, INF, INF, INF)),
    "inf against zero": ([INF, 1.0], [0.0, 1.0], (INF, INF, NAN, INF)),
    "both infinities in one": ([INF, -INF], [1.0, 1.0], (INF, INF, NAN, INF)),
    "NaN": ([NAN, 1.0], [1.0, 1.0], (NAN, NAN, NAN, NAN)),
    "NaN on both sides": ([NAN, 1.0], [NAN, 1.0], (NAN, NAN, NAN, NAN)),
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["F64", "F32"])
def test_what_is_not_finite(backend, name, dtype):
    x, y, wanted = SPECIAL[name]
    code = {np.float64: "F64", np.float32: "F32"}[dtype]
    selfs, pairs = run(backend, [raw(y, x, dtype=dtype)], [code, code])
    np.testing.assert_array_equal(pairs[0, 0, :4], wanted)
    assert pairs[0, 0, 4] == sum(a != b for a, b in zip(x, y, strict=True))
    for operand, values in ((1, x), (0, y)):
        assert selfs[0, operand, 5] == sum(not math.isfinite(value) for value in values)


PAYLOADS = {
    "F64": [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0xFFF7FFFFFFFFFFFF, 0x7FFFFFFFFFFFFFFF],
    "F32": [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF],
    "F16": [0x7E00, 0xFE00, 0x7C01, 0xFDFF, 0x7FFF],
    "BF16": [0x7FC0, 0xFFC0, 0x7F81, 0xFFBF, 0x7FFF],
}


@pytest.mark.parametrize("code", PAYLOADS)
def test_every_kind_of_nan_is_one(backend, code):
    """Quiet and signalling, either sign, any payload: counted, unequal to itself, and never a number."""
    width = {"F64": "Q", "F32": "I", "F16": "H", "BF16": "H"}[code]
    patterns = [*PAYLOADS[code], 0, 0]
    data = np.frombuffer(struct.pack(f"<{len(patterns)}{width}", *patterns), np.uint8)
    selfs, pairs = run(backend, [[data, data]], [code, code])
    assert selfs[0, :, 5].tolist() == [5.0, 5.0]
    assert pairs[0, 0, 4] == 5
    assert np.isnan(selfs[0, :, 1:5]).all() and np.isnan(pairs[0, 0, :4]).all()


# Metrics: what is printed is true, or NaN


def true_metrics(x, y):
    """Metrics out of exact sums; square roots to 60 digits and more."""
    (n, sum_x, _, xx, _, _), (_, sum_y, _, yy, _, _), (sum_d, dd, dot, most, differing) = true_sums(x, y)
    l2, base_l2, l2_delta = _root(xx), _root(yy), _root(dd)
    return {
        "delta": Fraction(sum_d) / n,
        "mean_abs": Fraction(sum_x) / n,
        "base_mean_abs": Fraction(sum_y) / n,
        "l2": l2,
        "base_l2": base_l2,
        "l2_delta": l2_delta,
        "max_delta": most,
        "changed": Fraction(differing, n),
        "cosine": dot / (l2 * base_l2) if xx and yy else None,
        "relative_delta": l2_delta / base_l2 if yy else None,
    }


def _root(square):
    square = Fraction(square)
    if not square:
        return Fraction(0)
    shift = 2 * max(0, 300 - (square.numerator.bit_length() - square.denominator.bit_length()) // 2)
    return Fraction(math.isqrt((square.numerator << shift) // square.denominator), 1 << shift // 2)


@pytest.mark.parametrize("name", FINITE)
def test_no_metric_lies(tmp_path, name):
    """Right to 1e-11, or NaN, or infinite where no float64 is as large; 0 where the truth is below the smallest."""
    x, y = FINITE[name]
    for file, values in (("x", x), ("y", y)):
        save_file({"weight": np.array(values)}, tmp_path / f"{file}.safetensors")
    (row,) = weighbridge.compare(tmp_path / "y.safetensors", tmp_path / "x.safetensors").rows
    for metric, exact in true_metrics(x, y).items():
        found = row.metrics[metric]
        if exact is None:
            assert math.isnan(found) or (metric == "relative_delta" and math.isinf(found)), metric
        elif not math.isnan(found):
            if abs(exact) >= BEYOND or (metric == "delta" and row.metrics["max_delta"] == math.inf):
                assert math.isinf(found), metric
            else:
                assert math.isfinite(found), (metric, found)
                slack = max(abs(exact) / 10**11, LEAST, Fraction(1, 10**15) if metric == "cosine" else LEAST)
                assert abs(Fraction(found) - exact) <= slack, (metric, found, float(exact))
    assert set(row.metrics) == set(METRICS)
    assert -1 <= row.metrics["cosine"] <= 1 or math.isnan(row.metrics["cosine"])


@pytest.mark.parametrize("name", ["squares overflow", "squares underflow", "1e±300"])
def test_a_norm_that_float64_does_not_hold_is_nan(tmp_path, name):
    x, y = FINITE[name]
    for file, values in (("x", x), ("y", y)):
        save_file({"weight": np.array(values)}, tmp_path / f"{file}.safetensors")
    (row,) = weighbridge.compare(tmp_path / "y.safetensors", tmp_path / "x.safetensors").rows
    assert all(math.isnan(row.metrics[metric]) for metric in ("l2", "base_l2", "l2_delta", "cosine", "relative_delta"))
    assert math.isfinite(row.metrics["delta"]) and row.metrics["delta"] > 0
