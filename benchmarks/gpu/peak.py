"""How many double-precision instructions a device executes in a second."""

from collections.abc import Callable

import torch

from .rig import Rig

_LOOPS, _WIDTH, _PROGRAMS, _THREADS = 20_000, 1024, 132 * 16, 128


def double_instructions(rig: Rig) -> tuple[int, Callable[[], object]]:
    """A number of double-precision instructions, and what executes them.

    On CUDA a Triton kernel of fused multiplications and additions that stay in registers: each thread has eight sums
    that do not depend on each other. Elsewhere torch's, in cache, to try it out.
    """
    if not rig.is_cuda:
        x = torch.rand(8192, dtype=torch.float64, device=rig.device)
        return x.numel(), lambda: torch.addcmul(x, x, x)
    from .peak_kernel import fma_kernel

    out = torch.empty(_PROGRAMS * _WIDTH, dtype=torch.float64, device=rig.device)

    def run() -> None:
        with torch.cuda.device(rig.device):
            fma_kernel[(_PROGRAMS,)](out, 0.999, _LOOPS, WIDTH=_WIDTH, num_warps=_THREADS // 32, enable_fp_fusion=True)

    return _PROGRAMS * _WIDTH * _LOOPS, run
