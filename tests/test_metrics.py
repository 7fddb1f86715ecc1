"""Every metric from hand-made sums, against plain Python, and at the ends of its range."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.engine.metrics import METRICS, compute, pooled

FINITE = st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda v: v if abs(v) > 1e-6 else 0.0)
VECTORS = st.integers(1, 8).flatmap(lambda n: st.tuples(*[st.lists(FINITE, min_size=n, max_size=n)] * 2))


def sums(x, y):
    """Self sums of x and of y, pair sums of both, by Python's own arithmetic."""

    def own(v):
        finite = [abs(e) for e in v]
        bad = sum(not math.isfinite(e) for e in v)
        return [len(v), math.fsum(finite), math.fsum(v), math.fsum(e * e for e in v), max(finite, default=0.0), bad]

    d = [p - q for p, q in zip(x, y, strict=True)]
    pair = [
        math.fsum(map(abs, d)),
        math.fsum(e * e for e in d),
        math.fsum(p * q for p, q in zip(x, y, strict=True)),
        max(map(abs, d), default=0.0),
        sum(p != q for p, q in zip(x, y, strict=True)),
    ]
    return tuple(np.array(part, np.float64) for part in (own(x), own(y), pair))


def metrics(x, y):
    return {name: float(value) for name, value in compute(*sums(x, y)).items()}


def test_names_and_order():
    assert tuple(compute(*sums([1.0], [2.0]))) == METRICS
    assert tuple(pooled(*(part[None] for part in sums([1.0], [2.0])))) == METRICS


def test_by_hand():
    assert metrics([3.0, 4.0, 0.0], [3.0, 0.0, 4.0]) == {
        "delta": 8 / 3,
        "cosine": 9 / 25,
        "cosine_distance": 1 - 9 / 25,
        "mean_abs": 7 / 3,
        "base_mean_abs": 7 / 3,
        "l2": 5.0,
        "base_l2": 5.0,
        "l2_delta": math.sqrt(32),
        "relative_delta": math.sqrt(32) / 5,
        "max_delta": 4.0,
        "changed": 2 / 3,
        "nonfinite": 0.0,
        "base_nonfinite": 0.0,
    }


@given(VECTORS)
def test_formulas(vectors):
    x, y = vectors
    found = metrics(x, y)
    n = len(x)
    d = [p - q for p, q in zip(x, y, strict=True)]
    norm_x, norm_y, norm_d = (math.sqrt(math.fsum(e * e for e in v)) for v in (x, y, d))
    assert found["delta"] == math.fsum(map(abs, d)) / n
    assert found["mean_abs"] == math.fsum(map(abs, x)) / n
    assert found["base_mean_abs"] == math.fsum(map(abs, y)) / n
    assert (found["l2"], found["base_l2"], found["l2_delta"]) == (norm_x, norm_y, norm_d)
    assert found["max_delta"] == max(map(abs, d))
    assert found["changed"] == sum(p != q for p, q in zip(x, y, strict=True)) / n
    if norm_y:
        assert found["relative_delta"] == norm_d / norm_y
    if norm_x and norm_y:
        cosine = math.fsum(p * q for p, q in zip(x, y, strict=True)) / (norm_x * norm_y)
        assert found["cosine"] == pytest.approx(max(-1.0, min(1.0, cosine)), rel=1e-14, abs=1e-14)
        assert found["cosine_distance"] == pytest.approx(1 - cosine, rel=1e-9, abs=1e-14)
        assert -1 <= found["cosine"] <= 1 and 0 <= found["cosine_distance"] <= 2
    else:
        assert math.isnan(found["cosine"]) and math.isnan(found["cosine_distance"])


@given(VECTORS)
def test_swapped_sides(vectors):
    there, back = metrics(*vectors), metrics(*reversed(vectors))
    for name in ("delta", "cosine", "cosine_distance", "l2_delta", "max_delta", "changed"):
        np.testing.assert_equal(there[name], back[name])
    assert (there["mean_abs"], there["l2"]) == (back["base_mean_abs"], back["base_l2"])


@given(st.lists(FINITE.filter(bool), min_size=1, max_size=9))
def test_equal_vectors_are_exactly_equal(x):
    found = metrics(x, x)
    assert (found["cosine"], found["cosine_distance"], found["changed"], found["relative_delta"]) == (1, 0, 0, 0)


@given(st.lists(FINITE.filter(bool), min_size=1, max_size=9))
def test_the_sign_of_the_cosine(x):
    found = metrics([-e for e in x], x)
    assert found["cosine"] == pytest.approx(-1, rel=1e-14) and found["cosine"] >= -1
    assert found["cosine_distance"] == pytest.approx(2, rel=1e-14) and found["cosine_distance"] <= 2


@pytest.mark.parametrize("scale", [1e-3, 0.5, 3.0, 100.0])
def test_parallel_vectors_keep_within_the_range(scale):
    y = [0.1 * k - 0.7 for k in range(1, 50)]
    found = metrics([scale * e for e in y], y)
    assert found["cosine"] <= 1 and found["cosine"] == pytest.approx(1, rel=1e-14)
    assert 0 <= found["cosine_distance"] < 1e-12


@pytest.mark.parametrize(("x", "y"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0]), ([0.0], [0.0]), ([], [])])
def test_no_direction(x, y):
    found = metrics(x, y)
    assert math.isnan(found["cosine"]) and math.isnan(found["cosine_distance"])


def test_beside_a_zero_base():
    assert metrics([1.0], [0.0])["relative_delta"] == math.inf
    assert math.isnan(metrics([0.0], [0.0])["relative_delta"])


def test_no_elements():
    found = metrics([], [])
    assert all(math.isnan(found[name]) for name in ("delta", "mean_abs", "base_mean_abs", "changed", "cosine"))
    assert found["l2"] == found["base_l2"] == found["l2_delta"] == found["max_delta"] == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_is_counted_and_seen(value):
    with np.errstate(invalid="ignore"):
        x, y = np.array([value, 1.0]), np.array([1.0, 1.0])
        d = x - y
        own = np.array([2, np.abs(x).sum(), x.sum(), (x * x).sum(), np.abs(x).max(), 1])
        pair = np.array([np.abs(d).sum(), (d * d).sum(), (x * y).sum(), np.abs(d).max(), 1])
    found = compute(own, np.array([2.0, 2, 2, 2, 1, 0]), pair)
    assert (found["nonfinite"], found["base_nonfinite"], found["changed"]) == (1, 0, 0.5)
    assert np.isnan(found["cosine"]) and np.isnan(found["cosine_distance"])
    for name in ("delta", "l2", "l2_delta", "relative_delta", "max_delta", "mean_abs"):
        np.testing.assert_equal(float(found[name]), abs(value))
    assert found["base_l2"] == math.sqrt(2)


def test_equal_tensors_with_infinities_have_no_direction():
    own = np.array([2, math.inf, math.inf, math.inf, math.inf, 1])
    found = compute(own, own, np.array([math.nan, math.nan, math.inf, math.nan, 0]))
    assert np.isnan(found["cosine"]) and found["changed"] == 0


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6, 1e-9, 1e-12])
def test_small_distances_do_not_cancel(epsilon):
    """Two unit vectors at a small angle, in closed form: 1 - cos t = 2 sin(t/2)**2."""
    y, x = [1.0, 0.0], [1.0, epsilon]
    angle = math.atan2(epsilon, 1.0)
    assert metrics(x, y)["cosine_distance"] == pytest.approx(2 * math.sin(angle / 2) ** 2, rel=1e-9)


@given(st.lists(VECTORS, min_size=1, max_size=5))
def test_pooled_is_the_metrics_of_all_elements(rows):
    parts = [np.array(part) for part in zip(*(sums(x, y) for x, y in rows), strict=True)]
    found = pooled(*parts)
    wanted = metrics([e for x, _ in rows for e in x], [e for _, y in rows for e in y])
    for name in METRICS:
        assert type(found[name]) is float
        assert found[name] == pytest.approx(wanted[name], rel=1e-9, abs=1e-12, nan_ok=True), name


def test_pooled_of_no_rows():
    found = pooled(np.zeros((0, 6)), np.zeros((0, 6)), np.zeros((0, 5)))
    assert math.isnan(found["delta"]) and math.isnan(found["cosine"]) and found["nonfinite"] == 0


def test_pooled_maximum_keeps_nan():
    own, pair = np.ones((2, 6)), np.ones((2, 5))
    pair[1, 3] = math.nan
    assert math.isnan(pooled(own, own, pair)["max_delta"])


def test_any_leading_shape():
    own, other, pair = (np.broadcast_to(part, (3, 4, part.size)) for part in sums([1.0, 2.0], [2.0, 2.0]))
    assert all(value.shape == (3, 4) for value in compute(own, other, pair).values())


def test_the_sums_are_left_alone():
    parts = [part[None] for part in sums([1.0, 2.0], [2.0, 2.0])]
    copies = [part.copy() for part in parts]
    pooled(*parts)
    compute(*parts)
    assert all(np.array_equal(part, copy) for part, copy in zip(parts, copies, strict=True))
