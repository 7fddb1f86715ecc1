"""Rows, totals and summaries of a comparison."""

import json
import math

import numpy as np
import pytest

from weighbridge.engine.errors import OptionError
from weighbridge.engine.metrics import METRICS
from weighbridge.engine.table import COLUMNS

from support.tables import compared, small

LEDGER_KEYS = ["tensor", "base_tensor", "status", "rule", "kind", "layer", "shape", "dtype", "base_dtype", "rows"]


@pytest.fixture(scope="module")
def comparison():
    return small()


def by_name(comparison):
    return {row.tensor or row.base_tensor: row for row in comparison.rows}


def test_every_tensor_has_a_row_and_only_the_matched_have_metrics(comparison):
    rows = by_name(comparison)
    assert len(rows) == len(comparison.rows) == 12
    assert [row.status for row in comparison.rows].count("matched") == comparison.totals["matched"] == 8
    assert {name: rows[name].status for name in ("odd.weight", "new.weight", "gone.bias", "mask.weight")} == {
        "odd.weight": "shape_mismatch",
        "new.weight": "only_in_other",
        "gone.bias": "only_in_base",
        "mask.weight": "skipped",
    }
    assert rows["layer.0.dense.bias"].delta == 0.125
    assert rows["word_embeddings.weight"].rows == (3, 4)
    assert math.isnan(rows["new.weight"].delta)
    with pytest.raises(AttributeError):
        _ = rows["new.weight"].nonsense


def test_dict_has_the_documented_keys_in_order(comparison):
    found = comparison.to_dict()
    assert list(found) == ["base", "other", "rules", "totals", "kinds", "tensors"]
    assert list(found["kinds"]) == [
        "layer_norm_bias",
        "layer_norm_weight",
        "normal_bias",
        "normal_weight",
        "all_bias",
        "all_weight",
        "other",
    ]
    assert list(found["kinds"]["other"]) == [
        "n",
        "mean_abs",
        "base_mean_abs",
        "delta",
        "cosine",
        "pooled_delta",
        "pooled_cosine",
    ]
    for row in found["tensors"]:
        assert list(row) == [*LEDGER_KEYS, "elements", *METRICS, "reason"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_dict_has_null_for_what_is_not_there(comparison):
    rows = {row["tensor"] or row["base_tensor"]: row for row in comparison.to_dict()["tensors"]}
    assert rows["layer.0.LayerNorm.bias"]["cosine"] is None
    assert rows["layer.0.LayerNorm.bias"]["delta"] == 0.0
    assert rows["new.weight"]["delta"] is None and rows["new.weight"]["reason"]
    assert rows["new.weight"]["base_dtype"] == "" and rows["new.weight"]["dtype"] == "F32"
    assert rows["gone.bias"]["tensor"] is None and rows["gone.bias"]["shape"] == [1]
    assert rows["scale"]["reason"] == "" and rows["scale"]["nonfinite"] == 0
    assert isinstance(rows["scale"]["nonfinite"], int)
    assert rows["word_embeddings.weight"]["rows"] == [3, 4]
    assert rows["word_embeddings.weight"]["elements"] == 6


def test_kind_summary(comparison):
    kinds = {group["kind"]: group for group in comparison.summary()}
    counts = {kind: group["n"] for kind, group in kinds.items()}
    assert counts == {
        "layer_norm_bias": 1,
        "layer_norm_weight": 1,
        "normal_bias": 1,
        "normal_weight": 4,
        "all_bias": 2,
        "all_weight": 5,
        "other": 1,
    }
    assert kinds["all_bias"]["delta"] == pytest.approx((0 + 0.125) / 2)
    assert kinds["all_bias"]["pooled_delta"] == pytest.approx(0.25 / 4)
    assert kinds["normal_weight"]["max_delta"] == 1.0
    # The zero vector's cosine is left out of the mean and not counted.
    assert kinds["layer_norm_bias"]["cosine_n"] == 0 and math.isnan(kinds["layer_norm_bias"]["cosine"])
    assert kinds["all_bias"]["cosine_n"] == 1 and kinds["all_bias"]["relative_delta_n"] == 1
    assert kinds["all_bias"]["cosine"] == kinds["normal_bias"]["cosine"]


def test_layers_in_natural_order_with_none_last(comparison):
    layers = comparison.summary("layer")
    assert [group["layer"] for group in layers] == [0, 2, 10, None]
    assert [group["n"] for group in layers] == [4, 1, 1, 2]
    assert sum(group["elements"] for group in layers) == comparison.overall["elements"] == 25


def test_tensor_summary_is_the_rows(comparison):
    groups = comparison.summary(by="tensor")
    assert [group["tensor"] for group in groups] == [row.tensor for row in comparison.matched]
    for group, row in zip(groups, comparison.matched, strict=True):
        assert group["delta"] == group["pooled_delta"] == row.delta


def test_empty_kind_has_no_numbers_but_a_count():
    group = compared({"a.weight": [1.0]}, {"a.weight": [2.0]}).summary()[0]
    assert (group["kind"], group["n"], group["elements"], group["nonfinite"]) == ("layer_norm_bias", 0, 0, 0)
    assert math.isnan(group["delta"]) and math.isnan(group["pooled_cosine"])


def test_nan_in_the_data_stays_in_the_means():
    found = compared({"a.weight": [1.0], "b.weight": [1.0]}, {"a.weight": [np.nan], "b.weight": [1.0]})
    group = found.overall
    assert math.isnan(group["delta"]) and math.isnan(group["cosine"])
    assert (group["nonfinite"], group["base_nonfinite"], group["cosine_n"]) == (1, 0, 2)
    assert found.to_dict()["tensors"][0]["delta"] is None
    assert found.to_dict()["tensors"][1]["delta"] == 0.0


def test_empty_tensors_take_no_part_in_means():
    found = compared(
        {"a.weight": np.zeros((0, 2)), "b.weight": [1.0]}, {"a.weight": np.zeros((0, 2)), "b.weight": [3.0]}
    )
    assert found.overall["n"] == 2
    assert found.overall["delta"] == 2.0


def test_a_change_from_zero_is_infinite_in_its_row_and_in_no_mean():
    base = {"a.bias": [0.0], "b.bias": [2.0], "c.bias": [4.0]}
    found = compared(base, {"a.bias": [1.0], "b.bias": [3.0], "c.bias": [4.0]})
    assert [row.relative_delta for row in found.matched] == [np.inf, 0.5, 0.0]
    group = found.summary()[2]
    assert (group["relative_delta"], group["relative_delta_n"], group["n"]) == (0.25, 2, 3)
    assert group["pooled_relative_delta"] == pytest.approx(math.sqrt(2 / 20))
    # Infinity in the data is none of that: it stays in the mean.
    sick = compared(base, {"a.bias": [np.inf], "b.bias": [3.0], "c.bias": [4.0]}).overall
    assert sick["relative_delta_n"] == 3 and sick["relative_delta"] == np.inf


def test_unknown_grouping_and_metric_are_sentences(comparison):
    with pytest.raises(OptionError, match=r'there is no grouping "kinds" \(by\); did you mean "kind"'):
        comparison.summary("kinds")
    with pytest.raises(OptionError, match=r'did you mean "delta".*choose from delta, cosine, '):
        comparison.to_dict(metrics=["dleta"])


def test_pandas_has_the_columns_of_the_csv(comparison):
    frame = comparison.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 12
    assert frame.status.value_counts()["matched"] == 8
    assert frame.loc[frame.tensor == "layer.0.dense.bias", "delta"].item() == 0.125
    assert frame.loc[frame.status == "only_in_other", "delta"].isna().all()
    assert frame.nonfinite.sum() == 0
    assert set(frame.base) == {"base"}
    assert frame.layer.dropna().astype(int).tolist() == [0, 0, 0, 0, 10, 2]


def test_repr_is_short_and_plain(comparison):
    text = repr(comparison)
    assert len(text.splitlines()) == 4
    assert "'other' against 'base'" in text and "matched 8 of 11" in text
    assert "np.float64" not in text


def test_html_is_escaped():
    name = "<script>alert(1)</script>.weight"
    html = compared({name: [1.0]}, {name: [2.0]}, other_label="<b>x</b>")._repr_html_()
    assert "<script>" not in html and "<b>" not in html
    assert "&lt;script&gt;" in html and "<table>" in html
