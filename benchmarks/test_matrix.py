"""How long do all 120 pairs of 16 checkpoints of BERT's size take, process and all?

Timed: the whole process `weighbridge matrix` of 16 checkpoints of 0.44 GB, all metrics, over all tensors and by kind,
as JSON; wholly in the page cache, and with none of it there.
Against: `cat` of the 16 files; and `weighbridge.compare` of all 120 pairs in one process, checkpoints opened once.
Cold, that is a family larger than memory: both files of a pair are taken out of the page cache before it is compared,
and the dropping is not timed.
That each byte is read once is counted.
"""

import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest

import weighbridge as library
from weighbridge.engine import demo

from measuring import SCALE, Seconds, bare_sum, cold_read, command, drop, in_turn, kept_warm, related, warm, write

CHECKPOINTS = 16
COLD_ROUNDS = 2  # the 120 pairs read 105 GB

COMPARE_ALL = """
import itertools, sys, weighbridge
opened = [weighbridge.open_checkpoint(path) for path in sys.argv[1:]]
for base, other in itertools.combinations(opened, 2):
    weighbridge.compare(base, other).to_dict()
"""


@pytest.fixture(scope="module")
def family(files):
    """BERT's names and shapes, 16 times: a base, and 15 times the base plus noise of their own."""
    layout = demo.layout(demo.BASE, full=SCALE >= 1)
    shapes = {name: shape for name, shape in layout.shapes.items() if name.startswith("bert.")}
    folder = files / ("family" if SCALE >= 1 else "family-reduced")
    base = related("F32").base
    paths = [write(folder / "0.safetensors", shapes, "F32", itertools.repeat(base))]
    for number in range(1, CHECKPOINTS):
        other = related("F32", noise=0.001 * number, seed=number).other
        paths.append(write(folder / f"{number}.safetensors", shapes, "F32", itertools.repeat(other)))
    return paths


@pytest.fixture(scope="module")
def checked(family, weighbridge, tmp_path_factory):
    """The answer of the command, after it was found to be that of `compare`, and every byte to be read once."""
    shown = subprocess.run(
        [weighbridge, "matrix", *family, "--format", "json"], check=True, capture_output=True, text=True
    )
    found = json.loads(shown.stdout)
    for i, j in ((1, 0), (15, 7), (3, 12)):
        wanted = library.compare(family[j], family[i]).overall
        for metric, matrix in found["pooled"].items():
            assert matrix[i][j] == wanted[f"pooled_{metric}"], (i, j, metric)
    opened = [library.open_checkpoint(path) for path in family]
    nbytes = sum(checkpoint.nbytes for checkpoint in opened)
    assert library.matrix(opened).bytes_read == nbytes, "each byte once"
    assert np.array(found["n"]).min() == len(opened[0].tensors)
    return nbytes


def test_in_the_page_cache(benchmark, recorder, weighbridge, family, checked):
    if not warm(*family):
        pytest.skip("the page cache does not hold the 16 files")
    times = in_turn(
        benchmark,
        {
            "weighbridge matrix": command(weighbridge, "matrix", *family, "--format", "json"),
            "cat of the 16 files": command("cat", *family),
            "compare of all 120 pairs": command(sys.executable, "-c", COMPARE_ALL, *family),
            "bare sum of the 16 files": bare_sum(*family),
        },
        before=kept_warm(*family),
        rounds=5,
    )
    for against, asked in (("cat of the 16 files", "<= 4"), ("compare of all 120 pairs", ">= 2")):
        recorder(times, against=against, asked=asked, ceiling="bare sum of the 16 files", bytes=checked)


def test_cold(benchmark, recorder, weighbridge, family, checked):
    try:
        drop(*family)
    except RuntimeError as error:  # a file system in memory, for one
        pytest.skip(str(error))

    def compare_all():
        opened = [library.open_checkpoint(path) for path in family]
        seconds = 0.0
        for (base, one), (other, two) in itertools.combinations(zip(opened, family, strict=True), 2):
            drop(one, two)
            started = time.perf_counter()
            library.compare(base, other).to_dict()
            seconds += time.perf_counter() - started
        return Seconds(seconds)

    times = in_turn(
        benchmark,
        {
            "weighbridge matrix, cold": command(weighbridge, "matrix", *family, "--format", "json"),
            "compare of all 120 pairs, each cold": compare_all,
            "eight threads reading all, cold": cold_read(*family),
        },
        before=lambda: drop(*family),
        rounds=COLD_ROUNDS,
        untimed=False,
    )
    recorder(
        times,
        against="compare of all 120 pairs, each cold",
        asked=">= 8",
        ceiling="eight threads reading all, cold",
        bytes=checked,
    )
