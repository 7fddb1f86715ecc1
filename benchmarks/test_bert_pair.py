"""How long does it take to compare two checkpoints of BERT's size, from the shell's prompt to the answer?

Timed: the whole process `weighbridge compare BASE OTHER`, its table written to a pipe, both files in the page cache.
Against: a process that only imports numba (what any compiled Python starts with), and the notebook's formulas in
torch, once as a whole process and once with Python's start and torch's import left out.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from weighbridge import match
from weighbridge.engine.plan import Joined

from measuring import Seconds, bare_sum, command, in_turn, joined_spans, kept_warm, spans

PEER = Path(__file__).parent / "peers" / "notebook_torch.py"
METRICS = ("mean_abs", "base_mean_abs", "delta", "cosine")


def answer(*arguments):
    return json.loads(subprocess.run(list(map(str, arguments)), check=True, capture_output=True, text=True).stdout)


def test_whole_process(benchmark, recorder, weighbridge, bert_pair, tmp_path):
    base, other = bert_pair.weights
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps(list(bert_pair.sources.items())))
    peer = (sys.executable, PEER, base, other, pairs)

    ours = answer(weighbridge, "compare", bert_pair.base, bert_pair.other, "--format", "json")
    rows = [row for row in ours["tensors"] if row["status"] == "matched"]
    assert {row["tensor"]: row["base_tensor"] for row in rows} == bert_pair.sources
    means = [sum(row[metric] for row in rows) / len(rows) for metric in METRICS]
    assert means == pytest.approx(answer(*peer, "float64")["means"], rel=1e-12)
    # In float32 torch's cosine drifts on long tensors, 0.0025 on the word embeddings: the loose bound is for that.
    assert means == pytest.approx(answer(*peer)["means"], rel=1e-4)

    matched = match(bert_pair.base, bert_pair.other).matched
    tensors = [Joined(number, (row.base, row.other), row.elements) for number, row in enumerate(matched)]
    read = sum(tensor.nbytes for tensor in tensors)
    times = in_turn(
        benchmark,
        {
            "weighbridge compare": command(weighbridge, "compare", bert_pair.base, bert_pair.other),
            "python -c 'import numba'": command(sys.executable, "-c", "import numba"),
            "torch, whole process": command(*peer),
            "torch, imports left out": lambda: Seconds(answer(*peer)["seconds"]),
            "bare sum of what is compared": bare_sum(*joined_spans(spans(tensors))),
        },
        before=kept_warm(base, other),
    )
    for against, asked in (
        ("python -c 'import numba'", "<= 2.0"),
        ("torch, whole process", ">= 3"),
        ("torch, imports left out", ">= 3"),
    ):
        recorder(times, against=against, asked=asked, ceiling="bare sum of what is compared", bytes=read)
