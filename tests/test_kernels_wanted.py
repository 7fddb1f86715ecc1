"""A tile that takes some sums: those have the bits that they have among all, and no other looks like a number."""

import itertools

import numpy as np
import pytest

from weighbridge.kernels import cpu, native
from weighbridge.kernels.layout import BLOCK
from weighbridge.kernels.sums import CHUNK, PAIR_SUMS, SELF_SUMS
from weighbridge.kernels.wanted import Wanted

from support import portable_backend
from support.kernel_cases import (
    BACKENDS,
    CODES,
    assert_same_bits_in_every_layout,
    check_against_reference,
    nearby,
    random_tensor,
    raw,
    run,
    same_bits,
)

# Each sum alone, and what a tree of descent needs. Every set costs two compilations of seconds, so these stand for all:
# what code is emitted for a sum does not depend on any other.
SETS = (
    Wanted.ABS_DIFF,
    Wanted.SQ_DIFF,
    Wanted.DOT,
    Wanted.MAX_DIFF,
    Wanted.DIFFERING,
    Wanted.SQ_DIFF | Wanted.DOT | Wanted.DIFFERING | Wanted.SQUARES | Wanted.TOTALS,
)
ALL_PAIRS = list(itertools.combinations(range(4), 2))
MIXED = [("F64", "F32", "BF16", "I8"), ("F16", "F32", "BF16", "F8_E4M3"), ("I64", "U8", "BOOL", "F8_E5M2")]
FLOAT = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def slow_on_a_gpu(backend):
    """Each set has kernels of its own there: 1,300 in this file, more than all other tests together need."""
    return (
        pytest.param(*backend.values, marks=[*backend.marks, pytest.mark.slow])
        if hasattr(backend, "marks")
        else backend
    )


EVERY = {**{name: slow_on_a_gpu(each) for name, each in BACKENDS.items()}, **portable_backend.BACKENDS}


@pytest.fixture(params=EVERY.values(), ids=EVERY)
def backend(request):
    return request.param


def assert_each_set_is_a_part(backend, stack, codes, pairs=ALL_PAIRS, sets=SETS):
    wide = cpu.functions(codes, np.array(pairs), Wanted.ALL)[0].endswith("f64")
    whole = run(backend, stack, codes, pairs)
    for wanted in sets:
        found = run(backend, stack, codes, pairs, wanted=wanted)
        taken = wanted.completed(wide=wide)
        for part, all_sums, columns in zip(found, whole, (taken.self_columns, taken.pair_columns), strict=True):
            assert same_bits([part[..., columns].copy()], [all_sums[..., columns].copy()]), wanted
            assert np.isnan(part[..., ~columns]).all(), wanted


@pytest.mark.parametrize("code", CODES)
def test_every_dtype(backend, code):
    """Near copies, an equal copy, an unrelated tensor: Σxy is derived, 0 differs, Σxy is taken from the products.

    Five operands: the four pairs of the first go through one loop.
    """
    rng = np.random.default_rng(70)
    stack = []
    for size in (0, 1, 17, BLOCK + 3, 2 * BLOCK):
        base = random_tensor(code, size, rng)
        near = [nearby(base, code, rng) for _ in range(2)]
        stack.append([base, *near, base.copy(), random_tensor(code, size, rng)])
    assert_each_set_is_a_part(backend, stack, [code] * 5, list(itertools.combinations(range(5), 2)))


@pytest.mark.parametrize("codes", MIXED)
def test_mixed_dtypes(backend, codes):
    rng = np.random.default_rng(71)
    assert_each_set_is_a_part(backend, [[random_tensor(c, n, rng) for c in codes] for n in (5, BLOCK + 40)], codes)


@pytest.mark.parametrize("code", ["F32", "BF16"])
def test_chunks(backend, code):
    rng = np.random.default_rng(72)
    base = random_tensor(code, CHUNK + 3, rng)
    assert_each_set_is_a_part(backend, [[base, nearby(base, code, rng)]], [code] * 2, [(0, 1)])


@pytest.mark.parametrize("code", ["F32", "F16"])
def test_units_that_differ(backend, code):
    """Blocks of one tensor a thousand times as large as of the other: held in fixed point, they must be shifted."""
    rng = np.random.default_rng(73)
    small, large = (np.round(rng.normal(0, 50, BLOCK + 9)) * step for step in (2.0**-9, 1.0))
    assert_each_set_is_a_part(backend, [raw(small, large, 3 * small, small + 1, dtype=FLOAT[code])], [code] * 4)


def test_products_are_derived_over_any_shift():
    """Whole numbers beside multiples of 2**-s: Σxy comes from Σx², Σy² and Σ(x-y)² in the smaller unit, exactly."""
    rng = np.random.default_rng(76)
    size = BLOCK + 9
    stack = []
    for s in range(27):
        x = (rng.integers(-128, 128, size) * 2.0**-s).astype(np.float32)
        whole = rng.integers(-(2**15), 2**15, size, np.int16)
        small = rng.integers(-128, 128, size, np.int8) >> min(s // 3, 6)
        stack.append([(x.view(np.uint32) >> 16).astype(np.uint16), whole, small, rng.integers(0, 2, size, np.uint8)])
    stack = [[operand.view(np.uint8) for operand in tensor] for tensor in stack]
    codes = ["BF16", "I16", "I8", "BOOL"]
    assert_same_bits_in_every_layout(cpu.tile_sums, stack, codes)
    check_against_reference(cpu.tile_sums, stack, codes, ALL_PAIRS)


@pytest.mark.parametrize("code", FLOAT)
def test_what_cancels_overflows_or_is_not_finite(backend, code):
    """Sums that are in doubt are taken again, each by itself, whatever else is wanted."""
    rng = np.random.default_rng(74)
    half = rng.normal(0, 0.05, 1500)
    x = np.concatenate([half, half])
    plain = rng.normal(0, 0.05, 3000)
    stack = [
        raw(x, np.concatenate([half, -half]), np.concatenate([-half, half]), plain, dtype=FLOAT[code]),
        raw(np.where(np.arange(3000) == 77, np.nan, x), plain, x, np.full(3000, np.inf), dtype=FLOAT[code]),
        raw(np.full(3000, np.inf), np.full(3000, -np.inf), plain, x, dtype=FLOAT[code]),
    ]
    if code == "F64":
        stack.append(raw(x * 1e-170, plain * 1e-170, np.full(3000, 1e200), np.full(3000, 1e308)))
    assert_each_set_is_a_part(backend, stack, [code] * 4)


def test_integers_that_float64_does_not_hold(backend):
    big = 2**53
    stack = [raw(*([big + n, 5, -7 - n] for n in (0, 1, 3, 1)), dtype=np.int64)]
    assert_each_set_is_a_part(backend, stack, ["I64"] * 4)


def test_a_base_and_others_take_all(backend):
    """The walk of one base is compiled for all sums; what was not wanted is taken, and is right."""
    rng = np.random.default_rng(75)
    stack = [[random_tensor("F32", 500, rng) for _ in range(3)]]
    star = [(1, 0), (2, 0)]
    whole = run(backend, stack, ["F32"] * 3, star)
    assert same_bits(whole, run(backend, stack, ["F32"] * 3, star, wanted=Wanted.DIFFERING))


def test_sets_are_completed_by_what_they_are_taken_from():
    assert Wanted.DOT.completed(wide=False) == Wanted.DOT | Wanted.SQ_DIFF | Wanted.SQUARES
    assert Wanted.ABS_DIFF.completed(wide=False) == Wanted.ABS_DIFF
    assert Wanted.ABS_DIFF.completed(wide=True) == Wanted.ABS_DIFF | Wanted.MAX_DIFF
    assert Wanted.TOTALS.completed(wide=True) == Wanted.TOTALS | Wanted.SQUARES
    assert Wanted.ALL.completed(wide=True) == Wanted.ALL
    for wanted in map(Wanted, range(Wanted.ALL + 1)):
        whole = wanted.completed(wide=True)
        assert whole & wanted == wanted and whole.completed(wide=True) == whole
        assert Wanted.named(wanted.names) == wanted
    assert Wanted.ALL.names == [*SELF_SUMS, *PAIR_SUMS]
    assert Wanted(0).names == ["elements", "max_abs", "nonfinite"]


def test_each_set_has_code_of_its_own(tmp_path, monkeypatch):
    """A file for each, named by the set; what is asked for twice is compiled once."""
    monkeypatch.setenv("WEIGHBRIDGE_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    compiled = []

    def compile_(name, wanted):
        compiled.append((name, wanted))
        return b"code"

    monkeypatch.setattr(native, "_compile", compile_)
    for _ in range(2):
        for wanted in (Wanted.ALL, Wanted.ABS_DIFF, Wanted.DIFFERING):
            assert native.is_cached("pairs_f32", wanted) == (("pairs_f32", wanted) in compiled)
            assert native._object_code("pairs_f32", wanted) == b"code"
    assert compiled == [("pairs_f32", wanted) for wanted in (Wanted.ALL, Wanted.ABS_DIFF, Wanted.DIFFERING)]
    names = sorted(path.name.removesuffix(f"-{native._fingerprint()}.o") for path in (tmp_path / "kernels").iterdir())
    assert names == ["pairs_f32", "pairs_f32-01", "pairs_f32-10"]
