"""How far are the sums from exact arithmetic, and how far are torch's?

Recorded, not timed to be compared: for each dtype and for data made to go wrong, the largest relative error among all
eleven sums and that of the cosine distance, against `kernels.reference`, which adds in integers. Beside it torch's own
operations in float32 (in float64 for float64 data), sum by sum as one would write them.

The last case is as long as BERT's word embeddings. Exact arithmetic would take minutes there: float64 products added by
math.fsum, whose error is below 1e-15, stand for it.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from weighbridge.engine import metrics
from weighbridge.kernels import cpu, reference
from weighbridge.kernels.sums import PAIR_SUMS, SELF_SUMS

from measuring import SCALE, TORCH_NAMES, Block, plainly, related, scaled, torch_dtype
from measuring.accuracy import Errors, largest_error, record_errors, relative_error

ELEMENTS = 2 * 65536 + 1001  # two chunks and a tail that fills no vector
WORD_EMBEDDINGS = 30522 * 768
PAIRS = np.array([[1, 0]])
NAMES = [*(f"{name} of {side}" for side in ("base", "other") for name in SELF_SUMS), *PAIR_SUMS]

_rows: list[Errors] = []


@dataclass(frozen=True)
class Case:
    """Two operands made to be hard, or like real weights."""

    words: str
    code: str
    make: Callable[[str, np.random.Generator], Block]


def like_weights(code, generator):
    return related(code, ELEMENTS)


def hardly_apart(code, generator):
    return related(code, ELEMENTS, noise=4e-8)


def unrelated(code, generator):
    return Block(related(code, ELEMENTS).base, related(code, ELEMENTS, noise=1.0).other)


def cancelling(code, generator):
    """Every value beside its opposite, in another order, so that Σx and Σxy are a last small term."""
    half = generator.standard_normal(ELEMENTS // 2)
    order = generator.permutation(2 * len(half))
    x = np.concatenate([half, -half])[order]
    y = np.concatenate([half, half])[order]
    return _as(code, np.append(x, 1e-6), np.append(y, 1e-6))


def wide_range(code, generator):
    """Exponents all over the range whose squares are still finite in float64."""
    most = 120 if code == "F32" else 480
    values = [
        generator.standard_normal(ELEMENTS) * np.exp2(generator.uniform(-most, most, ELEMENTS).round())
        for _ in range(2)
    ]
    return _as(code, *values)


def beyond(code, generator):
    """Magnitudes around 2**600: the sum of squares is beyond float64, the other sums are not."""
    values = [np.ldexp(generator.standard_normal(ELEMENTS), 600) for _ in range(2)]
    return _as(code, *values)


def subnormal(code, generator):
    """Nothing but subnormal numbers, of both signs."""
    bits = {"F64": (np.uint64, 52, 63), "F32": (np.uint32, 23, 31), "F16": (np.uint16, 10, 15)}
    word, mantissa, sign = bits[code]
    raw = [
        generator.integers(0, 1 << mantissa, ELEMENTS, word) | (generator.integers(0, 2, ELEMENTS, word) << word(sign))
        for _ in range(2)
    ]
    return Block(*(each.view(np.uint8) for each in raw))


def _as(code, base, other):
    kind = {"F32": np.float32, "F64": np.float64}[code]
    return Block(base.astype(kind).view(np.uint8), other.astype(kind).view(np.uint8))


CASES = [
    *(Case("like weights", code, like_weights) for code in TORCH_NAMES),
    Case("1e-6 of the norm apart", "F32", hardly_apart),
    Case("unrelated", "F32", unrelated),
    Case("cancelling to 1e-12 of the terms", "F32", cancelling),
    Case("cancelling to 1e-12 of the terms", "F64", cancelling),
    Case("exponents from -120 to 120", "F32", wide_range),
    Case("exponents from -480 to 480", "F64", wide_range),
    Case("squares beyond float64", "F64", beyond),
    *(Case("subnormal", code, subnormal) for code in ("F16", "F32", "F64")),
]


@pytest.fixture(scope="module", autouse=True)
def recording():
    yield
    # All cases or none: a part of them must not pass for the whole.
    if SCALE == 1 and len(_rows) == len(CASES) + 1:
        record_errors(_rows)


def torch_sums(block, code):
    """The eleven sums as torch gives them, its cosine distance, and what it computed in."""
    kind = torch.float64 if code == "F64" else torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's array is not writeable, and nobody writes
        y, x = (torch.from_numpy(side).view(torch_dtype(code)).to(kind) for side in block)
    d = x - y
    found = []
    for v in (y, x):
        found += [v.numel(), v.abs().sum(), v.sum(), (v * v).sum(), v.abs().max(), (~v.isfinite()).sum()]
    found += [d.abs().sum(), (d * d).sum(), (x * y).sum(), d.abs().max(), (x != y).sum()]
    distance = 1 - torch.nn.functional.cosine_similarity(x, y, dim=0)
    return [float(value) for value in found], float(distance), str(kind).removeprefix("torch.")


def our_sums(block, code):
    addresses = np.array([[side.ctypes.data for side in block]])
    elements = np.array([block.base.size // cpu.DECODERS[code].itemsize])
    selfs, pairs = cpu.tile_sums(addresses, [code, code], elements, PAIRS)
    return selfs[0], pairs[0]


def errors(words, block, code, ours, exact):
    selfs, pair = exact
    wanted = [*selfs.reshape(-1), *pair.reshape(-1)]
    found = [*ours[0].reshape(-1), *ours[1].reshape(-1)]
    theirs, their_distance, kind = torch_sums(block, code)
    distance = _distance(selfs, pair)
    comparable = math.isfinite(distance) and distance != 0
    ours_worst, theirs_worst = (largest_error(NAMES, values, wanted) for values in (found, theirs))
    return Errors(
        case=words,
        dtype=code,
        elements=block.base.size // cpu.DECODERS[code].itemsize,
        sums=ours_worst[0],
        worst=ours_worst[1],
        cosine_distance=relative_error(_distance(*ours), distance) if comparable else None,
        torch_sums=theirs_worst[0],
        torch_worst=theirs_worst[1],
        torch_cosine_distance=relative_error(their_distance, distance) if comparable else None,
        torch_dtype=kind,
    )


def _distance(selfs, pair):
    with np.errstate(all="ignore"):
        return float(metrics.compute(selfs[1:], selfs[:1], pair)["cosine_distance"][0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.make.__name__}")
def test_against_exact_arithmetic(benchmark, case):
    block = case.make(case.code, np.random.default_rng(1))
    exact = reference.tile_sums(list(block), [case.code] * 2, PAIRS)
    ours = benchmark.pedantic(our_sums, (block, case.code), rounds=1)
    row = errors(case.words, block, case.code, ours, exact)
    _record(benchmark, row)
    assert row.sums <= 1e-12
    assert row.cosine_distance is None or row.cosine_distance <= 1e-9


def test_as_long_as_word_embeddings(benchmark):
    block = related("F32", scaled(WORD_EMBEDDINGS))
    exact = plainly(*block, "F32")
    ours = benchmark.pedantic(our_sums, (block, "F32"), rounds=1)
    row = errors("as long as BERT's word embeddings", block, "F32", ours, exact)
    _record(benchmark, row)
    assert row.sums <= 1e-12
    assert row.cosine_distance <= 1e-9


def _record(benchmark, row):
    benchmark.extra_info["relative error"] = row.sums
    benchmark.extra_info["torch's"] = row.torch_sums
    _rows.append(row)
