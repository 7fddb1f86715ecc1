"""A sweep gives the bits of `compare`, however it is cut up, and reads each byte once."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import weighbridge
from weighbridge.engine.row_table import RAW_COLUMNS
from weighbridge.engine.store import Store
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    base = {f"layer.{i}.weight": torch.randn(70, 40) for i in range(4)}
    base |= {"x.bias": torch.randn(10).double(), "n": torch.arange(5)}
    save_file(base, tmp_path / "base.safetensors")
    for number, dtype in enumerate((torch.float32, torch.bfloat16, torch.float64, torch.float32)):
        other = {name: (t + 0.01).to(dtype) if t.is_floating_point() else t for name, t in base.items()}
        if number == 3:
            del other["x.bias"]
        save_file(other, tmp_path / f"other-{number}.safetensors")
    os.link(tmp_path / "base.safetensors", tmp_path / "other-10.safetensors")
    (tmp_path / "other-11.safetensors").write_bytes(b"x" * 100)
    return tmp_path


def run(folder, out, **options):
    plan = plan_sweep(folder / "base.safetensors", [str(folder / "other-*")], out=folder / out, **options)
    return run_sweep(plan), Store(folder / out)


@pytest.mark.parametrize("batch_bytes", [1, 30_000, None])
def test_the_bits_of_compare_whatever_the_batch(folder, batch_bytes):
    outcomes, store = run(folder, "out", batch_bytes=batch_bytes)
    assert [outcome.status for outcome in outcomes] == ["done"] * 5 + ["failed"]
    assert "not a safetensors file" in store.failures[0]["reason"]
    for outcome in outcomes[:5]:
        wanted = weighbridge.compare(folder / "base.safetensors", outcome.other.source)
        rows = [row for row in store.read(outcome.other.label).to_pylist() if row["status"] == "matched"]
        got = np.array([[row[name] for name in RAW_COLUMNS] for row in rows], float)
        assert got.tobytes() == np.concatenate([wanted.other_self, wanted.base_self, wanted.pair], 1).tobytes()
    assert (outcomes[4].bytes_read == 0) == (batch_bytes is None)  # a hard link of the base


def test_what_is_done_is_not_computed_again(folder):
    _, store = run(folder, "out")
    before = {path.name: path.read_bytes() for path in (folder / "out" / "rows").iterdir()}
    outcomes, _ = run(folder, "out")
    assert [outcome.status for outcome in outcomes] == ["reused"] * 5 + ["failed"]
    assert {path.name: path.read_bytes() for path in (folder / "out" / "rows").iterdir()} == before
    assert len(before) == len(store.others) - 1
