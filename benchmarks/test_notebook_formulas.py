"""How much faster are all sums than the notebook's four formulas in torch, on the same data in memory?

Timed: `engine.execute` over the 197 tensors that BERT and ctrl_visual_bert share, held in memory as torch tensors.
Against: mean |x|, mean |y|, mean |x - y| and torch's cosine_similarity of the same tensors, operation by operation,
tensor by tensor, as the notebook does it, with as many threads.
Not timed: Python's start, imports, reading the files.
"""

from dataclasses import replace

import numpy as np
import torch
from peers.notebook_torch import formulas
from safetensors.torch import load_file

from weighbridge import match
from weighbridge.engine import metrics
from weighbridge.engine.execute import execute
from weighbridge.engine.plan import Joined
from weighbridge.kernels.cpu import available_threads

from measuring import bare_sum, in_turn

METRICS = ("mean_abs", "base_mean_abs", "delta", "cosine")
ROUNDS = 5


def test_in_memory(benchmark, recorder, bert_pair):
    torch.set_num_threads(available_threads())
    base, other = (load_file(path) for path in bert_pair.weights)
    matched = match(bert_pair.base, bert_pair.other).matched
    tensors, pairs = [], []
    for index, row in enumerate(matched):
        y, x = base[row.base_tensor], other[row.tensor]
        refs = (replace(row.base, offset=None, memory=y), replace(row.other, offset=None, memory=x))
        tensors.append(Joined(index, refs, row.elements))
        pairs.append((x.flatten()[: row.elements], y.flatten()[: row.elements]))

    def ours():
        return execute(tensors, 2, [(1, 0)])

    def theirs(dtype=torch.float32):
        return [formulas(x.to(dtype), y.to(dtype)) for x, y in pairs]

    sums = ours()
    found = metrics.compute(sums.selfs[:, 1], sums.selfs[:, 0], sums.pairs[:, 0])
    found = np.stack([found[metric] for metric in METRICS], axis=1)
    np.testing.assert_allclose(found, theirs(torch.float64), rtol=1e-11)
    np.testing.assert_allclose(found, theirs(), rtol=1e-2)  # float32: off by 0.0025 on the word embeddings

    times = in_turn(
        benchmark,
        {
            "all sums, 197 tensors in memory": ours,
            "the notebook's formulas in torch": theirs,
            "bare sum of the same tensors": bare_sum(*(side.numpy() for pair in pairs for side in pair)),
        },
        rounds=ROUNDS,
    )
    recorder(
        times,
        against="the notebook's formulas in torch",
        asked=">= 20",
        ceiling="bare sum of the same tensors",
        bytes=sums.bytes_read,
    )
