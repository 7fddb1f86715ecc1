"""Which kernels a tile launches, what each is compiled for, and with how many registers a thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..decoders import DECODERS
from ..wanted import Wanted
from .cells import Launch, launches, single
from .constants import ANY, STRIP, THREADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

__all__ = [
    "Kernel",
    "again_kernel",
    "again_keywords",
    "dtypes_of",
    "kernels_of",
    "keywords",
    "options",
    "sums_of",
    "tile_constants",
    "tile_kernel",
    "tile_options",
]


def dtypes_of(launch: Launch) -> dict[str, int]:
    """The arguments that tell the kernel of a launch the dtypes, which it need not have been compiled for."""
    return {"x_dtype": DECODERS[launch.x].index, "y_dtype": DECODERS[launch.y].index}


def sums_of(launch: Launch, wanted: Wanted) -> Wanted:
    """The sums of pairs that the kernel of a launch takes, where some are wanted: all, as each set is one more kernel.

    But squares, of which all pairs are made, leave out what neither distances nor cosines need where nothing else is
    wanted.
    """
    if launch.pairs and launch.shape == (2, 2):
        for least in (Wanted.SQ_DIFF, Wanted.DOT):
            sums = least.completed(wide=DECODERS[launch.x].wide == "f64") & Wanted.PAIRS
            if not wanted & Wanted.PAIRS & ~sums:
                return sums
    return Wanted.PAIRS


def tile_kernel(launch: Launch) -> Any:
    """The kernel of a launch."""
    if launch.compensated:
        from .compensated import compensated_kernel

        return compensated_kernel
    from .fused import tile_kernel

    return tile_kernel


def again_kernel() -> Any:
    """The kernel for what one in float32 has no room for."""
    from .again import again_kernel

    return again_kernel


def tile_constants(launch: Launch, wanted: Wanted, packed: bool) -> dict[str, Any]:
    """What the kernel of a launch is compiled for."""
    a, b = launch.shape
    x, y = launch.formats
    # A step of these takes 230 or 244 instructions, 11 of which two in one save; others gain less, or spill.
    unroll = 2 if a + b <= 2 and launch.x == launch.y in ("F8_E4M3", "F8_E5M2") else 1
    return {
        **({} if launch.compensated else {"PACKED": packed, "UNROLL": unroll}),
        "A": a,
        "B": b,
        "CODE_X": x,
        "SELF_X": launch.self_x,
        "CODE_Y": y,
        "SELF_Y": launch.self_y,
        "PAIRS": launch.pairs,
        "STAGES": _stages(launch),
        "WANTED": int(sums_of(launch, wanted)),
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
}
_REGISTERS_IN_FLOAT32 = {
    ("F16", "F16", (1, 1)): 168,
    ("F16", "F16", (2, 2)): 255,
    ("BF16", "BF16", (2, 2)): 255,
    ("ANY16", "ANY16", (1, 1)): 255,
    ("ANY8", "ANY16", (2, 1)): 255,
    ("ANY8", "F32", (2, 1)): 255,
}


def tile_options(launch: Launch, wanted: Wanted, arch: int) -> dict[str, Any]:
    """How the kernel of a launch is compiled: with how many registers a thread at most, or None, as ptxas chooses.

    With 128 a multiprocessor runs four programs, with 168 three, with 255 two. Of a pair four have 48 KiB on their way,
    and 20 are enough for the 3 TB/s of an H100 with 0.8 us from asking to having.

    ptxas spills a word or two when it chooses one program more, and may spill as well where it is given registers to
    spare, since it begins more loads and conversions early then. So which numbers serve has been tried for every kernel
    of tiles on sm_80, sm_90 and sm_100. With Triton 3.9 none spills (`test_kernels_gpu_compiled`); with 3.6 two in
    float32 do on sm_100, up to eight words: two of F32 beside bytes, and two of two bytes beside F32. For other GPUs
    these stand in.

    Args:
        launch, wanted: as for `sums_of`.
        arch: of the GPU, 90 for sm_90.
    """
    whole = sums_of(launch, wanted) == Wanted.PAIRS
    return {**options(), "maxnreg": _registers(launch, whole, arch)}


def _registers(launch: Launch, whole: bool, arch: int) -> int | None:
    operands = sum(launch.shape)
    sizes = launch.sizes
    if launch.compensated:
        return _REGISTERS_IN_FLOAT32.get((*launch.formats, launch.shape))
    if not launch.pairs:
        return 128
    if registers := _REGISTERS.get((*launch.formats, launch.shape)):
        return registers
    if operands == 2:
        return 128
    if min(sizes) == 1 < max(sizes):
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


def again_keywords(launch: Launch) -> dict[str, Any]:
    """Likewise `again_kernel`, for a launch of `single` cells."""
    return {**dtypes_of(launch), "CODE_X": ANY[launch.x], "CODE_Y": ANY[launch.y], **options(), "maxnreg": 128}


def keywords(launch: Launch, wanted: Wanted, packed: bool, arch: int) -> dict[str, Any]:
    """All that the kernel of a launch is called with by name, or compiled with ahead."""
    return {
        **dtypes_of(launch),
        **tile_constants(launch, wanted, packed),
        **tile_options(launch, wanted, arch),
    }


@dataclass(frozen=True)
class Kernel:
    """What is launched for all items of a task.

    Attributes:
        function: of Triton.
        cells: as the kernel takes them.
        strip: elements that a program walks.
        programs: of each strip.
        keywords: what it is called with by name, or compiled with ahead.
    """

    function: Any
    cells: np.ndarray
    strip: int
    programs: int
    keywords: dict[str, Any]


def kernels_of(
    codes: Sequence[str], pairs: np.ndarray, wanted: Wanted, float64: bool, packed: bool, arch: int
) -> list[Kernel]:
    """All that a `Tile` launches, in that order: what is summed in float32 goes before what takes again where it fails.

    Args:
        codes, pairs, wanted, float64: as for `Tile`.
        packed: whether the GPU has the instructions of `halves`.
        arch: of the GPU, 90 for sm_90.
    """
    from .dtypes import strip_of

    found = launches(codes, pairs, float64)
    first = [
        Kernel(
            tile_kernel(launch),
            launch.cells,
            strip_of(*launch.formats),
            len(launch.cells),
            keywords(launch, wanted, packed, arch),
        )
        for launch in found
    ]
    compensated = [launch for launch in found if launch.compensated]
    return first + [
        Kernel(again_kernel(), launch.cells, STRIP, 1, again_keywords(launch)) for launch in single(compensated)
    ]
