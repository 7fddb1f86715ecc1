"""What additions and multiplications round off, exactly, by torch operations that every device has: none is fused."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["product_error", "two_sum_error"]


def two_sum_error(a: torch.Tensor, b: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """a + b - total, of their rounded sum (Knuth, The Art of Computer Programming 2, 4.2.2, theorem B)."""
    t = total - a
    return (a - (total - t)) + (b - t)


def product_error(x: torch.Tensor, y: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    """x * y - product, of their rounded product (Dekker, Numerische Mathematik 18, 1971).

    Exact but for products near the ends of the range of their dtype.
    """
    x_high, y_high = _upper(x), _upper(y)
    x_low, y_low = x - x_high, y - y_high
    return x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)


def _upper(x: torch.Tensor) -> torch.Tensor:
    """The upper half of the bits of a float64 (26) or float32 (12)."""
    scaled = (2.0 ** (27 if x.element_size() == 8 else 12) + 1) * x
    return scaled - (scaled - x)
