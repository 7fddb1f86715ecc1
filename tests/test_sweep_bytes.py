"""The bytes of a base are read and sent once for all others of a pass, also where these compare it in several ways."""

import os
from functools import partialmethod

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import weighbridge
from weighbridge.engine import blocked, execute, together
from weighbridge.engine.blocked import compare_batch
from weighbridge.engine.ring import Limits
from weighbridge.engine.transport import Plain

from support.families import write_mixed
from support.lanes import CPU, ArenaTile, stand_in

F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16
EQUAL = (25000,) * 6
ROWS = (25000, 9000, 17000, 31000, 9000, 17000)  # of 8: they end in the second, third and fourth chunk
FAMILIES = {
    "one way": ((F32,) * 6, EQUAL),
    "dtypes": ((F32, F64, F32, BF16, F64, F32), EQUAL),
    "lengths": ((F32,) * 6, ROWS),
    "both": ((F32, F64, F32, BF16, F32, BF16), ROWS),
    "wide base": ((F64, F32, F64, BF16, F64, F32), ROWS),
}


def write(folder, dtypes, rows):
    """A base and seven others, the second of them a hard link of the base and the fourth one of the third."""
    paths = write_mixed(folder, dtypes, rows)
    links = folder / "base-again.safetensors", folder / "other-again.safetensors"
    os.link(paths[0], links[0])
    os.link(paths[2], links[1])
    return [paths[0], paths[1], links[0], paths[2], links[1], *paths[3:]]


class Family:
    """The ledgers of one base with each other, and what `compare` says of each pair.

    Attributes:
        nbytes: the bytes that any pair compares, what lies at one place of one file once.
        compared: the bytes of each other that are compared.
    """

    def __init__(self, paths):
        base, *others = map(weighbridge.open_checkpoint, paths)
        self.ledgers = [weighbridge.match(base, other) for other in others]
        self.comparisons = [weighbridge.compare(base, other) for other in others]
        longest = {}
        self.compared = [0] * len(others)
        for number, ledger in enumerate(self.ledgers):
            for row in ledger.matched:
                for ref in (row.base, row.other):
                    nbytes = row.elements * ref.nbytes // ref.elements
                    place = os.stat(ref.file).st_ino, ref.offset
                    longest[place] = max(longest.get(place, 0), nbytes)
                self.compared[number] += nbytes
        self.nbytes = sum(longest.values())

    def require_bits(self, blocked):
        """Each comparison is what `compare` says, to the last bit."""
        for got, wanted in zip(blocked.comparisons, self.comparisons, strict=True):
            for name in ("pair", "other_self", "base_self"):
                assert np.array(getattr(got, name)).tobytes() == np.array(getattr(wanted, name)).tobytes(), name


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def family(request, tmp_path_factory):
    return Family(write(tmp_path_factory.mktemp("family"), *request.param))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("io", ["map", "pread"])
def test_each_byte_is_read_once_and_bits_are_those_of_compare(family, io, threads, asked):
    seen = []
    found = compare_batch(family.ledgers, io=io, threads=threads, progress=lambda *each: seen.append(each))
    assert found.bytes_read == family.nbytes and seen[-1] == (family.nbytes, family.nbytes)
    assert sum(asked) == (family.nbytes if io == "pread" else 0), "what the system was asked for"
    family.require_bits(found)


def test_whose_bytes_they_are(family):
    """Those of the base are no other's: the longest overlap, with the first for the most part. A link reads nothing."""
    found = compare_batch(family.ledgers)
    read = [comparison.bytes_read for comparison in found.comparisons]
    of_others = [compared - same for compared, same in zip(family.compared, found.same_bytes, strict=True)]
    longest = {}
    for ledger in family.ledgers:
        for row in ledger.matched:
            nbytes = row.elements * row.base.nbytes // row.base.elements
            longest[row.base.name] = max(longest.get(row.base.name, 0), nbytes)
    assert sum(read) - sum(of_others) == sum(longest.values())
    assert (of_others[1], of_others[3]) == (0, 0)
    assert read[2:] == of_others[2:], "the link of the base compares all of it"


@pytest.mark.parametrize("piece", [1, 300_000])
def test_pieces_that_end_anywhere_change_nothing(family, piece, monkeypatch):
    monkeypatch.setattr(together, "PIECE_BYTES", piece)
    family.require_bits(compare_batch(family.ledgers, threads=2))


@pytest.mark.parametrize("io", ["map", "pread"])
@pytest.mark.parametrize("lanes", [1, 3])
def test_devices_are_sent_each_byte_once(family, lanes, io, monkeypatch):
    monkeypatch.setattr(ArenaTile, "alone", False)
    stand_in(monkeypatch)
    monkeypatch.setattr(execute, "choose", lambda *_: [CPU] * lanes)
    monkeypatch.setattr(Limits, "__init__", partialmethod(Limits.__init__, buffer_bytes=1 << 20))
    copied = []
    real = Plain.send
    monkeypatch.setattr(Plain, "send", lambda self, slot, nbytes: (copied.append(nbytes), real(self, slot, nbytes)))
    found = compare_batch(family.ledgers, threads=2, io=io)
    assert found.bytes_read == family.nbytes <= sum(copied) < 1.01 * family.nbytes
    family.require_bits(found)


def test_a_family_with_other_dtypes_in_every_tensor_is_few_passes(tmp_path, monkeypatch):
    """Five others, and a tensor for each choice of those that store it in float64: three ways to split five in two."""
    generator = torch.Generator().manual_seed(1)
    state = {f"layer.{which}.weight": torch.randn(40, generator=generator) for which in range(2**5)}
    save_file(state, tmp_path / "base.safetensors")
    for n in range(5):
        other = {name: (t + 0.1).to(F64 if which >> n & 1 else F32) for which, (name, t) in enumerate(state.items())}
        save_file(other, tmp_path / f"{n}.safetensors")
    passes = []
    real = blocked.execute_ways
    monkeypatch.setattr(blocked, "execute_ways", lambda *a, **options: (passes.append(a), real(*a, **options))[1])
    family = Family([tmp_path / "base.safetensors", *(tmp_path / f"{n}.safetensors" for n in range(5))])
    found = compare_batch(family.ledgers)
    assert len(passes) == 3
    assert found.bytes_read == family.nbytes == 32 * 40 * 4 + sum(family.compared)
    family.require_bits(found)
