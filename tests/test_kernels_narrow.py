"""Narrow dtypes, where a backend may use integers: spans at the edge, the largest sums, blocks of every kind."""

import itertools

import numpy as np
import pytest

from weighbridge.kernels.layout import BLOCK

from support.kernel_cases import (
    BACKENDS,
    assert_same_bits_in_every_layout,
    check_against_reference,
    nearby,
    random_tensor,
    run,
)

RNG = np.random.default_rng(50)
SIZES = (1, 100, 127, 128, 129, BLOCK, 2 * BLOCK + 131)


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def backend(request):
    return request.param


def encoded(values, code):
    """float64 values that the dtype holds, or the nearest below that it holds, as bytes."""
    values = np.asarray(values, np.float64)
    if code == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return values.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[code]).view(np.uint8)


def spread(size, low, high, mantissa):
    """Magnitudes with exponents from low to high, both of which occur, and full significands, of either sign."""
    exponents = RNG.integers(low, high + 1, size)
    exponents[: min(size, 2)] = [high, low][: min(size, 2)]
    significands = 1 + RNG.integers(0, 2**mantissa, size) / 2**mantissa
    significands[: min(size, 2)] = 2 - 2.0**-mantissa
    return RNG.permutation(np.ldexp(significands * RNG.choice([-1, 1], size), exponents))


@pytest.mark.parametrize("span", range(14, 24))
@pytest.mark.parametrize("low", [-100, -20, 3])
def test_bfloat16_of_any_span(backend, span, low):
    """Around 19 binades a block stops fitting 27 bits; the sides differ in span, so one may fit and the pair not."""
    stack = []
    for size in SIZES:
        for other_low, other_span in ((low, span), (low + 5, span - 5), (low - 6, 4), (low + span - 1, 4)):
            sides = spread(size, low, low + span, 7), spread(size, other_low, other_low + other_span, 7)
            stack.append([encoded(side, "BF16") for side in sides])
    check_against_reference(backend, stack, ["BF16", "BF16"])
    check_against_reference(backend, stack, ["BF16", "BF16"], [(0, 1), (1, 1)])


@pytest.mark.parametrize("code", ["BF16", "F16"])
@pytest.mark.parametrize("size", [BLOCK, BLOCK + 1, 4 * BLOCK])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_the_largest_sums_of_a_block(backend, code, size, signs):
    """All elements but one as large as they can be beside the smallest: lanes of integers come nearest to overflow."""
    mantissa, low = (7, 0) if code == "BF16" else (10, -14)
    for span in (15, 16, 17, 18, 19, 20):
        if code == "F16" and low + span > 15:
            continue
        sides = [np.full(size, sign * (2 - 2.0**-mantissa) * 2.0 ** (low + span)) for sign in signs]
        for side, at in itertools.product(sides, (0, size // 2, size - 1)):
            side[at] = 2.0**low
            check_against_reference(backend, [[encoded(side, code) for side in sides]], [code, code])


@pytest.mark.parametrize(("code", "dtype"), [("I16", np.int16), ("U16", np.uint16), ("I8", np.int8), ("U8", np.uint8)])
def test_the_largest_integers(backend, code, dtype):
    ends = np.iinfo(dtype).min, np.iinfo(dtype).max
    stack = [
        [np.full(size, x, dtype).view(np.uint8), np.full(size, y, dtype).view(np.uint8)]
        for size in SIZES
        for x, y in itertools.product(ends, ends)
    ]
    check_against_reference(backend, stack, [code, code])


def test_float16_with_subnormals(backend):
    every = np.arange(0x7C00, dtype=np.uint16)  # all finite magnitudes, from 0 on
    subnormal, low, high = every[:0x400], every[0x400:0x1400], every[-0x800:]
    signs = np.where(np.arange(BLOCK) % 3, 0, 0x8000).astype(np.uint16)
    parts = [np.resize(part, BLOCK) | signs for part in (subnormal, low, high, every[::31], every[:1])]
    stack = [[x.view(np.uint8), y.view(np.uint8)] for x, y in itertools.product(parts, parts)]
    check_against_reference(backend, stack, ["F16", "F16"])


def test_bfloat16_at_both_ends(backend):
    """Subnormals, the smallest normal numbers and the largest, alone and together."""
    patterns = [range(1, 0x80), range(0x80, 0x180), range(0x7F00, 0x7F80), [0], [0, 1, 0x7F7F]]
    parts = [np.resize(np.array(p, np.uint16), BLOCK + 5) for p in patterns]
    stack = [[x.view(np.uint8), y.view(np.uint8)] for x, y in itertools.product(parts, parts)]
    check_against_reference(backend, stack, ["BF16", "BF16"])


@pytest.mark.parametrize("code", ["BF16", "F16"])
def test_blocks_of_every_kind_in_one_tensor(backend, code):
    """Blocks that fit integers, that do not, that are zero, that hold NaN or infinity; each kind beside each."""
    kinds = [
        0.05 * RNG.normal(size=BLOCK),
        spread(BLOCK, -14, 15, 7),
        np.zeros(BLOCK),
        np.where(np.arange(BLOCK) == 7, 1.0, 0.0),
    ]
    x, y = (np.concatenate(side) for side in zip(*itertools.product(kinds, kinds), strict=True))
    stack = [[encoded(side, code) for side in (x, y)]]
    for value in (np.nan, np.inf, -np.inf):
        for side, at in ((x, 5), (y, 3 * BLOCK + 9), (x, len(x) - 1)):
            spoiled = side.copy()
            spoiled[at] = value
            stack.append([encoded(each, code) for each in ((spoiled, y) if side is x else (x, spoiled))])
    check_against_reference(backend, stack, [code, code])
    check_against_reference(backend, stack, [code, code], [(0, 1), (0, 0)])


@pytest.mark.parametrize(
    "codes", [("BF16", "F16"), ("I8", "BF16"), ("U16", "F8_E5M2"), ("BOOL", "F16"), ("I16", "U16")]
)
def test_two_narrow_dtypes(backend, codes):
    rng = np.random.default_rng(51)
    stack = [[random_tensor(code, size, rng) for code in codes] for size in SIZES]
    check_against_reference(backend, stack, codes)
    check_against_reference(backend, stack, codes, [(0, 1)])


@pytest.mark.parametrize("code", ["BF16", "F16", "F8_E4M3", "F8_E5M2", "I8", "U16"])
def test_the_same_bits_beside_wider_operands(backend, code):
    rng = np.random.default_rng(52)
    base = random_tensor(code, 2 * BLOCK + 77, rng)
    unrelated, wider = (random_tensor(each, 2 * BLOCK + 77, rng) for each in (code, "F32"))
    stack = [[base, nearby(base, code, rng), unrelated, wider]]
    assert_same_bits_in_every_layout(backend, stack, [code, code, code, "F32"])


@pytest.mark.parametrize("code", ["BF16", "F16"])
def test_the_same_bits_beside_other_spans(backend, code):
    """Another operand of the tile that does not fit integers must not send a pair that does another way."""
    size = BLOCK + 77
    sides = [
        0.05 * RNG.normal(size=size),
        0.05 * RNG.normal(size=size),
        spread(size, -14, 15, 7),
        np.full(size, np.nan),
    ]
    assert_same_bits_in_every_layout(backend, [[encoded(side, code) for side in sides]], [code] * 4)


@pytest.mark.parametrize("code", ["BF16", "F16"])
def test_exact_where_integers_are(backend, code):
    """The sums of whole numbers of like size are exact, whatever the order of addition."""
    x, y = RNG.integers(-128, 128, (2, 3 * BLOCK))
    selfs, between = run(backend, [[encoded(y, code), encoded(x, code)]], [code, code])
    d = x - y
    assert selfs[0, 1].tolist() == [x.size, abs(x).sum(), x.sum(), (x * x).sum(), abs(x).max(), 0]
    assert between[0, 0].tolist() == [abs(d).sum(), (d * d).sum(), (x * y).sum(), abs(d).max(), (d != 0).sum()]
