"""Which dtypes can be decoded without loss, and to which working type.

Every value of a decodable dtype is exact in float32 or in float64, so a tensor is decoded once and all arithmetic after
it knows two types only. Signed and unsigned 64-bit integers are exact in float64 up to 2**53; a tensor that holds a
larger one is summed by exact arithmetic (`reference`).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DECODERS", "Decoder"]


@dataclass(frozen=True, slots=True)
class Decoder:
    """How the elements of one dtype are stored and what they become.

    Attributes:
        code: the safetensors name of the dtype.
        itemsize: bytes of one element.
        wide: "f32" or "f64", the working type in which every value is exact.
        bits: significant bits of a value: a non-zero value of magnitude at least 2**e is a multiple of 2**(e-bits+1).
        integer: whether all values are whole numbers.
        index: the number by which compiled code knows it.
    """

    code: str
    itemsize: int
    wide: str
    bits: int
    integer: bool
    index: int


_TABLE = (
    ("F64", 8, "f64", 53, False),
    ("F32", 4, "f32", 24, False),
    ("F16", 2, "f32", 11, False),
    ("BF16", 2, "f32", 8, False),
    ("F8_E4M3", 1, "f32", 4, False),
    ("F8_E5M2", 1, "f32", 3, False),
    ("F8_E8M0", 1, "f32", 1, False),
    ("F8_E4M3FNUZ", 1, "f32", 4, False),
    ("F8_E5M2FNUZ", 1, "f32", 3, False),
    ("I64", 8, "f64", 64, True),
    ("I32", 4, "f64", 32, True),
    ("I16", 2, "f32", 16, True),
    ("I8", 1, "f32", 8, True),
    ("U64", 8, "f64", 64, True),
    ("U32", 4, "f64", 32, True),
    ("U16", 2, "f32", 16, True),
    ("U8", 1, "f32", 8, True),
    ("BOOL", 1, "f32", 1, True),
)

DECODERS = {row[0]: Decoder(*row, index) for index, row in enumerate(_TABLE)}
