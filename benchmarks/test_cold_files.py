"""Does comparing two files that are on the disk only take longer than `cat`-ing them?

Timed: the whole process `weighbridge compare BASE OTHER`: two files of 2 GiB, float32. Before every single run both are
taken out of the page cache, and that they are out is seen by mincore.
Against: `cat BASE OTHER > /dev/null`, as cold.
The ceiling is what the disk gives to eight threads that read both files into buffers; the disk of a virtual machine may
have a cache of its own, which stays.
"""

import json
import subprocess

import numpy as np
import pytest

from measuring import cold_read, command, drop, in_turn, plainly, related, write_pair

ROUNDS = 5  # some 4 s each at 1 GB/s
TENSORS = 8


@pytest.fixture(scope="module")
def pair(files):
    block = related("F32")
    return block, *write_pair(files / "cold", block, TENSORS, 2 << 30)


def test_whole_process(benchmark, recorder, weighbridge, pair):
    block, base, other = pair
    try:
        drop(base, other)
    except RuntimeError as error:  # a file system in memory, for one
        pytest.skip(str(error))
    shown = subprocess.run([weighbridge, "compare", base, other, "--format", "json"], check=True, capture_output=True)
    rows = json.loads(shown.stdout)["tensors"]
    assert [row["status"] for row in rows] == ["matched"] * TENSORS
    (_, sums) = plainly(*block, "F32")
    np.testing.assert_allclose([row["delta"] for row in rows], sums[0, 0] / (block.base.size // 4), rtol=1e-12)

    times = in_turn(
        benchmark,
        {
            "weighbridge compare, cold": command(weighbridge, "compare", base, other),
            "cat of both, cold": command("cat", base, other),
            "eight threads reading both, cold": cold_read(base, other),
        },
        rounds=ROUNDS,
        before=lambda: drop(base, other),
    )
    recorder(
        times,
        against="cat of both, cold",
        asked="<= 1.1",
        ceiling="eight threads reading both, cold",
        bytes=base.stat().st_size + other.stat().st_size,
    )
