"""Are 10,000 tensors of 65,536 elements in device memory as fast as one tensor of the same bytes?

Timed: the kernels for 10,000 pairs of float32 tensors, by the device's clock. Against: one pair of the same bytes.
"""

from collections.abc import Callable, Iterator
from functools import partial

from .rig import COPY, Resident, Rig, check
from measuring import Row, plainly, related, scaled

ELEMENTS = 65_536
TENSORS = 10_000
PAIR = [(1, 0)]


def rows(rig: Rig) -> Iterator[Callable[[], Row]]:
    yield partial(_row, rig)


def _row(rig: Rig) -> Row:
    tensors = scaled(TENSORS)
    block = related("F32", ELEMENTS)
    many = Resident(rig, "F32", block, [ELEMENTS] * tensors, PAIR)
    one = Resident(rig, "F32", block, [ELEMENTS * tensors], PAIR)
    selfs, pairs = many.sums()
    wanted = plainly(*block, "F32")
    for k in (0, tensors // 2, tensors - 1):
        check(selfs[k], wanted[0])
        check(pairs[k], wanted[1])
    wanted = plainly(*block, "F32", tensors)
    check(one.sums()[0][0], wanted[0])
    subject, whole = "10,000 tensors of 65,536 elements", "one tensor of the same bytes"
    seconds = rig.in_turn({subject: many.run, whole: one.run, COPY: rig.copy_of(one.nbytes)})
    return rig.row("small_tensors", seconds, against=whole, asked=">= 0.9", ceiling=COPY, nbytes=many.nbytes)
