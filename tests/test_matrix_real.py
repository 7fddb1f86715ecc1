"""A real family: all-MiniLM-L6-v2 and fine-tunes of it, as transformers writes them."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import weighbridge
from weighbridge.engine.entries import MATRIX_METRICS

from support import minilm


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """MiniLM; two fine-tunes, the second the first trained on; the second in half precision; one with frozen layers."""
    root = tmp_path_factory.mktemp("minilm")
    model, further = minilm.fine_tuned(1), minilm.fine_tuned(2)
    model.save_pretrained(root / "one")
    further.save_pretrained(root / "two")
    further.half().save_pretrained(root / "half")
    state = load_file(minilm.folder() / "model.safetensors")
    frozen = {n: state[n] if n.startswith("encoder.layer.0") else t for n, t in model.state_dict().items()}
    model.load_state_dict(frozen)
    model.save_pretrained(root / "frozen")
    return [minilm.folder(), *(root / name for name in ("one", "two", "half", "frozen"))]


@pytest.fixture(scope="module")
def found(folders):
    return weighbridge.matrix(folders, base=folders[0])


def test_every_entry_is_that_of_compare(found, folders):
    for i, j in itertools.permutations(range(len(folders)), 2):
        comparison = weighbridge.compare(folders[j], folders[i])
        for metric in MATRIX_METRICS:
            assert found.mean(metric)[i, j].tobytes() == np.float64(comparison.overall[metric]).tobytes()
            pooled = np.float64(comparison.overall[f"pooled_{metric}"])
            assert found[metric][i, j].tobytes() == pooled.tobytes(), (i, j, metric)
        for by in ("kind", "layer"):
            for line in comparison.summary(by):
                group = found.groups(by)[line[by]]
                assert group.n[i, j] == line["n"]
                if line["n"]:
                    assert group.means["cosine"][i, j] == line["cosine"], (i, j, line[by])
                    assert group.pooled["relative_delta"][i, j] == line["pooled_relative_delta"]


def test_each_byte_is_read_once(found):
    shared = {(s.checkpoint, s.ref.name) for s in found.ledger.standings if s.status == "matched"}
    checkpoints = found.ledger.checkpoints
    assert found.bytes_read == sum(checkpoints[n].tensors[name].nbytes for n, name in shared)
    alone = [(s.checkpoint, s.ref.name, s.status) for s in found.ledger.standings if s.status != "matched"]
    assert alone == [(0, "embeddings.position_ids", "only_in_one")]


def test_task_cosines_are_those_of_torch(found, folders):
    tensors = [load_file(folder / "model.safetensors") for folder in folders]
    names = [name for name in tensors[1] if name.startswith("encoder.layer.3.")]
    moved = [torch.cat([(t[n].double() - tensors[0][n].double()).flatten() for n in names]) for t in tensors]
    for i, j in ((1, 2), (1, 4), (2, 3)):
        wanted = float(moved[i] @ moved[j] / (moved[i].norm() * moved[j].norm()))
        assert found.groups("layer")[3].pooled["task_cosine"][i, j] == pytest.approx(wanted, abs=1e-9)
    assert 0.3 < found["task_cosine"][1, 2] < 0.999  # the same step, and one more


def test_frozen_layers_are_found(found):
    whole = [group for group in found.identical if set(group.checkpoints) == {0, 4}]
    names = {name for group in whole for name in group.tensors}
    assert {name for name in names if name.startswith("encoder")} >= {
        name for name in found.ledger.checkpoints[0].tensors if name.startswith("encoder.layer.0.")
    }
    assert not any(name.startswith("encoder.layer.1") for name in names)
    assert found.groups("layer")[0].pooled["delta"][0, 4] == 0 < found.groups("layer")[1].pooled["delta"][0, 4]
