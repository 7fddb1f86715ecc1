"""`reference`, the oracle of all other kernel tests, against torch's decoding and Python's exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from weighbridge.kernels import reference
from weighbridge.kernels.decoders import DECODERS

from support.kernel_cases import CODES, nearby, random_tensor, raw

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def by_torch(tensor: np.ndarray, code: str) -> list:
    """The elements of a tensor as Python numbers, decoded by torch."""
    if not tensor.size:
        return []
    values = torch.from_numpy(np.array(tensor)).view(TORCH[code])
    if not values.dtype.is_floating_point:
        return [int(v) for v in values.tolist()]
    # float8 goes by way of float32, which holds all its values
    return (values.float() if values.itemsize == 1 else values).double().tolist()


def rounded(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def by_fractions(x: list, y: list) -> tuple[list[float], list[float]]:
    """Self sums of x and pair sums of (x, y), written down from their definitions."""
    x, y = ([Fraction(v) for v in side] for side in (x, y))
    d = [p - q for p, q in zip(x, y, strict=True)]
    zero = Fraction(0)
    selfs = [
        len(x),
        sum(map(abs, x), zero),
        sum(x, zero),
        sum((v * v for v in x), zero),
        max(map(abs, x), default=zero),
    ]
    between = [
        sum(map(abs, d), zero),
        sum((v * v for v in d), zero),
        sum((p * q for p, q in zip(x, y, strict=True)), zero),
        max(map(abs, d), default=zero),
        sum(v != 0 for v in d),
    ]
    return [*map(rounded, selfs), 0.0], [*map(rounded, between)]


def test_every_decodable_dtype_is_tested():
    assert set(TORCH) == set(DECODERS)


@pytest.mark.parametrize("code", [code for code in CODES if DECODERS[code].itemsize == 1 and code != "BOOL"])
def test_every_8_bit_pattern_decodes_as_in_torch(code):
    patterns = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(reference.decode(patterns, code), by_torch(patterns, code))


@pytest.mark.parametrize("code", ["F16", "BF16", "I16", "U16"])
def test_every_16_bit_pattern_decodes_as_in_torch(code):
    patterns = np.arange(65536, dtype=np.uint16).view(np.uint8)
    decoded, wanted = reference.decode(patterns, code), np.array(by_torch(patterns, code), np.float64)
    np.testing.assert_array_equal(decoded, wanted)
    assert (np.signbit(decoded) == np.signbit(wanted))[~np.isnan(wanted)].all()


def test_any_byte_but_zero_is_true():
    assert reference.decode(np.arange(256, dtype=np.uint8), "BOOL").tolist() == [0.0] + [1.0] * 255


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("size", [0, 1, 17, 300])
def test_sums_are_the_exact_ones_rounded_once(code, size):
    rng = np.random.default_rng(size)
    y = random_tensor(code, size, rng)
    x = nearby(y, code, rng)
    selfs, between = reference.tile_sums([y, x], [code, code], np.array([[1, 0]]))
    wanted_self, wanted_pair = by_fractions(by_torch(x, code), by_torch(y, code))
    assert selfs[1].tolist() == wanted_self
    assert between[0].tolist() == wanted_pair


@pytest.mark.parametrize(("code", "other"), [("F32", "I64"), ("BF16", "F64"), ("U64", "I8"), ("F8_E5M2", "F16")])
def test_sums_of_mixed_dtypes(code, other):
    rng = np.random.default_rng(5)
    y, x = random_tensor(code, 100, rng), random_tensor(other, 100, rng)
    _, between = reference.tile_sums([y, x], [code, other], np.array([[1, 0]]))
    assert between[0].tolist() == by_fractions(by_torch(x, other), by_torch(y, code))[1]


@pytest.mark.parametrize(
    "values",
    [
        [1e30, 1.0, -1e30],
        [1e308, 1e308, -1e308, -1e308],
        [5e-324, -5e-324, 2.2e-308],
        [1e-300, 1e300, 1.0, -1e300],
        [math.pi * 10.0**e for e in range(-307, 308, 5)],
    ],
)
def test_extreme_float64(values):
    mirrored = values[::-1]
    selfs, between = reference.tile_sums(raw(mirrored, values), ["F64", "F64"], np.array([[1, 0]]))
    wanted_self, wanted_pair = by_fractions(values, mirrored)
    assert selfs[1].tolist() == wanted_self
    assert between[0].tolist() == wanted_pair


def test_integers_beyond_float64():
    x, y = [2**60 + 1, -(2**63), 2**63 - 1], [2**60, -(2**63), 1]
    selfs, between = reference.tile_sums(raw(y, x, dtype=np.int64), ["I64", "I64"], np.array([[1, 0]]))
    wanted_self, wanted_pair = by_fractions(x, y)
    assert selfs[1].tolist() == wanted_self
    assert between[0].tolist() == wanted_pair
    assert between[0, 4] == 2


@pytest.mark.parametrize(
    ("x", "y", "sum_abs", "total", "dot", "differing"),
    [
        ([math.nan, 1.0], [1.0, 1.0], math.nan, math.nan, math.nan, 1),
        ([math.nan, 1.0], [math.nan, 1.0], math.nan, math.nan, math.nan, 1),
        ([math.inf, 1.0], [1.0, 1.0], math.inf, math.inf, math.inf, 1),
        ([-math.inf, 1.0], [1.0, 1.0], math.inf, -math.inf, -math.inf, 1),
        ([math.inf, -math.inf], [1.0, 1.0], math.inf, math.nan, math.nan, 2),
        ([math.inf, 2.0], [0.0, 1.0], math.inf, math.inf, math.nan, 2),
        ([math.inf, 2.0], [math.inf, 2.0], math.inf, math.inf, math.inf, 0),
    ],
)
def test_specials_follow_ieee(x, y, sum_abs, total, dot, differing):
    selfs, between = reference.tile_sums(raw(y, x), ["F64", "F64"], np.array([[1, 0]]))
    np.testing.assert_array_equal(selfs[1, [1, 2]], [sum_abs, total])
    np.testing.assert_array_equal(between[0, [2, 4]], [dot, differing])


def test_a_number_beyond_2_to_the_53_is_told_from_its_neighbour_beside_a_nan():
    x = np.array([2**53 + 1, 0], np.int64).view(np.uint8)
    y = np.array([2.0**53, math.nan]).view(np.uint8)
    _, between = reference.tile_sums([y, x], ["F64", "I64"], np.array([[1, 0]]))
    assert between[0, 4] == 2
