"""Tensors that are the very same bytes are recognised, counted, and not read, whatever links lead there."""

import os

import pytest

import weighbridge
from weighbridge.engine.others import Other
from weighbridge.engine.results import open_results
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep
from weighbridge.engine.sweep_progress import SweepProgress

from support.sweeps import family

NBYTES = 4 * (3000 + 7) * 4


def sweep(folder, others, out="out", **options):
    plan = plan_sweep(folder / "base.safetensors", others, out=folder / out, **options)
    return plan, run_sweep(plan)


def read_and_same(outcomes):
    return [(outcome.bytes_read // NBYTES, outcome.same_bytes // NBYTES) for outcome in outcomes]


@pytest.fixture
def folder(tmp_path):
    family(tmp_path, 2)
    return tmp_path


def require_the_numbers_of_compare(folder):
    results = open_results(folder / "out")
    for entry in results.others:
        wanted = weighbridge.compare(folder / "base.safetensors", entry["source"])
        assert results[entry["label"]].to_dict() == wanted.to_dict() | {"other": entry["source"]}


def test_links_and_one_path_under_two_labels(folder):
    one = folder / "o-1.safetensors"
    os.link(one, folder / "hard.safetensors")
    (folder / "soft.safetensors").symlink_to(one)
    others = [
        Other(str(one), "first"),
        Other(str(folder / "o-2.safetensors"), "different"),
        Other(str(one), "again"),
        Other(str(folder / "hard.safetensors"), "hard"),
        Other(str(folder / "soft.safetensors"), "soft"),
    ]
    plan, outcomes = sweep(folder, others)
    assert plan.nbytes == 3 * NBYTES  # the base, and two files
    assert read_and_same(outcomes) == [(2, 0), (1, 0), (0, 1), (0, 1), (0, 1)]
    require_the_numbers_of_compare(folder)


def test_the_base_among_the_others(folder):
    os.link(folder / "base.safetensors", folder / "o-3.safetensors")
    plan, outcomes = sweep(folder, [folder / "o-*", folder / "base.safetensors"])
    assert plan.nbytes == 3 * NBYTES
    assert read_and_same(outcomes) == [(2, 0), (1, 0), (0, 1), (0, 1)]
    require_the_numbers_of_compare(folder)


def test_alike_others_share_a_task_wherever_they_stand(folder):
    family(folder, 8)
    os.link(folder / "o-1.safetensors", folder / "o-9.safetensors")
    plan, outcomes = sweep(folder, [folder / "o-*"], workers=4, batch_bytes=3 * NBYTES)
    assert {len(task.others) for task in plan.tasks} == {2, 3}
    assert read_and_same(outcomes)[8] == (0, 1)
    assert sum(outcome.bytes_read for outcome in outcomes) == plan.nbytes == (8 + len(plan.tasks)) * NBYTES
    assert [entry["source"][-13] for entry in open_results(folder / "out").others] == list("123456789")


def test_a_copy_is_read(folder):
    (folder / "o-3.safetensors").write_bytes((folder / "o-1.safetensors").read_bytes())
    _, outcomes = sweep(folder, [folder / "o-*"])
    assert read_and_same(outcomes) == [(2, 0), (1, 0), (1, 0)]


def test_hub_ids_whose_snapshots_lead_to_one_blob(folder, monkeypatch):
    """The layout of the cache of huggingface_hub: two revisions, one of which changed the readme alone."""
    cache = folder / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = cache / "models--org--tuned"
    (repository / "blobs").mkdir(parents=True)
    blob = repository / "blobs" / ("ab" * 32)
    blob.write_bytes((folder / "o-1.safetensors").read_bytes())
    for revision, commit in (("main", "a" * 40), ("v1", "b" * 40)):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to(f"../../blobs/{blob.name}")
    _, outcomes = sweep(folder, ["org/tuned", "org/tuned@v1", str(folder / "o-2.safetensors")])
    assert read_and_same(outcomes) == [(2, 0), (0, 1), (1, 0)]
    assert outcomes[0].identity == outcomes[1].identity  # the blob's name, wherever it lies
    require_the_numbers_of_compare(folder)
    os.utime(blob, ns=(1, 1))  # a blob is known by its hash, not by when it was written
    assert [outcome.status for outcome in sweep(folder, ["org/tuned", "org/tuned@v1"])[1]] == ["reused", "reused"]


def test_progress_tells_of_it(folder, capsys):
    os.link(folder / "o-1.safetensors", folder / "o-3.safetensors")
    plan = plan_sweep(folder / "base.safetensors", [folder / "o-*"], out=folder / "out")
    run_sweep(plan, progress=SweepProgress())
    lines = capsys.readouterr().err.splitlines()
    assert [line.endswith("48.1 kB were bytes already read") for line in lines] == [False, True, False, True]
