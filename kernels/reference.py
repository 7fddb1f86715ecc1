"""The slow truth: the same sums in exact arithmetic, the oracle of every test and the last resort of the fast backends.

Every element is turned into a Python integer times one power of two for the whole tensor, all sums are taken in
integers, and each is rounded once, at the end, to the nearest float64. About a microsecond per element and sum; memory
for one tensor's elements as Python integers. Written without regard to the fast paths: decoding has its own tables.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from .sums import PAIR_SUMS, SELF_SUMS

__all__ = ["bytes_at", "decode", "tile_sums"]

_VIEWS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}

# exponent bits, mantissa bits, bias, how infinity and NaN are coded (OCP 8-bit floating point specification 1.0 for
# E4M3 and E5M2; the FNUZ variants as in onnx/ml_dtypes: no infinity, no negative zero, 0x80 is NaN)
_MINIFLOATS = {
    "F8_E4M3": (4, 3, 7, "fn"),
    "F8_E5M2": (5, 2, 15, "ieee"),
    "F8_E4M3FNUZ": (4, 3, 8, "fnuz"),
    "F8_E5M2FNUZ": (5, 2, 16, "fnuz"),
}


def _minifloat_table(exponent_bits: int, mantissa_bits: int, bias: int, special: str) -> np.ndarray:
    """(256,) float64: the value of every bit pattern."""
    table = np.empty(256)
    for raw in range(256):
        sign = -1.0 if raw & 0x80 else 1.0
        exponent = (raw & 0x7F) >> mantissa_bits
        mantissa = raw & ((1 << mantissa_bits) - 1)
        if (special == "fnuz" and raw == 0x80) or (special == "fn" and raw & 0x7F == 0x7F):
            value = math.nan
        elif special == "ieee" and exponent == (1 << exponent_bits) - 1:
            value = math.nan if mantissa else sign * math.inf
        elif exponent == 0:
            value = sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
        else:
            value = sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)
        table[raw] = value
    return table


_TABLES = {code: _minifloat_table(*layout) for code, layout in _MINIFLOATS.items()}
_TABLES["F8_E8M0"] = np.array([math.ldexp(1.0, raw - 127) for raw in range(255)] + [math.nan])


def bytes_at(address: int, count: int) -> np.ndarray:
    """(count,) uint8: a copy of the bytes at a memory address."""
    return np.frombuffer(ctypes.string_at(address, count), np.uint8)


def decode(raw: np.ndarray, code: str) -> np.ndarray:
    """The values of a tensor's bytes: float64, or int64/uint64 for the dtypes that float64 does not hold exactly."""
    raw = np.ascontiguousarray(raw).view(np.uint8).reshape(-1)
    if code in _TABLES:
        return _TABLES[code][raw]
    if code == "BOOL":
        return (raw != 0).astype(np.float64)
    with np.errstate(invalid="ignore"):  # signalling NaN
        if code == "BF16":
            return (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        values = raw.view(_VIEWS[code])
        return values if code in ("I64", "U64") else values.astype(np.float64)


def _integers(values: Sequence[np.ndarray]) -> tuple[list[list[int]], int]:
    """Each array as Python integers in units of 2**shift, the same shift for all; non-finite elements as 0."""
    parts = []
    shift = 0
    for array in values:
        if array.dtype.kind in "iu":
            parts.append((array.tolist(), [0] * len(array)))
            continue
        mantissa, exponent = np.frexp(np.where(np.isfinite(array), array, 0.0))
        whole = np.ldexp(mantissa, 53).astype(np.int64)
        exponent = np.where(whole == 0, 0, exponent.astype(np.int64) - 53)
        shift = min(shift, int(exponent.min(initial=0)))
        parts.append((whole.tolist(), exponent.tolist()))
    return [[m << (e - shift) for m, e in zip(*part, strict=True)] for part in parts], shift


def _rounded(total: int, shift: int) -> float:
    """total * 2**shift as the nearest float64; infinity where that is beyond its range."""
    try:
        return float(Fraction(total) * Fraction(2) ** shift)
    except OverflowError:
        return math.inf if total > 0 else -math.inf


def _ieee(terms: np.ndarray) -> float:
    """The sum that IEEE arithmetic gives when some term is not finite: NaN, or the infinity that is there."""
    with np.errstate(all="ignore"):
        special = terms[~np.isfinite(terms)]
        return float(special.sum()) if len(special) else 0.0


def tile_sums(operands: Sequence[np.ndarray], codes: Sequence[str], pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of `sums.py` for one tensor, each rounded once from the exact value.

    Args:
        operands: N uint8 arrays, the tensor's bytes in each checkpoint.
        codes: their N dtypes.
        pairs: (P, 2) indices into the operands.
    Returns:
        (N, 6) and (P, 5) float64.
    """
    values = [decode(raw, code) for raw, code in zip(operands, codes, strict=True)]
    exact, shift = _integers(values)
    self_sums = np.zeros((len(values), len(SELF_SUMS)))
    pair_sums = np.zeros((len(pairs), len(PAIR_SUMS)))
    for out, array, whole in zip(self_sums, values, exact, strict=True):
        floats = array.astype(np.float64)
        count = int((~np.isfinite(floats)).sum())
        out[0], out[5] = len(array), count
        if count:
            with np.errstate(all="ignore"):
                out[1:5] = _ieee(np.abs(floats)), _ieee(floats), _ieee(floats * floats), np.abs(floats).max()
        else:
            out[1] = _rounded(sum(map(abs, whole)), shift)
            out[2] = _rounded(sum(whole), shift)
            out[3] = _rounded(sum(v * v for v in whole), 2 * shift)
            out[4] = _rounded(max(map(abs, whole), default=0), shift)
    for out, (i, j) in zip(pair_sums, np.asarray(pairs).reshape(-1, 2).tolist(), strict=True):
        x, y = values[i].astype(np.float64), values[j].astype(np.float64)
        finite = bool(np.isfinite(x).all() and np.isfinite(y).all())
        if finite:
            differences = [p - q for p, q in zip(exact[i], exact[j], strict=True)]
            out[0] = _rounded(sum(map(abs, differences)), shift)
            out[1] = _rounded(sum(d * d for d in differences), 2 * shift)
            out[2] = _rounded(sum(p * q for p, q in zip(exact[i], exact[j], strict=True)), 2 * shift)
            out[3] = _rounded(max(map(abs, differences), default=0), shift)
            out[4] = sum(d != 0 for d in differences)
        else:
            with np.errstate(all="ignore"):
                d = x - y
                out[:] = _ieee(np.abs(d)), _ieee(d * d), _ieee(x * y), np.abs(d).max(), 0
            # Finite elements are told apart as integers: float64 does not hold every 64-bit one.
            special = ~(np.isfinite(x) & np.isfinite(y))
            exactly = zip(exact[i], exact[j], special.tolist(), strict=True)
            out[4] = (x != y)[special].sum() + sum(p != q for p, q, skip in exactly if not skip)
    return self_sums, pair_sums
