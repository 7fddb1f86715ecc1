"""Each byte is read once, also where pairs differ in length or in working type, and bits stay those of `compare`."""

import os
from functools import partialmethod

import numpy as np
import pytest
import torch

import weighbridge
from weighbridge.engine import all_pairs, execute, together
from weighbridge.engine.all_pairs import gather
from weighbridge.engine.joint import join
from weighbridge.engine.ring import Limits
from weighbridge.engine.transport import Plain

from support.families import write_mixed
from support.lanes import CPU, ArenaTile, stand_in

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float32, torch.float64, torch.bfloat16)
ROWS = (9000, 17000, 25000, 25000, 9000, 17000)  # of 8: they end in the second, third and fourth chunk
PLAIN = (torch.float32,) * 6
EQUAL = (17000,) * 6


@pytest.fixture(
    scope="module",
    params=[(DTYPES, EQUAL), (PLAIN, ROWS), (DTYPES, ROWS)],
    ids=["dtypes", "lengths", "both"],
)
def family(request, tmp_path_factory):
    """The ledger of six checkpoints, and what `compare` says of each pair."""
    paths = write_mixed(tmp_path_factory.mktemp("family"), *request.param)
    ledger = join([weighbridge.open_checkpoint(path) for path in paths])
    opened = ledger.checkpoints
    pairs = all_pairs.pairs_of(len(opened)).tolist()
    return ledger, [weighbridge.compare(opened[i], opened[j]) for i, j in pairs]


def as_compare(found, comparisons):
    """How many entries there are; raises where one is not what `compare` says, to the last bit."""
    checked = 0
    for p, (comparison, (i, j)) in enumerate(zip(comparisons, found.pairs.tolist(), strict=True)):
        rows = {row.other.name: number for number, row in enumerate(comparison.ledger.matched)}
        for k in np.flatnonzero(found.compared[:, p]).tolist():
            row = rows[found.tensors[k].refs[j].name]
            assert found.sums[k, p].tobytes() == comparison.pair[row].tobytes(), (i, j, found.tensors[k].name)
            assert found.selfs[k, j].tobytes() == comparison.other_self[row].tobytes()
            assert found.selfs[k, i].tobytes() == comparison.base_self[row].tobytes()
            checked += 1
    return checked


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("io", ["map", "pread"])
def test_each_byte_is_read_once_and_bits_are_those_of_compare(family, io, threads, asked):
    ledger, comparisons = family
    found = gather(ledger, io=io, threads=threads)
    nbytes = sum(checkpoint.nbytes for checkpoint in ledger.checkpoints)
    assert (found.bytes_read, found.same_bytes) == (nbytes, 0)
    assert sum(asked) == (nbytes if io == "pread" else 0), "what the system was asked for"
    assert as_compare(found, comparisons) == 4 * 15


@pytest.mark.parametrize("block", [1, 2_000_000])
def test_blocks_and_pieces_that_end_anywhere_change_nothing(family, block, monkeypatch):
    """Parts of one tensor in several blocks are still computed from one reading; pieces may be a block of elements."""
    ledger, comparisons = family
    monkeypatch.setattr(all_pairs, "BLOCK_BYTES", block)
    monkeypatch.setattr(together, "PIECE_BYTES", 1)
    assert len(all_pairs.blocks(ledger)) > 1
    seen = []
    found = gather(ledger, io="pread", threads=2, progress=lambda done, total: seen.append((done, total)))
    nbytes = sum(checkpoint.nbytes for checkpoint in ledger.checkpoints)
    assert found.bytes_read == nbytes and seen[-1] == (nbytes, nbytes)
    assert as_compare(found, comparisons) == 4 * 15


def test_a_matrix_that_lost_blocks_gets_them_back(family, tmp_path, monkeypatch):
    ledger, _ = family
    monkeypatch.setattr(all_pairs, "BLOCK_BYTES", 1)  # one part each
    sources = [checkpoint.path for checkpoint in ledger.checkpoints]
    whole = weighbridge.matrix(sources, out=tmp_path)
    names = sorted((tmp_path / "blocks").iterdir())
    assert len(names) == len(ledger.tensors) > 4
    before = [name.read_bytes() for name in names]
    for name in names[1::2]:
        name.unlink()
    seen = []
    again = weighbridge.matrix(sources, out=tmp_path, progress=lambda done, total: seen.append(done <= total))
    assert all(seen) and seen
    assert 0 < again.sums.bytes_read <= whole.sums.bytes_read
    assert [name.read_bytes() for name in names] == before
    assert again.sums.sums.tobytes() == whole.sums.sums.tobytes()


def test_links_are_read_once_for_all_ways(tmp_path):
    paths = write_mixed(tmp_path, DTYPES, ROWS)
    os.link(paths[2], tmp_path / "link.safetensors")
    opened = [weighbridge.open_checkpoint(path) for path in (*paths, tmp_path / "link.safetensors")]
    found = gather(join(opened), io="pread")
    assert found.bytes_read == sum(checkpoint.nbytes for checkpoint in opened[:-1])
    assert found.same_bytes == opened[-1].nbytes
    for k, tensor in enumerate(found.tensors):
        homes = {n: found.homes[k, n] for n in tensor.refs}
        assert all(home == (2 if n == 6 and 2 in homes else n) for n, home in homes.items())


def test_what_no_pair_compares_is_not_read(tmp_path):
    """The longest embedding alone: its last rows have no counterpart."""
    rows = (9000, 17000, 9000, 17000, 17000, 25000)
    opened = [weighbridge.open_checkpoint(path) for path in write_mixed(tmp_path, DTYPES, rows)]
    found = gather(join(opened))
    assert found.bytes_read == sum(checkpoint.nbytes for checkpoint in opened) - 8000 * 8 * 2


@pytest.mark.parametrize("io", ["map", "pread"])
def test_other_devices_read_each_byte_once_too(family, io):
    """The same pairs, right to the device's own last digits."""
    ledger, comparisons = family
    found = gather(ledger, device="portable:cpu", threads=2, io=io)
    assert found.bytes_read == sum(checkpoint.nbytes for checkpoint in ledger.checkpoints)
    for p, comparison in enumerate(comparisons):
        rows = {row.other.name: number for number, row in enumerate(comparison.ledger.matched)}
        for k in np.flatnonzero(found.compared[:, p]).tolist():
            row = rows[found.tensors[k].name]
            np.testing.assert_allclose(found.sums[k, p], comparison.pair[row], rtol=1e-11)


@pytest.mark.parametrize("lanes", [1, 3])
def test_lanes_have_the_bits_of_compare(family, lanes, monkeypatch):
    """Tiles on arenas, several tensors cut into runs of chunks that come together from the slots of all ways."""
    ledger, comparisons = family
    monkeypatch.setattr(ArenaTile, "alone", False)
    stand_in(monkeypatch)
    monkeypatch.setattr(execute, "choose", lambda *_: [CPU] * lanes)
    monkeypatch.setattr(Limits, "__init__", partialmethod(Limits.__init__, buffer_bytes=1 << 20))
    copied = []
    real = Plain.send
    monkeypatch.setattr(Plain, "send", lambda self, slot, nbytes: (copied.append(nbytes), real(self, slot, nbytes)))
    found = gather(ledger, threads=2)
    nbytes = sum(checkpoint.nbytes for checkpoint in ledger.checkpoints)
    assert found.bytes_read == nbytes <= sum(copied) < 1.01 * nbytes, "sent once as well"
    assert as_compare(found, comparisons) == 4 * 15
