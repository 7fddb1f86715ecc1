"""The slow truth: the same sums in exact arithmetic, the oracle of every test and the last resort of the fast backends.

Every element is turned into a Python integer times a power of two, all sums are taken in integers, and each is rounded
once, at the end, to the nearest float64. About a microsecond per element and sum, in pieces of constant memory. Written
without regard to the fast paths: decoding has its own tables.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from .sums import PAIR_SUMS, SELF_SUMS

__all__ = ["bytes_at", "decode", "tile_sums"]

_PIECE = 1 << 16  # elements taken at a time; as Python integers they are some 20 MB

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
    """(count,) uint8: the bytes at a memory address, where they are."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address)) if count else np.empty(0, np.uint8)


def _itemsize(code: str) -> int:
    return np.dtype(_VIEWS[code]).itemsize if code in _VIEWS else 2 if code == "BF16" else 1


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


class _Sum:
    """A sum of terms that are exact integers in units of a power of two, or not finite."""

    def __init__(self) -> None:
        self.exact = Fraction(0)
        self.special = 0.0
        self.is_special = False

    def add(self, total: int, shift: int, terms: np.ndarray) -> None:
        """Add total * 2**shift, and by IEEE rules those of `terms` that are not finite."""
        self.exact += Fraction(total) * Fraction(2) ** shift
        with np.errstate(all="ignore"):
            special = terms[~np.isfinite(terms)]
            if len(special):
                self.is_special = True
                self.special += float(special.sum())

    @property
    def value(self) -> float:
        """The sum as the nearest float64; infinity where it is beyond its range."""
        if self.is_special:
            return self.special
        try:
            return float(self.exact)
        except OverflowError:
            return math.inf if self.exact > 0 else -math.inf


def _largest(found: float, sizes: np.ndarray) -> float:
    """The largest magnitude so far; NaN wins."""
    return float(np.max(np.append(sizes, found)))


def tile_sums(operands: Sequence[np.ndarray], codes: Sequence[str], pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums of `sums.py` for one tensor, each rounded once from the exact value.

    Args:
        operands: N uint8 arrays, the tensor's bytes in each checkpoint.
        codes: their N dtypes.
        pairs: (P, 2) indices into the operands.
    Returns:
        (N, 6) and (P, 5) float64.
    """
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    self_sums = np.zeros((len(operands), len(SELF_SUMS)))
    pair_sums = np.zeros((len(pairs), len(PAIR_SUMS)))
    totals = [[_Sum() for _ in range(3)] for _ in operands]
    between = [[_Sum() for _ in range(3)] for _ in pairs]
    elements = operands[0].size // _itemsize(codes[0]) if operands else 0
    for start in range(0, elements, _PIECE):
        raws = [
            raw[start * size : (start + _PIECE) * size]
            for raw, size in zip(operands, map(_itemsize, codes), strict=True)
        ]
        values = [decode(raw, code) for raw, code in zip(raws, codes, strict=True)]
        exact, shift = _integers(values)
        floats = [array.astype(np.float64) for array in values]
        for out, sums, array, whole in zip(self_sums, totals, floats, exact, strict=True):
            with np.errstate(all="ignore"):
                sums[0].add(sum(map(abs, whole)), shift, np.abs(array))
                sums[1].add(sum(whole), shift, array)
                sums[2].add(sum(v * v for v in whole), 2 * shift, array[~np.isfinite(array)] ** 2)
                out[4] = _largest(out[4], np.abs(array))
            out[5] += (~np.isfinite(array)).sum()
        for out, sums, (i, j) in zip(pair_sums, between, pairs.tolist(), strict=True):
            finite = np.isfinite(floats[i]) & np.isfinite(floats[j])
            both = [(p, q) for p, q, ok in zip(exact[i], exact[j], finite.tolist(), strict=True) if ok]
            with np.errstate(all="ignore"):
                x, y = floats[i][~finite], floats[j][~finite]
                d = x - y
                sums[0].add(sum(abs(p - q) for p, q in both), shift, np.abs(d))
                sums[1].add(sum((p - q) ** 2 for p, q in both), 2 * shift, d * d)
                sums[2].add(sum(p * q for p, q in both), 2 * shift, x * y)
                largest = _Sum()
                largest.add(max((abs(p - q) for p, q in both), default=0), shift, np.empty(0))
                out[3] = _largest(out[3], np.append(np.abs(d), largest.value))
            out[4] += (x != y).sum() + sum(p != q for p, q in both)
    self_sums[:, 0] = elements
    for out, sums in zip(self_sums, totals, strict=True):
        out[1:4] = [each.value for each in sums]
    for out, sums in zip(pair_sums, between, strict=True):
        out[:3] = [each.value for each in sums]
    return self_sums, pair_sums
