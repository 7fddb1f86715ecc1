"""The portable backend: the same sums by plain torch operations, on any torch device that has float64.

Meant for XPU, CUDA without Triton, and whatever else torch has a device for. Every operation is a pass over memory of
its own, so it is slower than a fused kernel, and as exact.

Sums are taken by halving: the second half of a row is added to the first until one number is left. That is elementwise
arithmetic only, so it gives the same bits on every device, whatever the number of rows, and its rounding error grows
with log2 of the length (16 units for a chunk). Zeros behind a row do not change it. Σx and Σxy carry their rounding
errors along (two-sum; Knuth, The Art of Computer Programming 2, 4.2.2, theorem B), and products of wide numbers theirs
(Dekker, Numerische Mathematik 18, 1971). Where all terms are multiples of a unit that the errors do not go below, the
result is exact and its bound zero.

A device without float64 (MPS) cannot hold a tile: torch refuses the slots with a TypeError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import reference
from .decoders import Decoder
from .device import DeviceTile
from .layout import PAIR_SLOTS, SELF_SLOTS
from .wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from . import cpu
    from .cpu import Resolve

__all__ = ["TASK_BYTES", "Tile", "WORKSPACE_BYTES"]

TASK_BYTES = 32 << 20

WORKSPACE_BYTES = 96 << 20
"""About what temporary tensors of `run` take on the device: ten of `_PIECE` elements in float64, and copies."""

_PIECE = 1 << 20  # elements of all operands decoded at a time
_COMPENSATED = 2e-27  # error of a compensated sum of a chunk, in units of the sum of its terms' magnitudes
_TINIEST = 5e-324  # least bound of a sum of products that are not all zero: its own product may underflow
_SPLIT = 2.0**27 + 1  # Dekker's constant for float64
_SHORTEST = 1024  # rows are padded to this many elements or a larger power of two


class Tile(DeviceTile):
    """K tensors with N operands each and P pairs on a torch device: `cpu.Tile`, with the bytes in device memory.

    Args:
        codes, elements, pairs, wanted: as for `cpu.tile_sums`.
        device: a torch device, or its name.
        held: as for `DeviceTile`.
        float64: taken for the interface's sake; this backend computes in float64 always.
        force: as for `cpu.Tile`; every dot product here is compensated, so it makes no difference.
    Raises:
        KeyError: a dtype has no decoder; the engine leaves such tensors out beforehand.
    """

    TASK_BYTES = TASK_BYTES
    GROUP = 128  # or any other number: the host adds chunk by chunk

    def _make_slots(self) -> None:
        import torch

        count = len(self.held)
        wide: dict[str, Any] = {"dtype": torch.float64, "device": self.device}
        self._self_slots = torch.zeros((count, len(self.decoders), SELF_SLOTS), **wide)
        self._pair_slots = torch.zeros((count, len(self.pairs), PAIR_SLOTS), **wide)
        self._tables = {d.code: _table(d.code).to(self.device) for d in self.decoders if d.code.startswith("F8")}

    def run(self, items: np.ndarray, addresses: np.ndarray, arena: torch.Tensor | None = None) -> int:
        """Fill the slots of some items, on torch's current stream.

        Args:
            items: rows of `self.items` that are held, their tensors numbered as the rows of `addresses`.
            addresses: (K', N) int64, where each operand's first element lies or would lie; only the elements of `items`
                are touched.
            arena: the (bytes,) uint8 tensor on the device in which the addresses lie. Without it they are addresses in
                the memory of the host, and what they hold is copied.
        Returns:
            The bytes that were taken.
        """
        starts = addresses[items[:, 0]] + items[:, 1, None] * self.itemsizes
        padded = np.maximum(_SHORTEST, 1 << np.ceil(np.log2(np.maximum(items[:, 2], 1))).astype(np.int64))
        for width in np.unique(padded).tolist():
            rows = np.flatnonzero(padded == width)
            step = max(1, _PIECE // (width * len(self.decoders)))
            for first in range(0, len(rows), step):
                piece = rows[first : first + step]
                self._run_piece(items[piece], starts[piece], width, arena)
        return int(items[:, 2].sum() * self.itemsizes.sum())

    def slots(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What `run` has left of the items from `first` to before `last`, in the memory of the host."""
        some = slice(first - self.held.start, last - self.held.start)
        return self._self_slots[some].cpu(), self._pair_slots[some].cpu()

    def fold(self, folded: cpu.Tile | None, slots: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> cpu.Tile:
        """What the chunks of one tensor come to, those before these `slots` and these, as `gpu.Tile.fold`."""
        selfs, pairs = (np.concatenate(column) for column in zip(*slots, strict=True))
        host = folded or self._host
        with host.part(host.next_item, host.next_item + len(selfs)):
            host._self_slots[:], host._pair_slots[:] = selfs, pairs[:, host._order]
        return host

    def finish(self, resolve: Resolve, threads: int, folded: cpu.Tile | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The sums of all tensors, certified to 1e-12, as `cpu.Tile.finish`: what is in doubt is run again there.

        Args:
            resolve: tensors (Q,) -> addresses (Q, N) in the memory of the host.
            threads: for that.
            folded: what `fold` has made of all chunks of the one tensor, where this tile does not hold them all.
        Returns:
            (K, N, 6) and (K, P, 5) float64.
        """
        if folded is not None:
            return folded.finish(resolve, threads)
        # The host's tile keeps its pairs in an order of its own.
        selfs, pairs = self._self_slots.cpu().numpy(), self._pair_slots.cpu().numpy()[:, self._host._order]
        for part in self._host.parts(threads):
            self._host._self_slots[:] = selfs[part[:, 3]]
            self._host._pair_slots[:] = pairs[part[:, 3]]
        return self._host.finish(resolve, threads)

    def _run_piece(self, items: np.ndarray, starts: np.ndarray, width: int, arena: torch.Tensor | None) -> None:
        import torch

        lengths = torch.from_numpy(np.ascontiguousarray(items[:, 2])).to(self.device)
        slots = torch.from_numpy(items[:, 3] - self.held.start).to(self.device)
        inside = None
        if (items[:, 2] != width).any():
            inside = torch.arange(width, device=self.device) < lengths[:, None]
        values, smallest = [], []
        for n, decoder in enumerate(self.decoders):
            raw = self._raw(starts[:, n], items[:, 2] * decoder.itemsize, width * decoder.itemsize, arena)
            x = _decode(raw, decoder, self._tables.get(decoder.code))
            if inside is not None:  # of what lies behind the end, not every dtype reads a zero as zero
                x = torch.where(inside, x, 0.0)
            sums, least = _self_sums(x, decoder, self._host.wanted)
            self._self_slots[slots, n] = sums
            values.append(x)
            smallest.append(least)
        for p, (i, j) in enumerate(self.pairs.tolist()):
            of_x, of_y = self.decoders[i], self.decoders[j]
            self._pair_slots[slots, p] = _pair_sums(
                values[i], values[j], of_x.bits + of_y.bits, smallest[i] * smallest[j], self._host.wanted
            )

    def _raw(self, starts: np.ndarray, sizes: np.ndarray, row_bytes: int, arena: torch.Tensor | None) -> torch.Tensor:
        """(rows, row_bytes) uint8 on the device: what lies at each start, and zeros behind it."""
        import torch

        rows = torch.zeros((len(starts), row_bytes), dtype=torch.uint8, device=self.device)
        flat = rows.view(-1)
        origin = 0 if arena is None else arena.data_ptr()
        at = 0
        while at < len(starts):
            end = at + 1  # full rows that follow each other in memory are one copy
            while end < len(starts) and sizes[end - 1] == row_bytes and starts[end] == starts[end - 1] + row_bytes:
                end += 1
            start, size = int(starts[at]) - origin, int(sizes[at:end].sum())
            if arena is None:
                source = torch.from_numpy(reference.bytes_at(start, size).copy())
            else:
                source = arena[start : start + size]
            flat[at * row_bytes : at * row_bytes + size].copy_(source)
            at = end
        return rows


def _table(code: str) -> torch.Tensor:
    """(256,) float64: the value of every pattern of an 8-bit float, as torch decodes it."""
    import torch

    patterns = torch.arange(256, dtype=torch.uint8)
    if code == "F8_E8M0":  # no sign, no mantissa; not in every torch
        values = torch.ldexp(torch.ones(256, dtype=torch.float64), patterns.to(torch.int64) - 127)
        values[255] = torch.nan
        return values
    names = {
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
        "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    }
    return patterns.view(names[code]).to(torch.float64)


def _unsigned(dtype: str, mask: int) -> Callable[[Any], Any]:
    """Unsigned integers by way of signed ones of twice the width: torch computes with few unsigned types."""
    import torch

    return lambda raw: (raw.view(getattr(torch, dtype)).to(torch.int64) & mask).to(torch.float64)


def _decode(raw: torch.Tensor, decoder: Decoder, table: torch.Tensor | None) -> torch.Tensor:
    """The elements of rows of bytes as float64; integers of 64 bits to the nearest."""
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


def _halved(terms: torch.Tensor) -> torch.Tensor:
    """(rows,) sums of (rows, width); the width is a power of two."""
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        terms = terms[:, :half] + terms[:, half:]
    return terms[:, 0] + 0.0  # not -0.0, which would tell whether the row was padded


def _compensated(high: torch.Tensor, low: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows,) sums of high + low as rounded sum and what it lacks; what it lacks is 0 where the sum is not finite."""
    import torch

    while high.shape[1] > 1:
        half = high.shape[1] // 2
        a, b = high[:, :half], high[:, half:]
        high = a + b
        t = high - a
        error = (a - (high - t)) + (b - t)
        low = error if low is None else error + (low[:, :half] + low[:, half:])
    total = high[:, 0] + 0.0
    rest = torch.zeros_like(total) if low is None else low[:, 0]
    return total, torch.where(total.isfinite(), rest, 0.0)


def _self_sums(x: torch.Tensor, decoder: Decoder, wanted: Wanted) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, SELF_SLOTS) of (rows, width) float64, and (rows,) the smallest magnitude above zero, else infinity.

    What is not wanted is 0.
    """
    import torch

    size = x.abs()
    smallest = torch.where(size > 0, size, torch.inf).amin(dim=1)
    sum_abs = high = low = bound = squares = torch.zeros_like(smallest)
    if wanted & Wanted.TOTALS:
        sum_abs = _halved(size)
        high, low = _compensated(x, None)
        # All elements are multiples of q = smallest * 2**(1 - bits). The errors of 16 halvings are at most 16 units of
        # 2**-53 of Σ|x|: while that is below 2**52 q they are added without loss.
        exact = sum_abs <= smallest * 2.0 ** (100 - decoder.bits)
        bound = torch.where(exact | ~sum_abs.isfinite(), 0.0, _COMPENSATED * sum_abs)
    if wanted & Wanted.SQUARES:
        squares = _halved(x * x)
    nonfinite = (~x.isfinite()).sum(dim=1).to(torch.float64)
    return torch.stack([sum_abs, high, low, bound, squares, size.amax(dim=1), nonfinite], dim=1), smallest


def _pair_sums(x: torch.Tensor, y: torch.Tensor, bits: int, smallest: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """(rows, PAIR_SLOTS) of two (rows, width) float64 whose products have so many bits; what is not wanted is 0.

    smallest: (rows,) the product of the smallest magnitudes above zero.
    """
    import torch

    sum_abs = squares = dot = rest = bound = largest = differing = torch.zeros_like(smallest)
    if wanted & (Wanted.ABS_DIFF | Wanted.SQ_DIFF | Wanted.MAX_DIFF):
        d = x - y
        size = d.abs()
        sum_abs = _halved(size) if wanted & Wanted.ABS_DIFF else sum_abs
        squares = _halved(d * d) if wanted & Wanted.SQ_DIFF else squares
        largest = size.amax(dim=1) if wanted & Wanted.MAX_DIFF else largest
    if wanted & Wanted.DOT:
        product = x * y
        low = None if bits <= 53 else _product_error(x, y, product)
        dot, rest = _compensated(product, low)
        terms = _halved(product.abs())
        bound = _COMPENSATED * terms + terms.clamp(max=_TINIEST)
        if bits <= 53:  # products are exact, and multiples of smallest * 2**(2 - bits)
            bound = torch.where(terms <= smallest * 2.0 ** (101 - bits), 0.0, bound)
        bound = torch.where(terms.isfinite(), bound, 0.0)
    if wanted & Wanted.DIFFERING:
        differing = (x != y).sum(dim=1).to(torch.float64)
    return torch.stack([sum_abs, squares, dot, rest, bound, largest, differing], dim=1)


def _product_error(x: torch.Tensor, y: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    """x * y - product, exactly, but for products near the ends of float64's range."""
    x_high, y_high = _upper(x), _upper(y)
    x_low, y_low = x - x_high, y - y_high
    return x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)


def _upper(x: torch.Tensor) -> torch.Tensor:
    """The upper 26 bits of float64."""
    scaled = _SPLIT * x
    return scaled - (scaled - x)
