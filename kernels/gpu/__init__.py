"""The GPU backend: fused Triton kernels, launched through torch. Neither is imported before a tile is made.

`cells` deals operands and pairs out to launches, `fused` has the tile kernel, `compensated` the one for GPUs slow at
float64, `walk` and `closing` what the two share, `gather` the second step; `tile` launches them. What the machine
code of the fast walk says (Triton 3.9, sm_90, a pair of operands with all sums; `python -m support.compiled` in tests/
prints it):

    dtype     instructions a pair   of them float64   conversions to float64   16-byte loads   at the end of a strip
    F32       40.5                  18                2                        0.5             941
    BF16      28.5                  10                2                        0.25            989
    F8_E4M3   27.6                  10                2                        0.125           888

Derived from that, not measured, for an H100 (132 multiprocessors at 1.755 GHz: 29.6 T instructions of a thread issued a
second, 14.8 T of them float64, 3.7 T conversions; a copy rate of 3.0 TB/s, of which a pair takes 8, 4 or 2 bytes), with
the end of a strip spread over its 128 elements a thread. Issue is what limits all three:

    dtype     issued a pair   pairs a second by issue / by float64 / by conversions   bytes a second, of the copy rate
    F32       47.9            0.62 T / 0.82 T / 1.85 T                                 4.9 TB/s: memory is the limit
    BF16      36.2            0.82 T / 1.48 T / 1.85 T                                 3.3 TB/s: memory, but by a tenth
    F8_E4M3   34.5            0.86 T / 1.48 T / 1.85 T                                 1.7 TB/s: 0.57

An H200 has the same arithmetic and a copy rate of 4.3 TB/s: 1, 0.76 and 0.40 of it. All pairs of bfloat16 take 16.2
instructions in squares of 2 x 2, 4 more at the end of a strip: at most 1.5 T pairs of elements a second.

In float32 (sm_89) a pair takes these, and the end of a strip 1,000 and 211 in float64 and conversions, each of which
takes the time of 64 others. Derived, not measured, for an RTX 4090 (128 multiprocessors at 2.52 GHz: 41.3 T
instructions of a thread a second, 0.65 T in float64; memory brings 1.0 TB/s), with what float64 lets `fused` do there:

    dtype     instructions a pair   with the end of a strip   bytes a second   ... of `fused`
    F32       151                   264                        1.25 TB/s        0.26 TB/s
    BF16      126                   239                        0.69 TB/s        0.22 TB/s
    F8_E4M3   62                    158                        0.52 TB/s        0.11 TB/s
"""

from .available import available, fast_float64
from .tile import TASK_BYTES, Tile

__all__ = ["TASK_BYTES", "Tile", "available", "fast_float64"]
