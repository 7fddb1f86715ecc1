"""A matrix that is kept: the same bits however often it was interrupted, and never another's."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import weighbridge
from weighbridge.engine import all_pairs, matrix_store
from weighbridge.engine.errors import FormatError, OptionError, OutputError
from weighbridge.engine.matrix_store import MatrixStore
from weighbridge.engine.writers import Writers

from support import families


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(all_pairs, "BLOCK_BYTES", 1_000_000)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return families.write(tmp_path_factory.mktemp("family"))[:6]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def everything(matrix):
    return json.dumps([matrix.to_dict("layer"), matrix.to_dict("tensor")])


class InterruptError(Exception):
    pass


def test_the_same_bits_however_often_interrupted(paths, tmp_path, monkeypatch):
    whole = weighbridge.matrix(paths, base=paths[0], out=tmp_path / "whole")
    blocks = len(all_pairs.blocks(whole.ledger))
    assert blocks >= 3
    save = MatrixStore.save
    written = 0

    def stopping(self, block):
        nonlocal written
        save(self, block)
        written += 1
        raise InterruptError

    out = tmp_path / "stopped"
    monkeypatch.setattr(MatrixStore, "save", stopping)
    for number in range(blocks):
        with pytest.raises(InterruptError):
            weighbridge.matrix(paths, base=paths[0], out=out)
        assert written == number + 1, "each run computes what is missing, and nothing else"
        if number < blocks - 1:
            with pytest.raises(FormatError, match=f"holds {number + 1} of {blocks} blocks; run the same command"):
                weighbridge.open_matrix(out)
    monkeypatch.setattr(MatrixStore, "save", save)
    finished = weighbridge.matrix(paths, base=paths[0], out=out)
    assert finished.sums.bytes_read == 0
    assert files(out) == files(tmp_path / "whole")
    assert everything(finished) == everything(whole)


KILLED = """
import os, sys
left = int(sys.argv[1])
real = os.replace
def replace(*names):
    global left
    if left == 0:
        os.kill(os.getpid(), 9)
    left -= 1
    real(*names)
os.replace = replace
import weighbridge
from weighbridge.engine import all_pairs
all_pairs.BLOCK_BYTES = 1_000_000
weighbridge.matrix(sys.argv[3:], base=sys.argv[3], out=sys.argv[2])
"""


def test_killed_before_every_file(paths, tmp_path):
    weighbridge.matrix([str(path) for path in paths], base=str(paths[0]), out=tmp_path / "whole")
    out, runs = tmp_path / "killed", 0
    while subprocess.run([sys.executable, "-c", KILLED, str(min(runs, 1)), str(out), *map(str, paths)]).returncode:
        runs += 1
        assert runs < 20
        assert not [path for path in out.rglob("*.parquet") if not pq.ParquetFile(path).metadata.num_rows]
    assert runs >= 4, "a manifest, three blocks or more, the task vectors"
    assert files(out) == files(tmp_path / "whole"), "nothing half-written of the runs that were killed is left"


def test_what_the_dead_left_is_taken_away_and_the_work_of_the_living_is_not(paths, tmp_path):
    """At the beginning of a run; and nothing of another kind, such as what `-o` is about to write there."""
    out = tmp_path / "out"
    weighbridge.matrix(paths[:3], out=out)
    with Writers(out).writing() as token:
        living = [out / "blocks" / f".000000-000001.parquet.{token}.partial", out / f".matrix.json.{token}.partial"]
        foreign = [out / ".m.json.4711.partial", out / "blocks" / "notes.partial"]
        dead = [out / "blocks" / f".000000-000001.parquet.{'0' * 16}.partial", out / ".tasks.parquet.4711.partial"]
        for path in (*living, *foreign, *dead):
            path.write_bytes(b"half")
        (out / ".writers" / f"{'0' * 16}.lock").touch()
        weighbridge.matrix(paths[:3], out=out)
        assert [path.exists() for path in (*living, *foreign, *dead)] == [True] * 4 + [False] * 2
        assert [path.stem for path in (out / ".writers").iterdir()] == [token]


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has jobs in the background ignore it
left = int(sys.argv.pop(1))
real = os.replace
def replace(*names):
    global left
    real(*names)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGINT)
os.replace = replace
from weighbridge.engine import all_pairs
all_pairs.BLOCK_BYTES = 1_000_000
from weighbridge.cli import main
main()
"""


def test_interrupted_it_says_how_to_go_on(paths, tmp_path):
    command = ["matrix", *map(str, paths), "--out", str(tmp_path / "out"), "-o", str(tmp_path / "m.json"), "-q"]
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, "2", *command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    words = f"what is done is kept in {tmp_path / 'out'}; run the same command again for the rest."
    assert done.stderr == f"weighbridge: interrupted; {words}\n"
    assert not (tmp_path / "m.json").exists()
    with pytest.raises(FormatError, match="holds 1 of"):
        weighbridge.open_matrix(tmp_path / "out")
    assert subprocess.run([sys.executable, "-c", INTERRUPTED, "-1", *command]).returncode == 0
    assert (tmp_path / "m.json").exists()


def test_read_back_without_the_checkpoints(paths, tmp_path):
    kept = weighbridge.matrix(paths, base=paths[0], out=tmp_path / "out")
    again = weighbridge.open_matrix(tmp_path / "out")
    assert again.bytes_read == 0 and again.base == kept.base
    assert everything(again) == everything(kept)
    assert [group.to_dict(kept.labels) for group in again.identical]
    assert weighbridge.open_matrix(tmp_path / "out", metrics="delta,cosine").metrics == ("delta", "cosine")
    table = pq.read_table(tmp_path / "out" / "blocks")  # all blocks at once, as anybody would
    pairs = table.filter(np.not_equal(table["i"], table["j"]))
    assert pairs.num_rows == sum(len(tensor.pairs) for tensor in kept.sums.tensors)
    row = pairs.slice(5, 1).to_pylist()[0]
    place = kept.sums.pairs.tolist().index([row["i"], row["j"]])
    assert row["sum_abs_diff"] == kept.sums.sums[row["number"], place, 0]
    assert row["tensor"] == kept.sums.tensors[row["number"]].name


def test_task_cosine_only_where_it_was_asked_for(paths, tmp_path):
    weighbridge.matrix(paths, out=tmp_path / "out")
    assert "task_cosine" not in weighbridge.open_matrix(tmp_path / "out").metrics
    with pytest.raises(OptionError, match="holds no task_cosine; run the matrix again with --base"):
        weighbridge.open_matrix(tmp_path / "out", metrics="task_cosine")


def test_never_anothers(paths, tmp_path):
    out = tmp_path / "out"
    weighbridge.matrix(paths, out=out)
    for sources, options in ((paths[:5], {}), (paths, {"exclude": ["n"]}), (paths, {"base": paths[0]})):
        with pytest.raises(OptionError, match="holds the matrix of other checkpoints, of other options"):
            weighbridge.matrix(sources, out=out, **options)
    other = weighbridge.matrix(paths[:5], out=out, force=True)
    assert everything(weighbridge.open_matrix(out)) == everything(other)


def test_damage_is_seen(paths, tmp_path):
    out = tmp_path / "out"
    kept = weighbridge.matrix(paths, out=out)
    block = min((out / "blocks").iterdir())
    good = block.read_bytes()
    block.write_bytes(good[:100])
    with pytest.raises(FormatError, match=r"000000-\d+.parquet\" is damaged"):
        weighbridge.open_matrix(out)
    again = weighbridge.matrix(paths, out=out)  # computed anew
    assert again.sums.bytes_read > 0 and block.read_bytes() == good and everything(again) == everything(kept)
    # A block of another matrix under the same name is not taken for one of this.
    weighbridge.matrix(paths[:5], out=tmp_path / "other")
    block.write_bytes(min((tmp_path / "other" / "blocks").iterdir()).read_bytes())
    with pytest.raises(FormatError, match="or of another matrix"):
        weighbridge.open_matrix(out)
    manifest = out / matrix_store.MANIFEST
    manifest.write_text("{")
    with pytest.raises(FormatError, match="cannot be read"):
        weighbridge.open_matrix(out)
    manifest.write_text('{"format": 99}')
    with pytest.raises(FormatError, match="has format 99 and this is 1"):
        weighbridge.open_matrix(out)
    with pytest.raises(FormatError, match="holds no matrix"):
        weighbridge.open_matrix(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        weighbridge.matrix(paths, out=tmp_path / "file")


def test_another_device_is_another_matrix(paths, tmp_path):
    """Each kind of device has last digits of its own: what is kept is never a mixture."""
    here = weighbridge.matrix(paths[:3], out=tmp_path / "out", device="cpu")
    with pytest.raises(OptionError, match=r'in the arithmetic "cpu" and this one is in "portable"'):
        weighbridge.matrix(paths[:3], out=tmp_path / "out", device="portable:cpu")
    assert everything(weighbridge.matrix(paths[:3], out=tmp_path / "out")) == everything(here), "auto is the processor"


def test_a_folder_that_cannot_be_written_to_is_a_sentence(paths, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".writers").touch()
    with pytest.raises(OutputError, match=r"out could not be written to: File exists; what is finished is kept"):
        weighbridge.matrix(paths[:2], out=out)
