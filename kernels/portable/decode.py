"""Bytes of any dtype as float64 or float32, by torch operations that every device has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..decoders import Decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

__all__ = ["in_float32", "in_float64", "table_of"]


def table_of(code: str, dtype: torch.dtype) -> torch.Tensor:
    """The value of every pattern of a dtype of 8 or 16 bits, by pattern, as torch decodes it on the processor.

    Args:
        code: one of those dtypes.
        dtype: torch.float64 or torch.float32, which both hold all values.
    """
    import torch

    if code.endswith("16"):
        patterns = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    else:
        patterns = torch.arange(1 << 8, dtype=torch.uint8)
    if code == "F8_E8M0":  # no sign, no mantissa; not in every torch
        values = torch.ldexp(torch.ones(256, dtype=torch.float64), patterns.to(torch.int64) - 127)
        values[255] = torch.nan
        return values.to(dtype)
    if code == "BOOL":
        return (patterns != 0).to(dtype)
    if code == "U16":
        return (patterns.to(torch.int32) & 0xFFFF).to(dtype)
    names = {
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F16": "float16",
        "BF16": "bfloat16",
        "U8": "uint8",
    }
    return patterns.view(getattr(torch, names.get(code) or f"int{code[1:]}")).to(dtype)


def in_float32(raw: torch.Tensor, decoder: Decoder, table: torch.Tensor | None) -> torch.Tensor:
    """The elements of (rows, bytes) uint8 as float32, which holds the dtype: the very bits, subnormal numbers too.

    What is looked up or seen as float32 is moved, not computed with, so a device that takes subnormal numbers for zeros
    in arithmetic keeps them here.
    """
    import torch

    if table is None:
        return raw.view(torch.float32)
    if decoder.itemsize == 1:
        return table[raw.to(torch.int64)]
    return table[raw.view(torch.int16).to(torch.int64) & 0xFFFF]


def in_float64(raw: torch.Tensor, decoder: Decoder, table: torch.Tensor | None) -> torch.Tensor:
    """The elements of (rows, bytes) uint8 as float64; integers of 64 bits to the nearest."""
    import torch

    code = decoder.code
    if table is not None:
        return table[raw.to(torch.int64)]
    if code == "BOOL":
        return (raw != 0).to(torch.float64)
    if code == "U64":
        whole = raw.view(torch.int64)
        high, low = (whole >> 32) & 0xFFFFFFFF, whole & 0xFFFFFFFF
        return high.to(torch.float64) * 2.0**32 + low.to(torch.float64)  # rounded once
    if code in ("U16", "U32"):
        return _unsigned(f"int{code[1:]}", (1 << int(code[1:])) - 1)(raw)
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "U8": "uint8"}
    kind = names.get(code) or f"int{code[1:]}"
    return raw.view(getattr(torch, kind)).to(torch.float64)


def _unsigned(dtype: str, mask: int) -> Callable[[Any], Any]:
    """Unsigned integers by way of signed ones of twice the width: torch computes with few unsigned types."""
    import torch

    return lambda raw: (raw.view(getattr(torch, dtype)).to(torch.int64) & mask).to(torch.float64)
