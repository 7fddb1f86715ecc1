"""Do 20,000 tensors of 1,024 elements take longer than one tensor of the same bytes?

Timed: `engine.execute` over two files of 20,000 float32 tensors each (82 MB), in the page cache, once the headers are
read and the tensors joined and planned; files are opened and mapped afresh.
Against: `engine.execute` over two files of one tensor each that holds the same bytes.
Not timed: reading the headers, and laying their tensors out as a plan (20 ms).
"""

import itertools
from pathlib import Path

import numpy as np
import pytest

from weighbridge import open_checkpoint
from weighbridge.engine.execute import execute
from weighbridge.engine.plan import batches

from measuring import bare_sum, in_turn, joined, joined_spans, kept_warm, plainly, related, scaled, spans, warm, write

ELEMENTS = 1024
PAIRS = [(1, 0)]
ROUNDS = 21  # some hundredths of a second each


@pytest.fixture(scope="module")
def stored(files):
    tensors = scaled(20_000)
    layouts = {
        "many": {f"block.{number}.weight": (ELEMENTS,) for number in range(tensors)},
        "one": {"weight": (tensors * ELEMENTS,)},
    }
    block = related("F32")
    opened = {}
    for name, shapes in layouts.items():
        paths = [
            write(files / "small" / f"{tensors}-{name}-{side}.safetensors", shapes, "F32", itertools.repeat(data))
            for side, data in zip(("base", "other"), block, strict=True)
        ]
        if not warm(*paths):
            pytest.skip("the page cache does not hold the files")
        opened[name] = joined(*map(open_checkpoint, paths))
    return block, opened["many"], opened["one"]


def test_after_the_headers(benchmark, recorder, stored):
    block, many, one = stored
    apart, whole = execute(many, 2, PAIRS), execute(one, 2, PAIRS)
    for row in (0, len(many) // 2, len(many) - 1):
        start = 4 * ELEMENTS * row % block.base.size
        selfs, pair = plainly(*(side[start : start + 4 * ELEMENTS] for side in block), "F32")
        np.testing.assert_allclose(apart.selfs[row], selfs, rtol=1e-12)
        np.testing.assert_allclose(apart.pairs[row], pair, rtol=1e-12)
    added = [0, 1, 3, 5]  # what adds up without cancelling
    np.testing.assert_allclose(apart.selfs[..., added].sum(0), whole.selfs[0][..., added], rtol=1e-12)
    np.testing.assert_allclose(apart.pairs[..., :3].sum(0), whole.pairs[0][..., :3], rtol=1e-12)

    planned_many, planned_one = list(batches(many)), list(batches(one))
    times = in_turn(
        benchmark,
        {
            "20,000 tensors of 1,024 elements": lambda: execute(planned_many, 2, PAIRS),
            "one tensor of the same bytes": lambda: execute(planned_one, 2, PAIRS),
            "bare sum of both files": bare_sum(*joined_spans(spans(one))),
        },
        rounds=ROUNDS,
        before=kept_warm(*{Path(ref.file) for tensor in (many[0], one[0]) for ref in tensor.operands}),
    )
    recorder(
        times,
        against="one tensor of the same bytes",
        asked="<= 1.3",
        ceiling="bare sum of both files",
        bytes=whole.bytes_read,
    )
