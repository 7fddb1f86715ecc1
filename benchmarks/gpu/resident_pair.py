"""How near does one pair in device memory come to a device-to-device copy?

Timed: the kernels for all eleven self and pair sums of two operands of 4 GiB each in device memory, by the device's
clock. Against: a copy that reads and writes as many bytes together as the kernels read. Recorded beside it: the time by
the host's clock until the sums are in its memory.
"""

from collections.abc import Callable, Iterator
from functools import partial

from weighbridge.kernels.decoders import DECODERS

from .rig import COPY, Resident, Rig, check
from measuring import ELEMENTS, Row, plainly, related, scaled

ASKED = {"F32": ">= 0.95", "BF16": ">= 0.95", "F8_E4M3": ">= 0.8"}
OPERAND_BYTES = 4 << 30


def rows(rig: Rig) -> Iterator[Callable[[], Row]]:
    for code, asked in ASKED.items():
        yield partial(_row, rig, code, asked)


def _row(rig: Rig, code: str, asked: str) -> Row:
    times = max(scaled(OPERAND_BYTES) // (ELEMENTS * DECODERS[code].itemsize), 1)
    block = related(code)
    held = Resident(rig, code, block, [times * ELEMENTS], [(1, 0)])
    selfs, pairs = held.sums()
    wanted = plainly(*block, code, times)
    check(selfs[0], wanted[0])
    check(pairs[0], wanted[1])
    subject, whole = f"all sums of a pair, {code}", "… and back on the host"
    seconds = rig.in_turn(
        {subject: held.run, COPY: rig.copy_of(held.nbytes), whole: held.sums},
        walls=[whole],
    )
    return rig.row("resident_pair", seconds, against=COPY, asked=asked, ceiling=COPY, nbytes=held.nbytes)
