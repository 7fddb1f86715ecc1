"""Results read back: comparisons and summaries equal those of `compare`, and what is broken is said."""

import json

import numpy as np
import pytest

import weighbridge
from weighbridge.engine.errors import FormatError, OptionError
from weighbridge.engine.report.delimited import comparison_delimited
from weighbridge.engine.report.view import View

from support.sweeps import STEPS, swept


@pytest.fixture
def results(tmp_path):
    return swept(tmp_path)


@pytest.fixture
def direct(results, tmp_path):
    return {
        f"<b>a_$x^{step}$": weighbridge.compare(tmp_path / "base.safetensors", tmp_path / f"{step}.safetensors")
        for step in STEPS
    }


def test_comparisons_are_rebuilt(results, direct):
    assert list(results) == results.labels == list(direct)
    for label, wanted in direct.items():
        got = results[label]
        assert got.to_dict() == wanted.to_dict()
        assert comparison_delimited(got, View(), "csv") == comparison_delimited(wanted, View(), "csv")
        for name in ("other_self", "base_self", "pair"):
            assert getattr(got, name).tobytes() == getattr(wanted, name).tobytes()
        for mine, theirs in zip(got.ledger.rows, wanted.ledger.rows, strict=True):
            for one, two in ((mine.base, theirs.base), (mine.other, theirs.other)):
                assert (one is None) == (two is None)
                assert one is None or (one.shape, one.dtype, one.nbytes) == (two.shape, two.dtype, two.nbytes)
    with pytest.raises(KeyError):
        results["bad"]


@pytest.mark.parametrize("by", [None, "kind", "layer", "tensor"])
def test_summaries_equal_those_of_the_comparison(results, direct, by):
    lines = results.summary(by)
    wanted = [
        (label, row)
        for label, comparison in direct.items()
        for row in ([comparison.overall] if by is None else comparison.summary(by))
    ]
    assert [line["label"] for line in lines] == [label for label, _ in wanted]
    for line, (label, row) in zip(lines, wanted, strict=True):
        np.testing.assert_equal({key: line[key] for key in row}, row)
        totals = direct[label].totals
        assert all(line[status] == totals[status] for status in ("matched", "only_in_base", "shape_mismatch"))


def test_tables(results):
    table = results.table()
    assert table.num_rows == len(results.rows) == len(results.to_pandas()) > 0
    assert set(table.column("label").to_pylist()) == set(results.labels)
    assert set(results.table(["step"]).column("step").to_pylist()) == set(STEPS)
    with pytest.raises(OptionError, match="there is no column"):
        results.table(["stepp"])


def test_failures_damage_and_pending(results, tmp_path):
    assert [entry["label"] for entry in results.failures] == ["bad"] and results.failures[0]["reason"]
    path = tmp_path / "out" / "sweep.json"
    manifest = json.loads(path.read_text())
    (tmp_path / "out" / manifest["others"][0]["file"]).write_bytes(b"PAR1 no more")
    manifest["others"][1]["status"] = "pending"
    path.write_text(json.dumps(manifest))
    again = weighbridge.open_results(tmp_path / "out")
    assert again.labels == [manifest["others"][2]["label"]] and again.pending == 1
    assert [entry["label"] for entry in again.failures] == ["bad", manifest["others"][0]["label"]]
    assert "damaged" in again.failures[1]["reason"]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "extra": {}, "others": [{"label": "x"}]}'],
)
def test_a_broken_manifest_is_one_sentence(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(FormatError, match=r"sweep\.json"):
        weighbridge.open_results(tmp_path)
