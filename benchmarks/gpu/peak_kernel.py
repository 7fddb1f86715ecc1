"""The kernel of `peak`: nothing but fused multiplications and additions in float64."""

import triton
import triton.language as tl


@triton.jit
def fma_kernel(out, factor, loops, WIDTH: tl.constexpr):
    lane = tl.arange(0, WIDTH)
    x = lane.to(tl.float64) * 1e-3
    a = factor.to(tl.float64)
    for _ in range(loops):
        x = x * a + 1e-9
    tl.store(out + tl.program_id(0) * WIDTH + lane, x)
