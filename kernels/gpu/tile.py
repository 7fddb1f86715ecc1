"""K tensors with N operands each and P pairs, in device memory: the launcher of the fused kernels."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..decoders import DECODERS
from ..device import DeviceTile
from ..wanted import Wanted
from .available import capability, fast_float64, packs_halves
from .cells import Launch, launches
from .constants import FAN, GATHER_ROWS, SLOTS, STRIPS, THREADS
from .levels import levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from ..cpu import Resolve

__all__ = [
    "TASK_BYTES",
    "Tile",
    "dtypes_of",
    "keywords",
    "on_current",
    "options",
    "sums_of",
    "tile_constants",
    "tile_kernel",
    "tile_options",
]

TASK_BYTES = 64 << 20
"""About what one launch takes of a file: long against its cost, short against the memory of a device."""


def is_compensated(launch: Launch, float64: bool) -> bool:
    """Whether a launch computes in float32; what float32 does not hold is computed in float64 on every device."""
    return not float64 and DECODERS[launch.x].wide == DECODERS[launch.y].wide == "f32"


def formats_of(launch: Launch, float64: bool) -> tuple[str, str]:
    """What the kernel of a launch is compiled for, of x and of y."""
    return (launch.x, launch.y) if is_compensated(launch, float64) else launch.formats


def dtypes_of(launch: Launch, float64: bool) -> dict[str, int]:
    """The arguments that tell the kernel of a launch the dtypes, which it need not have been compiled for."""
    if is_compensated(launch, float64):
        return {}
    return {"x_dtype": DECODERS[launch.x].index, "y_dtype": DECODERS[launch.y].index}


def sums_of(launch: Launch, wanted: Wanted, float64: bool) -> Wanted:
    """The sums of pairs that the kernel of a launch takes, where some are wanted: in float32 those, in float64 all.

    But squares, of which all pairs are made, leave out in float64 what neither distances nor cosines need where nothing
    else is wanted. Each set is one more kernel to compile.
    """
    if not launch.pairs:
        return Wanted.PAIRS
    if is_compensated(launch, float64):
        return wanted & Wanted.PAIRS
    if launch.shape == (2, 2):
        for least in (Wanted.SQ_DIFF, Wanted.DOT):
            sums = least.completed(wide=DECODERS[launch.x].wide == "f64") & Wanted.PAIRS
            if not wanted & Wanted.PAIRS & ~sums:
                return sums
    return Wanted.PAIRS


def tile_kernel(launch: Launch, float64: bool) -> Any:
    """The kernel of a launch."""
    if is_compensated(launch, float64):
        from .compensated import compensated_kernel

        return compensated_kernel
    from .fused import tile_kernel

    return tile_kernel


def tile_constants(launch: Launch, wanted: Wanted, float64: bool, packed: bool) -> dict[str, Any]:
    """What the kernel of a launch is compiled for."""
    a, b = launch.shape
    alone, compensated = a + b <= 2, is_compensated(launch, float64)
    x, y = formats_of(launch, float64)
    return {
        **({} if compensated else {"PACKED": packed}),
        "A": a,
        "B": b,
        "CODE_X": x,
        "SELF_X": launch.self_x,
        "CODE_Y": y,
        "SELF_Y": launch.self_y,
        "PAIRS": launch.pairs,
        "STAGES": _stages(launch),
        # A step of these takes 230 or 244 instructions, 11 of which two in one save; others gain less, or spill.
        "UNROLL": 2 if alone and not compensated and launch.x == launch.y in ("F8_E4M3", "F8_E5M2") else 1,
        "WANTED": int(sums_of(launch, wanted, float64)),
    }


def _stages(launch: Launch) -> int:
    """Steps that a program has in hand: one that it computes, and those whose loads are under way, of pairs 12 KiB.

    A load of all threads is 2 KiB; of operands of two sizes the wider ones take several a step. Each is compiled once
    for every step.
    """
    a, b = launch.shape
    x, y = (size // min(launch.sizes) for size in launch.sizes)  # loads a step of an operand
    loads = a * x + b * y * launch.pairs
    return 4 if loads <= 2 else 3 if loads < 8 else 2


def options() -> dict[str, Any]:
    """How kernels are compiled: a multiplication and an addition stay two, or two-sums would not be exact."""
    return {"num_warps": THREADS // 32, "enable_fp_fusion": False}


# Registers a thread of pairs that would spill otherwise, on some kind of GPU, by what the kernel is compiled for.
_REGISTERS = {
    ("F16", "F16", (4, 1)): 255,
    ("F32", "ANY8", (1, 1)): 168,
    ("ANY32", "ANY8", (1, 1)): 168,
    ("ANY64", "ANY8", (1, 1)): 168,
    ("ANY16", "ANY8", (1, 1)): 168,
}


def tile_options(launch: Launch, wanted: Wanted, float64: bool, arch: int) -> dict[str, Any]:
    """How the kernel of a launch is compiled: with how many registers a thread at most, or None, as ptxas chooses.

    With 128 a multiprocessor runs four programs, with 168 three, with 255 two. Of a pair four have 48 KiB on their way,
    and 20 are enough for the 3 TB/s of an H100 with 0.8 us from asking to having.

    ptxas spills a word or two when it chooses one program more, and may spill as well where it is given registers to
    spare, since it begins more loads and conversions early then. So which numbers serve has been tried, with Triton 3.9
    (`test_kernels_gpu_compiled`) and 3.6, for every kernel of tiles in float64 on sm_80, sm_90 and sm_100; none spills,
    but two words of a strip under 3.6, of a base and four others of float32 on sm_100. So have those in float32 of one
    dtype been tried there, and pairs of two on sm_90 and sm_100, with Triton 3.9. For other GPUs these stand in.

    Args:
        launch, wanted, float64: as for `sums_of`.
        arch: of the GPU, 90 for sm_90.
    """
    whole = sums_of(launch, wanted, float64) == Wanted.PAIRS
    return {**options(), "maxnreg": _registers(launch, is_compensated(launch, float64), whole, arch)}


def _registers(launch: Launch, compensated: bool, whole: bool, arch: int) -> int | None:
    operands = sum(launch.shape)
    sizes = launch.sizes
    if compensated and operands == 2:
        return 168 if launch.pairs and arch >= 100 else 128
    if compensated:
        return None if arch >= 100 and launch.shape == (4, 1) and launch.x == "F16" else 255
    if not launch.pairs:
        return 128
    if registers := _REGISTERS.get((*launch.formats, launch.shape)):
        return registers
    if operands == 2:
        return 128
    if min(sizes) == 1 < max(sizes) and (max(sizes) > 2 or "ANY8" in launch.formats):
        return 255
    if launch.x != launch.y or launch.formats[0] != launch.x:
        return 168
    if operands == 3:
        return 128
    if launch.x == "F8_E5M2" and not whole:
        return 255
    if not whole and arch < 90 and sizes[0] > 1:
        return 128
    if launch.shape == (4, 1):
        return None
    wide = sizes[0] > 1 and launch.x != "F16"  # those would spill with 168
    return 168 if wide and arch >= 90 else None


def keywords(launch: Launch, wanted: Wanted, float64: bool, packed: bool, arch: int) -> dict[str, Any]:
    """All that the kernel of a launch is called with by name, or compiled with ahead."""
    return {
        **dtypes_of(launch, float64),
        **tile_constants(launch, wanted, float64, packed),
        **tile_options(launch, wanted, float64, arch),
    }


def on_current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Within, Triton launches and compiles for this device: it goes by torch's current one."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class Tile(DeviceTile):
    """K tensors with N operands each and P pairs on a GPU: `cpu.Tile`, with the bytes in device memory.

    Args:
        codes, elements, pairs: as for `cpu.tile_sums`.
        wanted: as there. More may be taken (`sums_of`), which come back as NaN as well.
        device: a CUDA device, or its name (under Triton's interpreter: the CPU).
        held: as for `DeviceTile`.
        float64: whether sums are taken in float64, or in float32 with its rounding errors carried along (of operands
            that float32 holds); both are right to 1e-12, and are not the same bits. None: as the device is fast at it.
        force: as for `cpu.Tile`; no Σxy is taken from other sums here, so it makes no difference.
    Raises:
        KeyError: a dtype has no decoder; the engine leaves such tensors out beforehand.
    """

    TASK_BYTES = TASK_BYTES
    GROUP = FAN

    def _make_slots(self) -> None:
        import torch

        codes = [decoder.code for decoder in self.decoders]
        self.float64 = fast_float64(self.device) if self._float64 is None else self._float64
        self.packed = packs_halves(self.device)
        self.arch = capability(self.device)
        self.wanted = self._host.wanted
        self._launches = [
            (
                launch,
                torch.from_numpy(launch.cells).to(self.device),
                keywords(launch, self.wanted, self.float64, self.packed, self.arch),
            )
            for launch in launches(codes, self.pairs, self.float64)
        ]
        self._columns = len(self.decoders) + len(self.pairs)
        # Zeros: strips behind the end of a chunk are not run.
        self._slots = torch.zeros(
            (len(self.held) * STRIPS, self._columns, SLOTS), dtype=torch.float64, device=self.device
        )

    def run(self, items: np.ndarray, addresses: np.ndarray, arena: torch.Tensor) -> int:
        """Fill the slots of some items, on torch's current stream.

        Args:
            items: rows of `self.items` that are held, their tensors numbered as the rows of `addresses`.
            addresses: (K', N) int64, where each operand's first element lies or would lie; only the elements of `items`
                are touched. Each item's run of each operand begins at a multiple of 16.
            arena: the (bytes,) uint8 tensor on the device in which the addresses lie. What stands behind an operand's
                end, up to the next multiple of 4, lies in it too.
        Returns:
            The bytes that were taken.
        """
        import torch

        from .dtypes import strip_of

        starts = addresses[items[:, 0]] + items[:, 1, None] * self.itemsizes - arena.data_ptr()
        assert not (starts % 16).any() and arena.data_ptr() % 16 == 0
        table = self._on_device(np.c_[items[:, 3] - self.held.start, items[:, 2], starts // 16])
        words = arena[: arena.numel() // 4 * 4].view(torch.int32)
        longest = int(items[:, 2].max())
        with on_current(self.device):
            for launch, cells, how in self._launches:
                log2_strips = (-(-longest // strip_of(*formats_of(launch, self.float64))) - 1).bit_length()
                tile_kernel(launch, self.float64)[((len(items) << log2_strips) * len(cells),)](
                    words,
                    table,
                    cells,
                    self._slots,
                    len(self.decoders),
                    len(cells),
                    log2_strips,
                    self._columns,
                    **how,
                )
        return int(items[:, 2].sum() * self.itemsizes.sum())

    def slots(self, first: int, last: int) -> torch.Tensor:
        """What `run` has left of the items from `first` to before `last`, in the memory of the host."""
        first, last = first - self.held.start, last - self.held.start
        return self._slots[first * STRIPS : last * STRIPS].cpu()

    def fold(
        self, folded: list[torch.Tensor] | None, slots: Sequence[torch.Tensor], resolve: Resolve, threads: int
    ) -> list[torch.Tensor]:
        """What the chunks of one tensor come to, those before these `slots` and these: each group as the first level.

        Args:
            folded: what the chunks before come to; None: there are none.
            slots: of the next `GROUP` chunks, or of as many as there are left, in order; what `slots` of tiles of the
                same tensor, which may hold any of its chunks, has given.
            resolve, threads: as for `finish`, for a backend that leaves chunks to the processor; this one does not.
        Returns:
            What to go on with, in the memory of the host.
        """
        import torch

        return [*(folded or []), self._added_of_one(torch.cat(list(slots)), STRIPS)]

    def added(self) -> torch.Tensor:
        """(K, N + P, SLOTS) float64 on the device: the slots of each tensor added, on torch's current stream."""
        steps = levels(np.bincount(self.items[:, 0], minlength=len(self.elements)))
        return self._added(self._slots, STRIPS, steps)[: len(self.elements)]

    def _added(self, slots: torch.Tensor, strips: int, steps: list[np.ndarray]) -> torch.Tensor:
        """(places, columns, SLOTS) float64 on the device: slots (chunks * strips, columns, SLOTS) added by `levels`."""
        import torch

        from .gather import gather_kernel

        columns = slots.shape[1]
        sums = torch.empty((_places(steps), columns, SLOTS), dtype=torch.float64, device=self.device)
        if sums.numel():
            table = self._on_device(np.concatenate(steps))
            first = 0
            with on_current(self.device):
                for step in steps:
                    gather_kernel[(-(-len(step) * columns // GATHER_ROWS),)](
                        slots, table, sums, first, len(step), columns, strips, **options()
                    )
                    first, slots, strips = first + len(step), sums, 1
        return sums

    def _added_of_one(self, slots: torch.Tensor, strips: int) -> torch.Tensor:
        """(1, columns, SLOTS) float64 on the host: one tensor's slots (chunks * strips, columns, SLOTS) there, added.

        They go to the device by as many columns at a time as one strip of all chunks that are held would take.
        """
        import torch

        steps = levels(np.array([len(slots) // strips]))
        width = max(1, len(self.held) * self._columns // (len(slots) + _places(steps)))
        parts = (part.contiguous().to(self.device) for part in slots.split(width, dim=1))
        return torch.cat([self._added(part, strips, steps)[:1].cpu() for part in parts], dim=1)

    def finish(
        self, resolve: Resolve, threads: int, folded: list[torch.Tensor] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sums of all tensors, certified to 1e-12, as `cpu.Tile.finish`: what is in doubt is run again there.

        The slots are added on the device, and what comes back is one copy of (K, N + P) sums.

        Args:
            resolve: tensors (Q,) -> addresses (Q, N) in the memory of the host.
            threads: for that.
            folded: what `fold` has made of all chunks of the one tensor, where this tile does not hold them all.
        Returns:
            (K, N, 6) and (K, P, 5) float64.
        """
        import torch

        operands = len(self.decoders)
        if folded is None:
            added = self.added().cpu()
        else:
            added = folded[0].clone() if len(folded) == 1 else self._added_of_one(torch.cat(folded), 1)
        sums = added.numpy()
        size, squares, high, low, bound, largest, count = range(SLOTS)
        sums[..., high] += sums[..., low]
        selfs, between = sums[:, :operands], sums[:, operands:]
        self_sums = np.concatenate([selfs[..., :1], selfs[..., [size, high, squares, largest, count]]], axis=2)
        self_sums[..., 0] = self.elements[:, None]
        pair_sums = between[..., [size, squares, high, largest, count]]
        return self._host.settle(self_sums, pair_sums, selfs[..., bound], between[..., bound], resolve, threads)

    def _on_device(self, table: np.ndarray) -> torch.Tensor:
        """A copy there that does not wait for the kernels under way."""
        import torch

        host = torch.from_numpy(np.ascontiguousarray(table, np.int64))
        if self.device.type != "cuda":
            return host
        return host.pin_memory().to(self.device, non_blocking=True)


def _places(steps: list[np.ndarray]) -> int:
    """How many sums there are of all levels."""
    return 1 + max((int(step[:, 2].max()) for step in steps), default=-1)
