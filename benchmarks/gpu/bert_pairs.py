"""How much longer do BERT's 197 pairs in device memory take than one pair of the same bytes?

Timed: the kernels for the 197 pairs of float32 tensors that BERT shares with each VoLTA model (0.44 GB a side, most of
them 768 elements, the largest 23 million), by the device's clock. Against: one pair of the same bytes.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from .rig import COPY, Resident, Rig, check
from measuring import Row, plainly, related, scaled

PAIR = [(1, 0)]


def sizes(width: int) -> list[int]:
    """Elements of BERT's 197 tensors: 5 of the embeddings, 16 of each of 12 layers; `width` is 768."""
    embeddings = [30522 * width, 512 * width, 2 * width, width, width]
    square, wide = [width * width, width], [4 * width * width, 4 * width]
    norm = [width, width]
    layer = [*square * 4, *norm, *wide, 4 * width * width, width, *norm]
    return embeddings + 12 * layer


def rows(rig: Rig) -> Iterator[Callable[[], Row]]:
    yield partial(_row, rig)


def _row(rig: Rig) -> Row:
    elements = sizes(scaled(768, 16))
    block = related("F32")
    apart = Resident(rig, "F32", block, elements, PAIR)
    whole = Resident(rig, "F32", block, [sum(elements)], PAIR)
    selfs, pairs = apart.sums()
    starts = np.cumsum(elements) - elements
    for k in (2, 3, 100, 196):
        parts = [np.resize(np.roll(side, -4 * int(starts[k])), 4 * elements[k]) for side in block]
        wanted = plainly(*parts, "F32")
        check(selfs[k], wanted[0])
        check(pairs[k], wanted[1])
    whole_selfs, whole_pairs = whole.sums()
    added = [0, 1, 3]  # what adds up without cancelling
    np.testing.assert_allclose(selfs[..., added].sum(0), whole_selfs[0][..., added], rtol=1e-11)
    np.testing.assert_allclose(pairs[..., :3].sum(0), whole_pairs[0][..., :3], rtol=1e-11)
    subject, one = "BERT's 197 pairs", "one pair of the same bytes"
    seconds = rig.in_turn({subject: apart.run, one: whole.run, COPY: rig.copy_of(whole.nbytes)})
    return rig.row("bert_pairs", seconds, against=one, asked="<= 1.5", ceiling=COPY, nbytes=apart.nbytes)
