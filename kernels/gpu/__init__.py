"""The GPU backend: fused Triton kernels, launched through torch. Neither is imported before a tile is made.

`cells` deals operands and pairs out to launches, `fused` has the tile kernel, `compensated` the one for GPUs slow at
float64, `walk` and `closing` what the two share, `gather` the second step; `tile` launches them. What the machine
code of the fast walk says (Triton 3.9, sm_90, a pair of operands with all sums; `python -m support.compiled` in tests/
prints it):

    dtype     instructions a pair   of them float64   conversions to float64   16-byte loads   outside of the walk
    F32       39.8                  18                2                        0.5             951
    BF16      26.8                  10                2                        0.25            1062
    F8_E4M3   23.1                   7                2                        0.125           726

Derived from that, not measured, for an H100 (132 multiprocessors at 1.755 GHz: 29.6 T instructions of a thread issued a
second, 14.8 T of them float64, 3.7 T conversions; a copy rate of 3.0 TB/s, of which a pair takes 8, 4 or 2 bytes), with
what is outside of the walk spread over the 256 elements that a thread has of a strip, or the 512 of a chunk of F8_E4M3.
The rate by issue is the least:

    dtype     issued a pair   pairs a second by issue / by float64 / by conversions   bytes a second, of the copy rate
    F32       43.5            0.68 T / 0.82 T / 1.85 T                                 5.4 TB/s: memory is the limit
    BF16      30.9            0.96 T / 1.48 T / 1.85 T                                 3.8 TB/s: memory is the limit
    F8_E4M3   24.5            1.21 T / 2.08 T / 1.80 T                                 2.4 TB/s: 0.81

That is where no strip is walked twice (`fused` says when one is). An H200 has the same arithmetic and a copy rate of
4.3 TB/s: 1, 0.89 and 0.56 of it. F32 with BF16 takes 41.8 a pair of elements, 45.6 with what is outside: 3.9 TB/s of
the 6 bytes a pair. All pairs of bfloat16 take 15.5 instructions in squares of 2 x 2, 2.1 more outside: at most 1.7 T
pairs of elements a second.

In float32 (sm_89) a pair takes these, and what is outside of the walk about 980 and 238 in float64 and conversions (F8:
600 and 111), each of which takes the time of 64 others. Derived, not measured, for an RTX 4090 (128 multiprocessors at
2.52 GHz: 41.3 T instructions of a thread a second, 0.65 T in float64; memory brings 1.0 TB/s), with what float64 lets
`fused` do there:

    dtype     instructions a pair   with what is outside   bytes a second                   ... of `fused`
    F32       149                   211                    1.6 TB/s: memory is the limit    0.25 TB/s
    BF16      131                   193                    0.9 TB/s                         0.21 TB/s
    F8_E4M3    51                    81                    1.0 TB/s                         0.14 TB/s
"""

from .available import available, fast_float64
from .compiling import compile_ahead
from .tile import TASK_BYTES, Tile

__all__ = ["TASK_BYTES", "Tile", "available", "compile_ahead", "fast_float64"]
