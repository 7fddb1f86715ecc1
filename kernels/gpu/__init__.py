"""The GPU backend: fused Triton kernels, launched through torch. Neither is imported before a tile is made.

`cells` deals operands and pairs out to launches, `fused` has the tile kernel, `compensated` and `again` those for GPUs
slow at float64, `loads`, `walk`, `packed` and `closing` what they are made of, `gather` the second step; `programs`
says what each is compiled for, and `tile` launches them.
What the machine code of the fast walk says (Triton 3.9, sm_90, a pair of operands with all sums; `python -m
support.compiled` in tests/ prints it):

    dtype     instructions a pair   of them float64   conversions to float64   16-byte loads   outside of the walk
    F32       40.5                  18                2                        0.5             957
    BF16      23.2                  10                2                        0.25            1081
    F16       31.2                  18                2                        0.25            993
    F8_E4M3   14.6                   4                2                        0.125           741
    F8_E5M2   13.7                   4                2                        0.125           864
    ... > 16  20.0                  10                2                        0.125          1102

F8_E5M2 is walked in the first way where no magnitude of a strip is above 16, as weights are that have not been scaled;
of its code outside of the walk (1703) one of two branches is run, counted here where the other one is left out.

Triton 3.6 makes 39.5, 23.0 and 14.6 of them, and 1084, 1236 and 832 outside.

Derived from that, not measured, for an H100 (132 multiprocessors at 1.755 GHz: 29.6 T instructions of a thread issued a
second, 14.8 T of them float64, as many by the pipe of integers and comparisons, 3.7 T conversions; a copy rate of
3.0 TB/s, of which a pair takes 8, 4 or 2 bytes), with what is outside of the walk spread over the 256 elements that a
thread has of a strip, or the 512 of a chunk of F8_E4M3:

    dtype     issued a pair   pairs a second by issue / by float64 / by conversions   bytes a second
    F32       44.2            0.67 T / 0.82 T / 1.85 T                                 5.4 TB/s: memory is the limit
    BF16      27.4            1.08 T / 1.48 T / 1.85 T                                 4.3 TB/s: memory is the limit
    F16       35.1            0.84 T / 0.82 T / 1.85 T                                 3.3 TB/s: memory is the limit
    F8_E4M3   16.0            1.85 T / 3.7 T / 1.85 T                                  3.7 TB/s: memory is the limit
    F8_E5M2   17.1            1.73 T / 3.7 T / 1.85 T                                  3.5 TB/s: memory is the limit
    ... > 16  24.3            1.22 T / 1.48 T / 1.85 T                                 2.4 TB/s

That is where no strip is walked twice (`fused` says when one is), and if F8_E4M3 is decoded (F2FP, one instruction for
two elements) at the rate of conversions between narrow types, 64 a clock and multiprocessor; were it 16, as to float64,
that would be 2.5 TB/s. An H200 has the same arithmetic and a copy rate of 4.3 TB/s: F32 and BF16 reach it, F16 comes to
0.77 of it, F8_E4M3 to 0.86 and F8_E5M2 to 0.81 or 0.57.

Kernels that are told at run time which dtypes of a size they have (`cells`) have the decoders of all in their walk, of
which one is issued. Compiled with no other (F8_E5M2FNUZ, BF16, I32, F64) they have

    bytes     instructions a pair   issued a pair   bytes a second
    1 and 1   35                    39              1.5 TB/s
    2 and 2   39                    43              2.8 TB/s
    4 and 4   58                    62              3.8 TB/s
    8 and 8   67                    71              6.7 TB/s: memory is the limit

Two dtypes of two sizes are cells of two and one, which a single pair takes half of. With the decoders of all, which
makes them look slower than they are, such a pair is issued these:

    dtypes              instructions a pair   issued for one   bytes a second
    BF16 and F32        44.9                  95               1.9 TB/s
    F8_E4M3 and F32     72.6                  151              1.0 TB/s
    F8_E4M3 and BF16    75.3                  156              0.6 TB/s

What comes from files comes at 55 GB/s at most, so there they are as good as the others.

All pairs take, in squares of 2 x 2, 11.5 instructions of bfloat16, 1.7 more outside: at most 2.2 T
pairs of elements a second; and 8.7 of F8_E4M3, 0.5 more outside.

An A100 has no instructions for two bfloat16 or for F8_E4M3: on sm_80 these take 28 and 23 instructions a pair, and
F8_E5M2 28.

In float32 (sm_89) a pair takes these, and what is outside of the walk about 1040 (F8_E4M3: 700), of which 241 (113) in
float64 and conversions, each of which takes the time of 64 others. Derived, not measured, for an RTX 4090 (128
multiprocessors at 2.52 GHz: 41.3 T instructions of a thread a second, 0.65 T in float64; memory brings 1.0 TB/s), with
what float64 lets `fused` do there:

    dtype     instructions a pair   with what is outside   bytes a second                   ... of `fused`
    F32       157                   220                    1.5 TB/s: memory is the limit    0.25 TB/s
    BF16      136                   199                    0.8 TB/s                         0.21 TB/s
    F8_E4M3    55                    71                    1.2 TB/s: memory is the limit    0.14 TB/s
"""

from .available import available, fast_float64
from .compiling import compile_ahead
from .tile import TASK_BYTES, Tile

__all__ = ["TASK_BYTES", "Tile", "available", "compile_ahead", "fast_float64"]
