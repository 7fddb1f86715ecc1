"""Sums of adversarial data against exact arithmetic: cancellation, dynamic range, 64-bit integers, anything at all."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weighbridge.engine.metrics import compute
from weighbridge.kernels import reference
from weighbridge.kernels.layout import BLOCK
from weighbridge.kernels.sums import CHUNK

from support.kernel_cases import BACKENDS, SELF_EXACT, TWO, check, check_against_reference, exact, raw, run

RNG = np.random.default_rng(20)
SIZE = 3 * BLOCK + 77
FLOAT = {"F64": np.float64, "F32": np.float32}
GAUSS = RNG.normal(size=(3, SIZE))
SIGNS = np.where(np.arange(SIZE - 1) % 2, 1.0, -1.0)


def mirrored(half):
    """Zero in exact arithmetic, every element cancelled by one far away."""
    return np.concatenate([half, -half[::-1]])


def orthogonal(half):
    """x, y with Σxy = 0 exactly, both full."""
    return np.concatenate([half, half]), np.concatenate([half[::-1], -half[::-1]])


# name -> (x, y); both in float32 and float64
CANCELLING = {
    "1e30, 1, -1e30": ([1e30, 1, -1e30], [1, 1, 1]),
    "1e30, 1, -1e30 in other lanes": (np.r_[1e30, np.zeros(40), 1, np.zeros(7), -1e30], np.ones(50)),
    "1e30, 1, -1e30 in other blocks": (np.r_[1e30, np.zeros(BLOCK), 1, np.zeros(BLOCK), -1e30], np.ones(2 * BLOCK + 3)),
    "mirrored": (mirrored(GAUSS[0]), np.ones(2 * SIZE)),
    "mirrored and a little": (np.r_[mirrored(GAUSS[0]), 1e-9], np.ones(2 * SIZE + 1)),
    "blocks that cancel": (np.tile(np.r_[GAUSS[0, :BLOCK], -GAUSS[0, :BLOCK]], 2), np.tile(GAUSS[1, :BLOCK], 4)),
    "zero-sum signs": (SIGNS, -SIGNS),
    "orthogonal": orthogonal(GAUSS[0]),
    "orthogonal and a little": tuple(np.r_[side, 1e-8] for side in orthogonal(GAUSS[0])),
    "nearly orthogonal": (GAUSS[0], GAUSS[1]),
    "opposite": (GAUSS[0], -GAUSS[0]),
    "disjoint supports": (GAUSS[0] * (np.arange(SIZE) % 3 == 0), GAUSS[1] * (np.arange(SIZE) % 3 == 1)),
    "one common element": (GAUSS[0] * (np.arange(SIZE) % 7 == 0), GAUSS[1] * (np.arange(SIZE) % 13 == 0)),
    "x = 100 y": (100 * GAUSS[0], GAUSS[0]),
    "x = -1e-6 y": (-1e-6 * GAUSS[0], GAUSS[0]),
    "huge mean": (1 + 1e-7 * GAUSS[0], 1 + 1e-7 * GAUSS[1]),
    "huge mean against noise": (1 + 1e-7 * GAUSS[0], 1e-7 * GAUSS[1]),
    "huge mean, signs": ((1 + 1e-7 * GAUSS[0]) * np.r_[SIGNS, 1], 1 + 1e-7 * GAUSS[1]),
    "heavy tails": (GAUSS[0] / GAUSS[1] ** 3, GAUSS[2] / GAUSS[0] ** 3),
    "36 decades": (GAUSS[0] * 10.0 ** RNG.uniform(-18, 18, SIZE), GAUSS[1] * 10.0 ** RNG.uniform(-18, 18, SIZE)),
    "differ in the last bit": (GAUSS[0], np.nextafter(GAUSS[0].astype(np.float32), np.float32(9)).astype(np.float64)),
}

# float64 only: squares and products beyond the range
RANGES = {
    "1e-300 to 1e300": (10.0 ** RNG.uniform(-300, 300, SIZE), GAUSS[0] * 10.0 ** RNG.uniform(-300, 300, SIZE)),
    "squares overflow": (1e200 * GAUSS[0], 1e200 * GAUSS[1]),
    "squares overflow, product does not": (1e200 * GAUSS[0], 1e-200 * GAUSS[1]),
    "squares underflow": (1e-200 * GAUSS[0], 1e-200 * GAUSS[1]),
    "squares are subnormal": (1e-157 * GAUSS[0], 1e-157 * GAUSS[1]),
    "products are subnormal beside ones": (np.r_[1e-155 * GAUSS[0], 1, 0], np.r_[1e-160 * GAUSS[1], 0, 1]),
    "products underflow beside ones": (np.r_[1e-162 * GAUSS[0], 1, 0], np.r_[1e-162 * GAUSS[0], 0, 1]),
    "differences underflow": (GAUSS[0] * 1e-200, GAUSS[0] * 1e-200 * (1 + 1e-9)),
    "sums overflow": (np.full(SIZE, 1e308), -np.full(SIZE, 1e308)),
    "sums overflow on the way": (mirrored(np.full(SIZE, 1e308)), np.ones(2 * SIZE)),
    "products overflow on the way": (mirrored(np.full(SIZE, 1e154)), np.full(2 * SIZE, 9e153)),
    "the largest and the smallest": ([1.7e308, 5e-324, -1.7e308], [5e-324, 1.7e308, 5e-324]),
    "subnormal": (np.arange(SIZE) * 5e-324, np.arange(SIZE)[::-1] * 5e-324),
}


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def backend(request):
    return request.param


@pytest.mark.parametrize("name", CANCELLING)
@pytest.mark.parametrize("code", FLOAT)
@pytest.mark.parametrize("pairs", [[(1, 0)], [(0, 1), (1, 1)]], ids=["fused", "general"])
def test_cancelling(backend, name, code, pairs):
    x, y = CANCELLING[name]
    check_against_reference(backend, [raw(y, x, dtype=FLOAT[code])], [code, code], pairs)


@pytest.mark.interpreted
@pytest.mark.parametrize("name", CANCELLING)
def test_cancelling_between_dtypes(backend, name):
    x, y = CANCELLING[name]
    check_against_reference(backend, [[*raw(y, dtype=np.float32), *raw(x, dtype=np.float64)]], ["F32", "F64"])


@pytest.mark.interpreted
@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("pairs", [[(1, 0)], [(0, 1), (1, 1)]], ids=["fused", "general"])
def test_range_of_float64(backend, name, pairs):
    x, y = RANGES[name]
    check_against_reference(backend, [raw(y, x)], ["F64", "F64"], pairs)


def test_all_adversaries_in_one_stack(backend):
    """Tensors that are looked at again lie between tensors that are not, and of other sizes."""
    stack = [raw(y, x) for x, y in (*CANCELLING.values(), *RANGES.values())]
    check_against_reference(backend, stack, ["F64", "F64"], threads=2)


@pytest.mark.parametrize("code", FLOAT)
def test_chunks_that_cancel(backend, code):
    half = np.random.default_rng(21).normal(size=CHUNK)
    x = np.concatenate([half, -half, [1e-7]])
    y = np.concatenate([half[::-1], half[::-1], [1.0]])
    selfs, between = run(backend, [raw(y, x, dtype=FLOAT[code])], [code, code])
    assert selfs[0, 1, 2] == FLOAT[code](1e-7)
    assert between[0, 0, 2] == pytest.approx(float(FLOAT[code](1e-7)), rel=1e-12)


def test_float32_ulps_of_a_huge_sum(backend):
    """Elements 2**24 apart in size: float32 arithmetic would lose every small one."""
    x = np.where(np.arange(SIZE) % 2, 2.0**24, 1.0)
    check_against_reference(backend, [raw(x, -x, dtype=np.float32)], ["F32", "F32"])


INTEGERS = {
    "2**60 against 2**60 + 1": ("I64", [2**60] * 5, [2**60 + 1] * 5),
    "neighbours of 2**53": ("I64", [2**53, 2**53 + 1, -(2**53) - 1], [2**53 + 1, 2**53 + 2, -(2**53)]),
    "ends of int64": ("I64", [-(2**63), 2**63 - 1, 0], [2**63 - 1, -(2**63), -(2**63)]),
    "ends of uint64": ("U64", [2**64 - 1, 0, 2**63], [2**64 - 2, 2**64 - 1, 2**63 + 1]),
    "cancelling": ("I64", [2**62, 1, -(2**62)], [1, 1, 1]),
    "just below": ("I64", [2**53 - 1] * 3000, [-(2**53) + 1] * 3000),
    "ends of int32": ("I32", [-(2**31), 2**31 - 1] * 900, [2**31 - 1, -(2**31)] * 900),
    "ends of uint32": ("U32", [2**32 - 1, 0] * 900, [0, 2**32 - 1] * 900),
    "ends of int16": ("I16", [-(2**15), 2**15 - 1] * 900, [2**15 - 1, -(2**15)] * 900),
    "ends of uint8": ("U8", [255, 0] * 900, [0, 255] * 900),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("name", INTEGERS)
def test_integers(backend, name):
    code, x, y = INTEGERS[name]
    dtype = np.dtype(f"{code[0].lower()}{int(code[1:]) // 8}")
    stack = [raw(y, x, dtype=dtype)]
    check_against_reference(backend, stack, [code, code])
    assert run(backend, stack, [code, code])[1][0, 0, 4] == sum(a != b for a, b in zip(x, y, strict=True))


@pytest.mark.interpreted
def test_large_integers_against_floats(backend):
    x = np.array([2**53 + 1, 2**60, 0, 5], np.int64).view(np.uint8)
    y = np.array([2.0**53, 2.0**60, -0.0, math.nan]).view(np.uint8)
    check_against_reference(backend, [[y, x], [y, x]], ["F64", "I64"])
    assert run(backend, [[y, x]], ["F64", "I64"])[1][0, 0, 4] == 2


def test_plain_sums_would_not_do(backend):
    """The tolerance tells the backends from one running sum in float32, and in float64: this check can fail."""
    for name, narrow in (("heavy tails", np.float32), ("1e30, 1, -1e30 in other lanes", np.float64)):
        x, y = CANCELLING[name]
        stack = [raw(y, x)]
        wanted = exact(stack, ["F64", "F64"])
        check(run(backend, stack, ["F64", "F64"]), wanted)
        selfs, between = (part.copy() for part in wanted)
        selfs[0, 1, 2] = np.cumsum(x, dtype=narrow)[-1]
        with pytest.raises(AssertionError):
            check((selfs, between), wanted)


def elements(width):
    """Any float, ordinary ones and the values at which something changes more often than by chance."""
    special = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan]
    return st.one_of(st.floats(width=width), st.floats(-2, 2, width=width), st.sampled_from(special))


def pairs_of_arrays(dtype, width):
    shape = st.sampled_from([1, 2, 7, 16, 17, 40])
    return shape.flatmap(lambda n: st.tuples(*[arrays(dtype, n, elements=elements(width), fill=elements(width))] * 2))


@settings(max_examples=250, deadline=None)
@given(pair=pairs_of_arrays(np.float32, 32))
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_any_float32(backend, pair):
    check_against_reference(backend, [raw(*pair, dtype=np.float32)], ["F32", "F32"])


@settings(max_examples=250, deadline=None)
@given(pair=pairs_of_arrays(np.float64, 64))
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_any_float64(backend, pair):
    if not all(np.isfinite(side).all() for side in pair):
        # Beside an infinity, whether finite elements overflow on the way depends on the order of addition.
        pair = [np.where(np.abs(side) < np.inf, np.clip(side, -1e150, 1e150), side) for side in pair]
    check_against_reference(backend, [raw(*pair)], ["F64", "F64"])


@settings(max_examples=100, deadline=None)
@given(pair=st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2), min_size=1, max_size=40))
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_any_int64(backend, pair):
    x, y = zip(*pair, strict=True)
    check_against_reference(backend, [raw(y, x, dtype=np.int64)], ["I64", "I64"])


def exact_distance(x, y):
    """1 - cosine of float64 vectors from exact sums, to 60 digits."""
    import mpmath

    with mpmath.workdps(60):
        shift = 2**1074

        def integers(v):
            return [int(n * shift // d) for n, d in (value.as_integer_ratio() for value in v.tolist())]

        x, y = integers(x), integers(y)
        xx, yy, xy = (mpmath.mpf(sum(a * b for a, b in zip(p, q, strict=True))) for p, q in ((x, x), (y, y), (x, y)))
        return float(1 - xy / mpmath.sqrt(xx * yy))


DISTANCES = {
    "noise of 1e-6": lambda y, noise: y + 1e-6 * noise,
    "noise of 1e-6 that shrinks": lambda y, noise: y - 1e-6 * np.abs(noise) * np.sign(y),
    "noise of 1e-3": lambda y, noise: y + 1e-3 * noise,
    "noise of 1": lambda y, noise: y + noise,
    "unrelated": lambda y, noise: noise,
    "opposite": lambda y, noise: -y + 1e-6 * noise,
    "x = 100 y and noise of 1": lambda y, noise: 100 * y + noise,
    "scaled by 1 + 1e-6, noise of 1e-6": lambda y, noise: y * (1 + 1e-6) + 1e-6 * noise,
}


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("code", ["F64", "F32"])
@pytest.mark.parametrize("seed", range(3))
def test_cosine_distance(backend, name, code, seed):
    rng = np.random.default_rng(100 + seed)
    y, noise = rng.normal(0, 0.05, (2, 20_000))
    x, y = (side.astype(FLOAT[code]) for side in (DISTANCES[name](y, noise), y))
    selfs, between = run(backend, [raw(y, x, dtype=FLOAT[code])], [code, code])
    found = compute(selfs[0, 1], selfs[0, 0], between[0, 0])["cosine_distance"]
    assert found == pytest.approx(exact_distance(x.astype(np.float64), y.astype(np.float64)), rel=1e-9)


def test_the_reference_is_rounded_once_where_nothing_else_is():
    """fsum agrees on the sums whose terms are exact in float64."""
    for x, _ in CANCELLING.values():
        selfs, _ = reference.tile_sums(raw(x, dtype=np.float32), ["F32"], np.zeros((0, 2), int))
        wide = np.asarray(x, np.float32).astype(np.float64)
        assert selfs[0, 1:4].tolist() == [math.fsum(terms) for terms in (np.abs(wide), wide, wide * wide)]
        assert selfs[0, SELF_EXACT].tolist() == [len(wide), np.abs(wide).max(), 0]
        assert TWO == [(1, 0)]
