"""What part of the arithmetic limit do all 120 pairs of 16 bfloat16 operands in device memory reach?

Timed: the kernels for 16 operands of 256 MiB and their 120 pairs, by the device's clock.
Against: the arithmetic limit. The sums of a pair-element take four instructions in double precision at least:

    d = x - y               one addition
    Σ|d| += |d|             one addition, the magnitude is a modifier of its operand
    Σd²  += d * d           one fused multiplication and addition
    Σxy  += x * y           one fused multiplication and addition

max|d| and the count of differing elements can go by float32 or integer units, beside them. Self sums take three more
for an element of an operand (Σ|x|, Σx, Σx²), which serves 7.5 pairs here. So with R double-precision instructions a
second, P pairs of N operands of E elements take at least E (4 P + 3 N) / R seconds. R is measured in the same run: a
kernel that does nothing but independent fused multiplications and additions (`peak`). Keeping the rounding errors of Σx
and Σxy, as 1e-12 needs where they cancel, and rounding a product before it is added both take more than this limit has.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

from .peak import double_instructions
from .rig import COPY, Resident, Rig, check
from measuring import ELEMENTS, Row, Times, plainly, related, scaled

N = 16
PAIRS = list(itertools.combinations(range(N), 2))
OPERAND_BYTES = 256 << 20
LIMIT = "arithmetic limit in float64, from the rate measured"


def rows(rig: Rig) -> Iterator[Callable[[], Row]]:
    yield partial(_row, rig)


def _row(rig: Rig) -> Row:
    times = max(scaled(OPERAND_BYTES) // (2 * ELEMENTS), 1)
    data = [related("BF16", noise=0.002 * seed, seed=seed).other for seed in range(1, N + 1)]
    held = Resident(rig, "BF16", data, [times * ELEMENTS], PAIRS)
    selfs, pairs = held.sums()
    for p in (0, len(PAIRS) // 2, len(PAIRS) - 1):
        i, j = PAIRS[p]
        wanted = plainly(data[j], data[i], "BF16", times)
        check(selfs[0, [j, i]], wanted[0])
        check(pairs[0, p], wanted[1][0])
    count, run = double_instructions(rig)
    subject, peak = f"{len(PAIRS)} pairs of {N}", "peak kernel"
    measured = rig.in_turn({subject: held.run, COPY: rig.copy_of(held.nbytes), peak: run})
    needed = times * ELEMENTS * (4 * len(PAIRS) + 3 * N)
    limit = [seconds * needed / count for seconds in measured.seconds[peak]]
    seconds = Times({**{name: measured.seconds[name] for name in (subject, COPY)}, LIMIT: limit})
    return rig.row("resident_all_pairs", seconds, against=LIMIT, asked=">= 0.5", ceiling=LIMIT, nbytes=held.nbytes)
