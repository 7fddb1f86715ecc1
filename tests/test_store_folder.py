"""The folder of a sweep: names of files, the manifest, who writes, and what the dead have left behind."""

import json

import pytest
from filelock import FileLock

import weighbridge
from weighbridge.engine.errors import FormatError, OutputError
from weighbridge.engine.others import Other
from weighbridge.engine.store import Store, entry_of, merge_entries, row_file

from support.sweeps import family


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.prepare()
    return store


def test_files_are_named_by_their_labels_and_never_alike():
    labels = ["a/b", "a_b", "a b", "../../etc/passwd", "", ".", "x" * 500, "caf\udce9", "\ud800", "A/B", "模型"]
    names = [row_file(label) for label in labels]
    assert len({name.lower() for name in names}) == len(labels)
    for name in names:
        folder, file = name.split("/")
        assert folder == "rows" and len(file) < 120 and not file.startswith(".") and file.endswith(".parquet")
    assert row_file("runs/a/checkpoint-10").startswith("rows/runs_a_checkpoint-10-")


def test_entries_take_the_place_of_their_labels():
    manifest = {}
    merge_entries(manifest, [entry_of(Other("a", "a"), "pending"), entry_of(Other("b", "b"), "pending")])
    merge_entries(manifest, [entry_of(Other("c", "c"), "done"), entry_of(Other("a", "a"), "failed", reason="why")])
    assert [(entry["label"], entry["status"]) for entry in manifest["others"]] == [
        ("a", "failed"), ("b", "pending"), ("c", "done")
    ]  # fmt: skip


def test_rows_are_not_there_until_they_are_published(store):
    with store.writer() as writer:
        writer.add("a", b"rows")
        writer.sync()
        assert not store.file("a").exists()
        writer.publish()
        assert store.file("a").read_bytes() == b"rows"
        writer.add("b", b"never published")
    assert [path.name for path in (store.path / "rows").iterdir()] == [store.file("a").name]
    assert list((store.path / ".writers").iterdir()) == []


def test_what_the_dead_left_is_taken_away_and_the_work_of_the_living_is_not(store):
    with store.writer() as living:
        living.add("a", b"rows")
        dead = store.path / "rows" / f".b-0123.{'0' * 16}.partial"
        dead.write_bytes(b"half")
        (store.path / ".writers" / f"{'0' * 16}.lock").touch()
        store.clean()
        assert not dead.exists() and len(list((store.path / "rows").iterdir())) == 1
        assert [path.stem for path in (store.path / ".writers").iterdir()] == [living.token]
        living.publish()
    assert store.file("a").read_bytes() == b"rows"


def test_two_who_update_at_once_lose_nothing(store):
    """Each waits for the other: the lock is held while the manifest is read, changed and written."""

    def add(manifest):
        assert FileLock(store.path / ".lock").is_locked is False  # of another instance, hence its own view
        with pytest.raises(TimeoutError):
            FileLock(store.path / ".lock").acquire(timeout=0)
        manifest["format"] = 1
        merge_entries(manifest, [entry_of(Other("a", "a"), "pending")])

    assert store.update(add) == store.manifest
    store.update(lambda manifest: merge_entries(manifest, [entry_of(Other("b", "b"), "pending")]))
    assert [entry["label"] for entry in store.others] == ["a", "b"]


def test_a_manifest_that_does_not_change_is_not_written(store):
    store.update(lambda manifest: manifest.update(format=1, others=[]))
    before = (store.path / "sweep.json").stat().st_ino
    store.update(lambda manifest: manifest.update(format=1))
    assert (store.path / "sweep.json").stat().st_ino == before
    store.update(lambda manifest: manifest.update(base="other"))
    assert (store.path / "sweep.json").stat().st_ino != before


def test_what_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match="could not be written to"):
        Store(tmp_path / "file").prepare()
    with pytest.raises(FormatError, match="holds no sweep"):
        _ = Store(tmp_path / "none").manifest


def test_labels_in_any_letters(tmp_path):
    """Names that are no UTF-8, or no Unicode at all, go through the manifest, the rows and the report."""
    base, (first, second) = family(tmp_path, 2)
    odd = tmp_path / "caf\udce9.safetensors"
    first.rename(odd)
    lines = [{"source": str(second), "label": "\ud800", "note": "\udcff", "many": 10**30}, {"source": str(second)}]
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = weighbridge.sweep(base, [odd], out=tmp_path / "out", manifest=tmp_path / "others.jsonl")
    assert results.labels == [str(odd), "\ud800", str(second)]
    assert results.table(["note", "many"]).to_pylist()[-9:-7] == [
        {"note": "\\udcff", "many": str(10**30)}, {"note": None, "many": None}
    ]  # fmt: skip
    again = weighbridge.sweep(base, [odd], out=tmp_path / "out", manifest=tmp_path / "others.jsonl")
    assert again.labels == results.labels
    assert results["\ud800"].overall["n"] == 8
