"""How much faster than the PyPI package `modeldelta` is comparing a real model with a fine-tune of it?

Timed: the whole process `weighbridge compare BASE OTHER --format json`: all-MiniLM-L6-v2 (91 MB) and the same after a
few steps of fine-tuning.
Against: the whole process `modeldelta BASE OTHER`, with what it does by default, singular values included, which is
most of its time. Of the 103 tensors it skips the 58 that have fewer than 1,000 elements; its cosines and relative norms
of the others are checked against ours.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from weighbridge import match
from weighbridge.engine.plan import Joined

from measuring import bare_sum, command, in_turn, joined_spans, spans
from support import minilm

ROUNDS = 3  # modeldelta takes a quarter of a minute each
TENSORS, SKIPPED = 103, 58


@pytest.fixture(scope="module")
def pair(files):
    other = files / "minilm-fine-tuned"
    if not (other / "model.safetensors").exists():
        minilm.fine_tuned().save_pretrained(other)
    return minilm.folder(), other


def test_whole_process(benchmark, recorder, weighbridge, pair, tmp_path):
    base, other = pair
    peer = Path(sys.executable).with_name("modeldelta")
    arguments = (weighbridge, "compare", base, other, "--format", "json")

    shown = subprocess.run(arguments, check=True, capture_output=True, text=True)
    ours = {row["tensor"]: row for row in json.loads(shown.stdout)["tensors"] if row["status"] == "matched"}
    subprocess.run([peer, base, other, "--output", tmp_path / "peer.json"], check=True, capture_output=True)
    report = json.loads((tmp_path / "peer.json").read_text())
    theirs = {row["name"]: row for row in report["modules"]}
    assert len(ours) == TENSORS
    assert set(theirs) == {name for name, row in ours.items() if row["elements"] >= 1000}
    assert len(ours) - len(theirs) == SKIPPED
    for name, row in theirs.items():
        assert row["cosine_sim"] == pytest.approx(ours[name]["cosine"], abs=1e-2)  # float32, and cut off at 1
        assert row["frob_norm_relative"] == pytest.approx(ours[name]["relative_delta"], rel=1e-3, abs=1e-9)

    matched = match(base, other).matched
    tensors = [Joined(number, (row.base, row.other), row.elements) for number, row in enumerate(matched)]
    times = in_turn(
        benchmark,
        {
            "weighbridge compare, 103 tensors": command(*arguments),
            "modeldelta, 45 tensors": command(peer, base, other, HF_HUB_OFFLINE="1"),
            "bare sum of what is compared": bare_sum(*joined_spans(spans(tensors))),
        },
        rounds=ROUNDS,
        untimed=False,
    )
    recorder(
        times,
        against="modeldelta, 45 tensors",
        asked=">= 10",
        ceiling="bare sum of what is compared",
        bytes=sum(tensor.nbytes for tensor in tensors),
    )
