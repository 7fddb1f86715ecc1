"""`metrics` chooses what is computed: the same bits as among all, nothing else, and never a mixture in a folder."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import weighbridge
from weighbridge.engine import all_pairs
from weighbridge.engine.entries import MATRIX_METRICS
from weighbridge.engine.errors import OptionError
from weighbridge.engine.lineage import gathering
from weighbridge.engine.matrix_store import MatrixStore
from weighbridge.engine.metrics import METRICS, compute, needed
from weighbridge.kernels.sums import PAIR_SUMS, SELF_SUMS
from weighbridge.kernels.wanted import Wanted

from support import families


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return families.write(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def whole(paths):
    return weighbridge.matrix(paths, base=paths[0])


@pytest.fixture(scope="module")
def extremes(tmp_path_factory):
    """Sums that leave float64's range in some tensors, and infinities and NaN in others, narrow ones and wide."""
    folder = tmp_path_factory.mktemp("extremes")
    torch.manual_seed(1)
    out = []
    for number in range(4):
        tensors = {
            "huge.weight": torch.full((40,), (number + 1) * 3e307, dtype=torch.float64),
            "squared.weight": torch.randn(40).double() * 1e200,
            "tiny.weight": torch.randn(40).double() * 1e-170,
            "opposite.weight": torch.cat([torch.ones(20), torch.ones(20) * (-1) ** number]),
            "zero.weight": torch.zeros(9),
            "narrow.weight": torch.randn(30),
        }
        if number == 2:
            tensors["narrow.weight"][7] = torch.inf
        if number == 3:
            tensors["narrow.weight"][5] = torch.nan
        out.append(folder / f"{number}.safetensors")
        save_file(tensors, out[-1])
    return out


def assert_same_bits(found, whole):
    for metric in found.metrics:
        assert found[metric].tobytes() == whole[metric].tobytes(), metric
        assert found.mean(metric).tobytes() == whole.mean(metric).tobytes(), metric
        for by in ("kind", "tensor"):
            for key, group in found.groups(by).items():
                wanted = whole.groups(by)[key]
                assert group.means[metric].tobytes() == wanted.means[metric].tobytes(), (metric, key)
                assert group.pooled[metric].tobytes() == wanted.pooled[metric].tobytes(), (metric, key)


@pytest.mark.parametrize("metric", MATRIX_METRICS)
def test_each_has_the_bits_that_it_has_among_all(paths, extremes, whole, metric):
    found = weighbridge.matrix(paths, metrics=metric)
    assert_same_bits(found, whole)
    assert found.bytes_read == whole.sums.bytes_read
    assert_same_bits(weighbridge.matrix(extremes, metrics=metric), weighbridge.matrix(extremes))


def test_task_vectors_alone(paths, whole):
    assert_same_bits(weighbridge.matrix(paths, base=paths[0], metrics="task_cosine"), whole)


@pytest.mark.parametrize(
    ("metric", "pairs", "selfs"),
    [
        ("delta", {"sum_abs_diff"}, set()),
        ("relative_delta", {"sum_sq_diff"}, {"sum_sq"}),
        ("cosine", {"sum_sq_diff", "dot"}, {"sum_sq"}),
        ("max_delta", {"max_abs_diff"}, set()),
        ("changed", {"differing"}, set()),
    ],
)
def test_what_is_not_needed_is_not_computed(paths, metric, pairs, selfs):
    """In tensors that are computed in float64 the maximum goes with sums of differences."""
    found = weighbridge.matrix(paths, metrics=metric).sums
    for k, tensor in enumerate(found.tensors):
        wide = {"F64", "I64"} & set(tensor.dtypes.values())
        there = pairs | ({"max_abs_diff"} if wide and metric != "changed" else set())
        for at, name in enumerate(PAIR_SUMS):
            assert np.isnan(found.sums[k, tensor.pairs, at]).all() == (name not in there), (tensor.name, name)
        there = selfs | {"elements", "max_abs", "nonfinite"}
        for at, name in enumerate(SELF_SUMS):
            assert np.isnan(found.selfs[k, list(tensor.refs), at]).all() == (name not in there), (tensor.name, name)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_computed_from_what_it_needs(metric):
    """In the narrow case, where no maximum goes with sums; equal, near and opposite vectors."""
    taken = needed([metric])
    x = np.array([[3.0, 6, -2, 14, 3, 0], [3, 6, 6, 14, 3, 0], [3, 6, 6, 14, 3, 0]])
    pair = np.array([[0, 0, 14, 0, 0], [0.5, 0.25, 13.9, 0.5, 1], [12, 56, -14, 6, 3]])
    wanted = compute(x, x[::-1], pair)[metric]
    some = [np.where(columns, sums, np.nan) for columns, sums in ((taken.self_columns, x), (taken.pair_columns, pair))]
    found = compute(some[0], some[0][::-1], some[1], metrics=[metric])
    assert list(found) == [metric]
    np.testing.assert_array_equal(found[metric], wanted)
    assert np.isfinite(wanted).all()


def test_a_difference_whose_square_is_lost_is_none_of_equal_vectors():
    """The last bit of 1e-150 is 1e-166, and its square 0 in float64."""
    x = np.array([3.0, 3e-150, 3e-150, 3e-300, 1e-150, 0])
    for largest, equal in ((1e-166, False), (0.0, True)):
        between = np.array([np.nan, 0.0, 3e-300 * (1 - 1e-15), largest, np.nan])
        assert (compute(x, x, between, metrics=["cosine"])["cosine"] == 1) == equal


@pytest.mark.parametrize("metric", MATRIX_METRICS)
def test_equal_tensors_are_found_by_any_sum(paths, whole, metric):
    assert weighbridge.matrix(paths, metrics=metric).identical == whole.identical


def test_infinities_are_equal_only_where_they_are_counted(tmp_path):
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for path in files:
        save_file({"a.weight": torch.tensor([1.0, torch.inf]), "b.weight": torch.ones(3)}, path)
    assert [group.tensors for group in weighbridge.matrix(files).identical] == [("a.weight", "b.weight")]
    assert [group.tensors for group in weighbridge.matrix(files, metrics="delta").identical] == [("b.weight",)]


def test_a_tree_needs_no_other_sums(paths, monkeypatch):
    found = weighbridge.lineage(paths[:6])
    monkeypatch.setattr(gathering, "WANTED", Wanted.ALL)
    assert found.to_dict() == weighbridge.lineage(paths[:6]).to_dict()


# Folders


def everything(matrix):
    return json.dumps([matrix.to_dict("layer"), matrix.to_dict("tensor")])


def test_a_folder_of_all_serves_any(paths, whole, tmp_path):
    kept = weighbridge.matrix(paths, out=tmp_path / "out")
    some = weighbridge.matrix(paths, out=tmp_path / "out", metrics="delta,changed")
    assert some.bytes_read == 0 and some.metrics == ("delta", "changed")
    assert_same_bits(some, whole)
    assert everything(weighbridge.open_matrix(tmp_path / "out")) == everything(kept)


def test_a_folder_keeps_what_its_metrics_need(paths, whole, tmp_path):
    out = tmp_path / "out"
    kept = weighbridge.matrix(paths, out=out, metrics="relative_delta")
    columns = ["number", "tensor", "i", "j", "home", "elements", "sum_sq", "max_abs", "nonfinite"]
    assert pq.read_table(out / "blocks").column_names == [*columns, "sum_sq_diff", "max_abs_diff"]
    again = weighbridge.open_matrix(out)
    assert again.metrics == ("l2_delta", "relative_delta"), "all that follows from these sums"
    assert_same_bits(again, whole)
    assert again["relative_delta"].tobytes() == kept["relative_delta"].tobytes()
    assert weighbridge.matrix(paths, out=out, metrics="l2_delta").bytes_read == 0
    with pytest.raises(OptionError, match="keeps the sums of other metrics, and not sum_abs_diff; give another"):
        weighbridge.open_matrix(out, metrics="relative_delta,delta")
    for more, missing in (({"metrics": "cosine"}, "dot"), ({}, "sum_abs, sum, sum_abs_diff, dot, max_abs_diff")):
        with pytest.raises(OptionError, match=f"and not {missing}.*; give another folder, or run .* with --force"):
            weighbridge.matrix(paths, out=out, **more)
    assert weighbridge.open_matrix(out).metrics == again.metrics, "what is there is left alone"
    assert_same_bits(weighbridge.matrix(paths, out=out, metrics="cosine", force=True), whole)
    assert weighbridge.open_matrix(out).metrics == ("cosine", "cosine_distance", "l2_delta", "relative_delta")


def test_what_was_stopped_goes_on_with_its_own_sums(paths, tmp_path, monkeypatch):
    """Whoever resumes a matrix of all with one metric completes the one of all."""
    monkeypatch.setattr(all_pairs, "BLOCK_BYTES", 1_000_000)
    whole = weighbridge.matrix(paths, out=tmp_path / "whole")
    save = MatrixStore.save

    class InterruptError(Exception):
        pass

    def stopping(self, block):
        save(self, block)
        raise InterruptError

    monkeypatch.setattr(MatrixStore, "save", stopping)
    for out, options in (("all", {}), ("some", {"metrics": "delta"})):
        with pytest.raises(InterruptError):
            weighbridge.matrix(paths, out=tmp_path / out, **options)
    monkeypatch.setattr(MatrixStore, "save", save)
    weighbridge.matrix(paths, out=tmp_path / "all", metrics="delta")
    assert everything(weighbridge.open_matrix(tmp_path / "all")) == everything(whole)
    with pytest.raises(OptionError, match="keeps the sums of other metrics, and not differing"):
        weighbridge.matrix(paths, out=tmp_path / "some", metrics="changed")
    assert_same_bits(weighbridge.matrix(paths, out=tmp_path / "some", metrics="delta"), whole)


def test_a_block_of_other_sums_is_not_taken(paths, tmp_path):
    for out, metrics in (("one", "delta"), ("other", "max_delta")):
        weighbridge.matrix(paths, out=tmp_path / out, metrics=metrics)
    block = next((tmp_path / "one" / "blocks").iterdir())
    block.write_bytes((tmp_path / "other" / "blocks" / block.name).read_bytes())
    assert weighbridge.matrix(paths, out=tmp_path / "one", metrics="delta").bytes_read > 0
