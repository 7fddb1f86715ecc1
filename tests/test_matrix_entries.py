"""Every entry of a matrix is what `compare` of that pair says, to the last bit, and every byte is read once."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import weighbridge
from weighbridge.engine import all_pairs
from weighbridge.engine.all_pairs import gather
from weighbridge.engine.entries import MATRIX_METRICS
from weighbridge.engine.errors import NothingMatchedError, OptionError
from weighbridge.engine.joint import join
from weighbridge.engine.ledger import STATUSES

from support import families


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return families.write(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def found(paths):
    return weighbridge.matrix(paths)


@pytest.fixture(scope="module")
def comparisons(paths):
    """(i, j) -> checkpoint i against checkpoint j as the base."""
    opened = [weighbridge.open_checkpoint(path) for path in paths]
    numbers = range(len(paths))
    return {(i, j): weighbridge.compare(opened[j], opened[i]) for i, j in itertools.product(numbers, numbers)}


def bits(value):
    return np.float64(value).tobytes()


def test_raw_sums_are_those_of_compare(found, comparisons):
    """Both ways round, in float32 and in float64, over embeddings of three lengths, of links and copies."""
    sums, lengths, wide = found.sums, set(), 0
    for p, (i, j) in enumerate(sums.pairs.tolist()):
        for one, two in ((i, j), (j, i)):
            comparison = comparisons[one, two]
            rows = {row.other.name: number for number, row in enumerate(comparison.ledger.matched)}
            met = set()
            for k, tensor in enumerate(sums.tensors):
                if not sums.compared[k, p]:
                    assert np.isnan(sums.sums[k, p]).all()
                    continue
                row = rows[tensor.refs[one].name]
                met.add(row)
                assert sums.sums[k, p].tobytes() == comparison.pair[row].tobytes(), (one, two, tensor.name)
                assert sums.selfs[k, one].tobytes() == comparison.other_self[row].tobytes()
                assert sums.selfs[k, two].tobytes() == comparison.base_self[row].tobytes()
                lengths |= {tensor.elements} if "embedding" in tensor.name else set()
                wide += len({"F64", *tensor.dtypes.values()} - {"F64"}) > 0 and "F64" in tensor.dtypes.values()
            assert met == set(rows.values()), "what compare matches, and nothing else"
    assert lengths == {240, 264} and wide


def test_the_check_of_bits_can_fail(found, comparisons):
    comparison = comparisons[1, 0]
    assert found["delta"][1, 0] == comparison.overall["pooled_delta"]
    assert bits(np.nextafter(found["delta"][1, 0], 1)) != bits(comparison.overall["pooled_delta"])


@pytest.mark.parametrize("metric", MATRIX_METRICS)
def test_means_and_pooled_are_those_of_compare(found, comparisons, metric):
    for (i, j), comparison in comparisons.items():
        overall = comparison.overall
        if i == j and i == 4 and metric == "changed":
            continue  # how many of its elements are NaN, and so differ from themselves, its self sums do not tell
        assert bits(found.mean(metric)[i, j]) == bits(overall[metric]), (i, j)
        assert bits(found[metric][i, j]) == bits(overall[f"pooled_{metric}"]), (i, j)
        if i != j:  # the diagonal is over the tensors that a checkpoint shares with another
            assert found.n[i, j] == overall["n"]


@pytest.mark.parametrize("by", ["kind", "layer", "tensor"])
def test_groups_are_those_of_compare(found, comparisons, by):
    groups = found.groups(by)
    for (i, j), comparison in comparisons.items():
        if i == j:
            continue
        wanted = {line[by]: line for line in comparison.summary(by)}
        assert {key for key, group in groups.items() if group.n[i, j]} == {k for k, v in wanted.items() if v["n"]}
        for key, line in wanted.items():
            for metric in MATRIX_METRICS if line["n"] else ():
                assert bits(groups[key].means[metric][i, j]) == bits(line[metric]), (i, j, key, metric)
                assert bits(groups[key].pooled[metric][i, j]) == bits(line[f"pooled_{metric}"]), (i, j, key, metric)


def test_entries_are_the_formulas_of_torch(found, paths):
    one, two = (load_file(paths[number]) for number in (3, 2))
    for name in ("layer.1.dense.weight", "layer.0.LayerNorm.bias"):
        x, y = one[name].double().flatten(), two[name].double().flatten()
        group = found.groups("tensor")[name].pooled
        assert group["delta"][3, 2] == pytest.approx(float((x - y).abs().mean()), rel=1e-12)
        assert group["cosine"][3, 2] == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)), rel=1e-12)
        assert group["relative_delta"][3, 2] == pytest.approx(float((x - y).norm() / y.norm()), rel=1e-12)
        assert group["max_delta"][3, 2] == float((x - y).abs().max())


def test_each_byte_is_read_once(tmp_path):
    shapes = {f"layer.{n}.weight": (300, 301) for n in range(3)} | {"x.bias": (7,)}
    files = []
    for number in range(5):
        torch.manual_seed(number)
        files.append(tmp_path / f"{number}.safetensors")
        dtype = torch.float16 if number % 2 else torch.float32
        save_file({name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}, files[-1])
    opened = [weighbridge.open_checkpoint(path) for path in files]
    assert weighbridge.matrix(opened).bytes_read == sum(checkpoint.nbytes for checkpoint in opened)
    # The same path twice: not read again, and its pairs are those of the first.
    twice = weighbridge.matrix([*opened, files[0]])
    assert twice.bytes_read == sum(checkpoint.nbytes for checkpoint in opened)
    assert twice.sums.same_bytes == opened[0].nbytes
    assert twice.labels[-1] == f"{files[0]} (2)"
    np.testing.assert_array_equal(twice["delta"][0, 1:-1], twice["delta"][-1, 1:-1])
    assert twice["delta"][0, -1] == 0 and twice["cosine"][0, -1] == 1


def test_bits_do_not_depend_on_blocks_threads_or_reading(found, paths, monkeypatch):
    monkeypatch.setattr(all_pairs, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(all_pairs, "_HELD_BYTES", 0)  # and the sums lie in a file
    ledger = join([weighbridge.open_checkpoint(path) for path in paths])
    assert len(all_pairs.blocks(ledger)) > 3
    for threads, io in ((1, "map"), (3, "pread")):
        again = gather(ledger, threads=threads, io=io)
        assert isinstance(again.sums, np.memmap)
        assert again.sums.tobytes() == found.sums.sums.tobytes()
        assert again.selfs.tobytes() == found.sums.selfs.tobytes()


def test_every_tensor_of_every_checkpoint_has_a_standing(found, paths):
    ledger = found.ledger
    wanted = [(n, name) for n, checkpoint in enumerate(ledger.checkpoints) for name in checkpoint.tensors]
    assert [(s.checkpoint, s.ref.name) for s in ledger.standings] == wanted
    assert {s.status for s in ledger.standings} <= {*STATUSES, "only_in_one"}
    told = {(s.checkpoint, s.ref.name): s for s in ledger.standings}
    assert told[5, "alone"].status == "only_in_one" and told[5, "alone"].others == 0
    mismatch = told[5, "layer.0.dense.weight"]
    assert mismatch.status == "shape_mismatch" and "(70, 1000)" in mismatch.reason
    assert told[3, "head.weight"].others == 1 and told[0, "n"].others == 7


def test_rules_are_those_of_compare(tmp_path):
    """A family of other names, and a head that only two of three have: joined all the same."""
    torch.manual_seed(0)
    body = {f"encoder.layer.{n}.LayerNorm.weight": torch.randn(9) for n in range(3)}
    body["embeddings.word_embeddings.weight"] = torch.randn(5, 9)
    files = [tmp_path / f"{name}.safetensors" for name in "abc"]
    save_file(body, files[0])
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): t + 0.1 for name, t in body.items()}
    save_file({**old, "cls.weight": torch.ones(4)}, files[1])
    save_file({**{f"bert.{name}": t * 2 for name, t in body.items()}, "cls.weight": torch.ones(4)}, files[2])
    found = weighbridge.matrix(files)
    for i, j in itertools.permutations(range(3), 2):
        wanted = weighbridge.compare(files[j], files[i]).overall
        assert (found.n[i, j], found["delta"][i, j]) == (wanted["n"], wanted["pooled_delta"])
    assert found.n[1, 2] == 5 and found.n[0, 1] == 4
    assert weighbridge.matrix(files, exclude=["cls.*"]).n[1, 2] == 4


def test_clear_answers(tmp_path, paths):
    with pytest.raises(OptionError, match=r"two or more checkpoints and this is \".*0.safetensors\" alone"):
        weighbridge.matrix(paths[:1])
    with pytest.raises(OptionError, match="and this is none"):
        weighbridge.matrix([])
    with pytest.raises(OptionError, match="task_cosine is the cosine of what was added to a base"):
        weighbridge.matrix(paths, metrics="task_cosine")
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for number, path in enumerate(files):
        save_file({f"name{number}.weight": torch.ones(3)}, path)
    with pytest.raises(NothingMatchedError, match="no two of the 3 checkpoints have a tensor in common"):
        weighbridge.matrix(files)
    # One stranger among kin is no error: its entries are empty, and it is named.
    found = weighbridge.matrix([*paths[:2], files[0]])
    assert found.strangers == [(0, 2), (1, 2)]
    assert np.isnan(found["delta"][2]).all() and found.n[2, 2] == 0
    alone = weighbridge.matrix([paths[0], paths[0]])
    assert alone["delta"].tolist() == [[0, 0], [0, 0]] and alone.n.min() == 9


def test_equal_values_in_another_dtype_are_not_the_same_tensor(tmp_path):
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path, dtype in zip(files, (torch.float32, torch.float16, torch.float32), strict=True):
        save_file({"a.weight": torch.ones(5, dtype=dtype)}, path)
    found = weighbridge.matrix(files)
    assert found["changed"].max() == 0
    assert [(group.checkpoints, group.same_file) for group in found.identical] == [((0, 2), False)]
