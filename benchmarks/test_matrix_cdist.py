"""How much faster are all pairs than torch.cdist and scipy's cdist, which compute one metric of them?

Timed: `engine.all_pairs.gather` of 16 checkpoints of 16 Mi float32 elements, in the page cache: self sums and five pair
sums, in float64.
Against: `torch.cdist(p=1)` and `scipy.spatial.distance.cdist("cityblock")` of the weights, stacked and in memory
already: the sum of absolute differences alone, torch in float32, scipy in float64.
"""

import itertools

import numpy as np
import pytest

from weighbridge import open_checkpoint
from weighbridge.engine.all_pairs import gather
from weighbridge.engine.joint import join

from measuring import bare_sum, in_turn, kept_warm, related, scaled, warm, write

CHECKPOINTS = 16


@pytest.fixture(scope="module")
def family(files):
    elements = scaled(16 << 20) // 1024 * 1024
    shapes = {"layer.0.weight": (elements // 1024, 1024)}
    folder = files / f"cdist-{elements}"
    blocks = [related("F32", noise=0.001 * (number + 1), seed=number).other for number in range(CHECKPOINTS)]
    paths = [
        write(folder / f"{number}.safetensors", shapes, "F32", itertools.repeat(block))
        for number, block in enumerate(blocks)
    ]
    if not warm(*paths):
        pytest.skip("the page cache does not hold the 16 files")
    return paths


def test_in_memory(benchmark, recorder, family):
    import torch
    from safetensors.torch import load_file
    from scipy.spatial.distance import cdist

    opened = [open_checkpoint(path) for path in family]
    ledger = join(opened)
    single = torch.stack([load_file(path)["layer.0.weight"].flatten() for path in family])
    double = single.double().numpy()
    found = gather(ledger)
    first, second = found.pairs.T
    np.testing.assert_allclose(found.sums[0, :, 0], cdist(double, double, "cityblock")[first, second], rtol=1e-9)

    times = in_turn(
        benchmark,
        {
            "all pairs of 16, from their files": lambda: gather(ledger),
            "torch.cdist(p=1)": lambda: torch.cdist(single, single, p=1),
            'scipy cdist "cityblock"': lambda: cdist(double, double, "cityblock"),
            "bare sum of the 16 files": bare_sum(*family),
        },
        before=kept_warm(*family),
        rounds=3,
    )
    for against in ("torch.cdist(p=1)", 'scipy cdist "cityblock"'):
        nbytes = sum(checkpoint.nbytes for checkpoint in opened)
        recorder(times, against=against, asked=">= 3", ceiling="bare sum of the 16 files", bytes=nbytes)
