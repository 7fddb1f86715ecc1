"""How long do one base and 16 others of BERT's size take in one tile, read straight from their files?

Timed: `engine.execute` over 17 checkpoints of 0.44 GB, wholly in the page cache: self sums of all 17, pair sums of each
of the 16 with the base, files opened and mapped afresh.
Against: `cat` of the 17 files. Not timed: Python's start, the reading of headers.
That each byte is read once is counted.
"""

import numpy as np

from weighbridge import open_checkpoint
from weighbridge.engine.execute import execute
from weighbridge.kernels import reference

from measuring import bare_sum, command, in_turn, joined, joined_spans, kept_warm, spans

PAIRS = [(other, 0) for other in range(1, 17)]


def test_from_files(benchmark, recorder, family):
    opened = [open_checkpoint(path) for path in family]
    tensors = joined(*opened)

    def run():
        return execute(tensors, len(family), PAIRS)

    done = run()
    assert done.bytes_read == sum(checkpoint.nbytes for checkpoint in opened), "each byte once"
    assert np.isfinite(done.selfs).all() and np.isfinite(done.pairs).all()
    vectors = [tensor.index for tensor in tensors if tensor.elements <= 768]  # exact arithmetic takes its time
    for index in (vectors[0], vectors[-1]):
        operands = [
            np.fromfile(ref.file, np.uint8, count=ref.nbytes, offset=ref.offset) for ref in tensors[index].operands
        ]
        selfs, pairs = reference.tile_sums(operands, ["F32"] * len(family), np.array(PAIRS))
        np.testing.assert_allclose(done.selfs[index], selfs, rtol=1e-12)
        np.testing.assert_allclose(done.pairs[index], pairs, rtol=1e-12)
    for index in np.argsort([-tensor.elements for tensor in tensors])[:3]:  # the largest, in NumPy
        base, *others = (
            np.fromfile(ref.file, np.float32, count=ref.elements, offset=ref.offset) for ref in tensors[index].operands
        )
        wanted = [np.abs(np.subtract(other, base, dtype=np.float64)).sum() for other in others]
        np.testing.assert_allclose(done.pairs[index, :, 0], wanted, rtol=1e-12)

    times = in_turn(
        benchmark,
        {
            "one base against 16": run,
            "cat of the 17 files": command("cat", *family),
            "bare sum of the 17 files": bare_sum(*joined_spans(spans(tensors))),
        },
        before=kept_warm(*family),
    )
    recorder(
        times,
        against="cat of the 17 files",
        asked="<= 0.9",
        ceiling="bare sum of the 17 files",
        bytes=done.bytes_read,
    )
