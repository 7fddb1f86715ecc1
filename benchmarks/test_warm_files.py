"""Does comparing two large files in the page cache take longer than `cat`-ing them?

Timed: the whole process `weighbridge compare BASE OTHER`, its table written to /dev/null: two files of 6 GiB, 24
float32 tensors each, wholly in the page cache.
Against: `cat BASE OTHER > /dev/null`.
"""

import json
import subprocess

import numpy as np
import pytest

from weighbridge import open_checkpoint
from weighbridge.engine import metrics

from measuring import (
    bare_sum,
    command,
    in_turn,
    joined,
    joined_spans,
    kept_warm,
    plainly,
    related,
    spans,
    warm,
    write_pair,
)

TENSORS = 24
METRICS = ("mean_abs", "base_mean_abs", "delta", "cosine", "cosine_distance")


@pytest.fixture(scope="module")
def pair(files):
    block = related("F32")
    paths = write_pair(files / "warm", block, TENSORS, 6 << 30)
    if not warm(*paths):
        pytest.skip("the page cache does not hold the two files")
    return block, *paths


def test_whole_process(benchmark, recorder, weighbridge, pair):
    block, base, other = pair
    shown = subprocess.run([weighbridge, "compare", base, other, "--format", "json"], check=True, capture_output=True)
    rows = json.loads(shown.stdout)["tensors"]
    assert [row["status"] for row in rows] == ["matched"] * TENSORS
    selfs, sums = plainly(*block, "F32")
    wanted = {name: values[0] for name, values in metrics.compute(selfs[1:], selfs[:1], sums).items()}
    for metric in METRICS:
        np.testing.assert_allclose([row[metric] for row in rows], wanted[metric], rtol=1e-11)

    tensors = joined(open_checkpoint(base), open_checkpoint(other))
    times = in_turn(
        benchmark,
        {
            "weighbridge compare, 6 GiB each": command(weighbridge, "compare", base, other),
            "cat of both": command("cat", base, other),
            "bare sum of both": bare_sum(*joined_spans(spans(tensors))),
        },
        before=kept_warm(base, other),
    )
    recorder(
        times,
        against="cat of both",
        asked="<= 1.0",
        ceiling="bare sum of both",
        bytes=sum(tensor.nbytes for tensor in tensors),
    )
