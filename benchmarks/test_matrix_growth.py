"""Does a pair-element of a family of 64 cost more than one of a family of 2?

Timed: `engine.all_pairs.gather` of 64 checkpoints in the page cache: self sums of all and pair sums of 2,016 pairs.
Against: the same of the first 2, as often as comes to the same number of pair-elements. 4, 8, 16 and 32 are timed
beside them, and stand in the row's `seconds` per 2,016 pairs.
"""

import itertools

import numpy as np
import pytest

from weighbridge import compare, open_checkpoint
from weighbridge.engine.all_pairs import gather
from weighbridge.engine.joint import join

from measuring import Seconds, bare_sum, in_turn, kept_warm, related, scaled, warm, write

COUNTS = (64, 2, 4, 8, 16, 32)
PAIRS = 64 * 63 // 2


@pytest.fixture(scope="module")
def family(files):
    elements = scaled(4 << 20) // 1024 * 1024
    shapes = {f"layer.{number}.weight": (elements // 4096, 1024) for number in range(4)}
    blocks = [related("F32", noise=0.001 * number, seed=number).other for number in range(64)]
    folder = files / f"sixty-four-{elements}"
    paths = [
        write(folder / f"{number:02}.safetensors", shapes, "F32", itertools.repeat(block))
        for number, block in enumerate(blocks)
    ]
    if not warm(*paths):
        pytest.skip("the page cache does not hold the 64 files")
    return paths


def test_pair_elements(benchmark, recorder, family):
    opened = [open_checkpoint(path) for path in family]
    ledgers = {count: join(opened[:count]) for count in COUNTS}
    found = gather(ledgers[64])
    for p in (0, 1000, PAIRS - 1):
        i, j = found.pairs[p]
        wanted = compare(opened[i], opened[j])
        np.testing.assert_array_equal(found.sums[:, p], wanted.pair)

    def per_pairs(count):
        def run():
            done = gather(ledgers[count])
            return Seconds(done.seconds * PAIRS / len(done.pairs))

        return run

    # pytest-benchmark times the subject itself: all of `gather`, not its own account of the time.
    names = {count: f"{PAIRS:,} pairs, of {count} at a time" for count in COUNTS}
    times = in_turn(
        benchmark,
        {names[64]: lambda: gather(ledgers[64])}
        | {names[count]: per_pairs(count) for count in COUNTS[1:]}
        | {"bare sum of the 64 files": bare_sum(*family)},
        before=kept_warm(*family),
        rounds=5,
    )
    nbytes = sum(checkpoint.nbytes for checkpoint in opened)
    recorder(times, against=names[2], asked="<= 1", ceiling="bare sum of the 64 files", bytes=nbytes)
