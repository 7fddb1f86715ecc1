"""How near do one base against 16 in device memory come to a device-to-device copy of the same bytes?

Timed: the kernels for the self sums of 17 operands of 1 GiB and the pair sums of each other with the base, by the
device's clock. Against: a copy that reads and writes as many bytes as the 17 have: each byte is counted once, though
the base takes part in 16 pairs.
"""

from collections.abc import Callable, Iterator
from functools import partial

from weighbridge.kernels.decoders import DECODERS

from .rig import COPY, Resident, Rig, check
from measuring import ELEMENTS, Row, plainly, related, scaled

ASKED = {"F32": ">= 0.9", "BF16": ">= 0.6"}
OTHERS = 16
OPERAND_BYTES = 1 << 30


def rows(rig: Rig) -> Iterator[Callable[[], Row]]:
    for code, asked in ASKED.items():
        yield partial(_row, rig, code, asked)


def _row(rig: Rig, code: str, asked: str) -> Row:
    times = max(scaled(OPERAND_BYTES) // (ELEMENTS * DECODERS[code].itemsize), 1)
    blocks = [related(code, noise=0.002 * seed, seed=seed) for seed in range(1, OTHERS + 1)]
    data = [blocks[0].base, *(block.other for block in blocks)]
    held = Resident(rig, code, data, [times * ELEMENTS], [(n, 0) for n in range(1, OTHERS + 1)])
    selfs, pairs = held.sums()
    for n in (1, OTHERS):
        wanted = plainly(*blocks[n - 1], code, times)
        check(selfs[0, [0, n]], wanted[0])
        check(pairs[0, n - 1], wanted[1][0])
    subject = f"one base against {OTHERS}, {code}"
    seconds = rig.in_turn({subject: held.run, COPY: rig.copy_of(held.nbytes)})
    return rig.row("resident_star", seconds, against=COPY, asked=asked, ceiling=COPY, nbytes=held.nbytes)
