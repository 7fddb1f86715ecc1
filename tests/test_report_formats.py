"""Every format of a comparison: what is in it, in which order, and that names from files stay data."""

import csv
import io
import json

import numpy as np
import pytest

from weighbridge.engine.errors import OptionError
from weighbridge.engine.inspection import Inspection
from weighbridge.engine.metrics import METRICS
from weighbridge.engine.report.contents import inspection_document
from weighbridge.engine.report.delimited import comparison_delimited, inspection_delimited, ledger_delimited
from weighbridge.engine.report.json_text import comparison_object, dump
from weighbridge.engine.report.ledger import ledger_document
from weighbridge.engine.report.markdown import markdown
from weighbridge.engine.report.notebook import notebook_text
from weighbridge.engine.report.overview import comparison_document
from weighbridge.engine.report.terminal import draw
from weighbridge.engine.report.text import plain
from weighbridge.engine.report.view import View
from weighbridge.engine.summary import GROUP_COLUMNS
from weighbridge.engine.table import COLUMNS, LEDGER_COLUMNS

from support.tables import ANSI, compared, small

HOSTILE = "[bold]a[/bold]\x1b[31m|`x`\n<b>.weight"


@pytest.fixture(scope="module")
def comparison():
    return small()


@pytest.fixture(scope="module")
def hostile():
    return compared({HOSTILE: [1.0], "b.weight": [0.0]}, {HOSTILE: [2.0], "b.weight": [np.inf]}, other_label="o\x1b[2J")


def read(text, delimiter=","):
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))


def table(comparison, width=None, **options):
    return draw(comparison_document(comparison, View.checked(**options)), width)


# --- the table


def test_table_tells_everything_that_was_not_compared(comparison):
    text = table(comparison)
    assert "other against base" in text
    assert "matched 8 of 11 tensors (the base has 10)" in text
    for line in ("1 only_in_other, 1 only_in_base, 1 shape_mismatch, 1 skipped", "word_embeddings.weight: rows 3 of 4"):
        assert line in text
    for name in ("new.weight", "gone.bias", "odd.weight", "mask.weight", "left out by --exclude mask*"):
        assert name in text
    assert "8 tensors, 25 elements; read 200 B in 0.25 s, 800 B/s" in text
    assert "cosine of 1 tensor left out of the means: a zero vector has no direction" in text
    assert "5 tensors equal in every element" in text


def test_table_has_no_ansi_without_a_terminal_and_full_names():
    name = "encoder." * 40 + "weight"
    text = table(compared({name: [1.0]}, {name: [2.0]}))
    assert name in text and "…" not in text
    assert not ANSI.search(text)
    assert not any(line.endswith(" ") for line in text.splitlines())


@pytest.mark.parametrize("options", [{}, {"by": "layer"}, {"by": "tensor"}, {"metrics": ",".join(METRICS)}])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_table_fits_the_terminal(width, options):
    names = [f"model.decoder.layers.{n}.self_attention.projection_of_the_query.weight" for n in range(12)]
    found = compared({name: [1.0, 2.0] for name in names}, {name: [1.0, 2.0 + 1 / 3] for name in names})
    lines = table(found, width, **options).splitlines()
    assert max(map(len, lines)) <= width
    if options.get("metrics"):
        text = "\n".join(lines)
        assert all(metric in text for metric in METRICS)


def test_terminal_elides_names_in_the_middle():
    name = "model.decoder.layers.7.self_attention.projection_of_the_query.weight"
    text = table(compared({name: [1.0]}, {name: [2.0]}), 80)
    assert "model.de…" in text and "_of_the_query.weight" in text


def test_colours_only_when_asked_for(comparison):
    document = comparison_document(comparison)
    assert ANSI.search(draw(document, 80, colour=True))
    assert not ANSI.search(draw(document, 80, colour=False))


def test_names_are_data(hostile):
    for text in (
        table(hostile),
        draw(comparison_document(hostile), 80, colour=False),
        draw(ledger_document(hostile.ledger)),
    ):
        assert "[bold]a[/bold]\\x1b[31m|`x`\\n<b>.weight" in text
        assert "\x1b" not in text


def test_nonfinite_values_are_called_out(hostile):
    text = table(hostile)
    assert "NaN or infinity in 1 tensor" in text
    assert "b.weight: 1 in the other, 0 in the base" in text


def test_values_that_do_not_exist_are_left_out_in_words():
    zero, one, empty = [0.0, 0.0], [1.0, 0.0], np.zeros((0, 2))
    base = {"a.bias": zero, "b.bias": one, "c.bias": one, "d.bias": zero, "e.weight": empty, "f.weight": one}
    other = {"a.bias": one, "b.bias": zero, "c.bias": one, "d.bias": zero, "e.weight": empty, "f.weight": [1.0, 1.0]}
    found = compared(base, other)
    text = table(found)
    for line in (
        "cosine of 3 tensors left out of the means: a zero vector has no direction",
        "relative_delta of 2 tensors left out of the means: its base is zero",
        "1 empty tensor left out of the means of all metrics: no elements",
    ):
        assert line in text.splitlines()
    _, _, *rows, note, _equal = text[text.index("changed most") :].split("\n\n")[0].splitlines()
    assert [row.split()[:2] for row in rows] == [["a.bias", "inf"], ["b.bias", "1"], ["f.weight", "1"]]
    assert note == "relative_delta is inf where the base is zero: any change from zero is infinite"
    assert "is inf" not in table(found, metrics="delta", sort="delta")
    assert "is inf" in table(found, by="tensor") and "is inf" not in table(compared(*[{"a.weight": one}] * 2))
    whole = found.overall
    assert whole["relative_delta"] == (1 + 0 + 1) / 3 and whole["relative_delta_n"] == 3 and whole["cosine_n"] == 2
    assert "left out" not in table(compared({"a.weight": one}, {"a.weight": one}))


def test_a_reason_that_several_share_is_said_once():
    base = {name: [1.0] for name in ("a.weight", "b.weight", "b.bias", "c.bias", "d.bias", "e.weight")}
    options = {"include": ["*.weight"], "exclude": ["b.*", "e.*"]}
    text = draw(ledger_document(compared(base, base, **options).ledger))
    assert text[text.index("not compared, skipped 5") :].splitlines() == [
        "not compared, skipped 5: left out",
        "  left out by --exclude b.* (2):",
        "    b.weight",
        "    b.bias",
        "  not among --include *.weight (2):",
        "    c.bias",
        "    d.bias",
        "  e.weight: left out by --exclude e.*",
    ]
    one = draw(ledger_document(compared(base, base, include=["a.*"]).ledger))
    assert "not compared, skipped 5: not among --include a.*\n  b.weight\n" in one
    shown = table(compared(base, base, include=["a.*"], exclude=["e.*"]))
    assert "not among --include a.* (4):\n    b.weight\n    b.bias\n    c.bias\n    and 1 more" in shown
    nested = markdown(comparison_document(compared(base, base, **options)))
    assert "\n- left out by --exclude b.\\* (2):\n  - b.weight\n" in nested


def test_top_and_sort(comparison):
    text = table(comparison, top=2, sort="max_delta")
    assert "changed most, by max_delta" in text and "and 1 more; --top 0 shows them all" in text
    assert text.index("layer.0.dense.weight") < text.index("layer.0.dense.bias")
    assert "layer.2.dense.weight" not in text
    assert "layer.2.dense.weight" in table(comparison, top=0)


def test_nothing_changed_is_said():
    same = {"a.weight": [1.0], "b.weight": [2.0]}
    assert "nothing: 2 tensors equal in every element" in table(compared(same, same))


def test_by_layer_and_by_tensor(comparison):
    text = table(comparison, by="layer")
    assert text.index("layer 0 ") < text.index("layer 2 ") < text.index("layer 10 ") < text.index("in no layer")
    text = table(comparison, by="tensor", metrics="delta")
    assert text.index("word_embeddings.weight") < text.index("layer.10.dense.weight") < text.index("scale")
    assert "more; --top 0" not in text
    left_out = len(comparison.matched) - 2
    assert f"and {left_out} more; --top 0 shows them all" in table(comparison, by="tensor", top=2)


# --- the notebook


def test_notebook_text_is_exact():
    base = {"layer.0.LayerNorm.bias": [0.0, 2.0], "layer.0.dense.weight": [3.0, 4.0]}
    other = {"layer.0.LayerNorm.bias": [0.0, 1.0], "layer.0.dense.weight": [4.0, 3.0], "head.bias": [1.0]}
    assert notebook_text(compared(base, other, other_label="models/x")) == (
        "models/x:\n"
        "total_weights (tensors) 3\n"
        "total_transferred_weights (tensors) 2\n"
        "type\tn\tvolta_avg\tbert_avg\tdelta_avg\tcossim_avg\n"
        "layer_norm_bias\t1\t0.50000\t1.00000\t0.50000\t1.00000\n"
        "layer_norm_weight\t0\tnan\tnan\tnan\tnan\n"
        "normal_bias\t0\tnan\tnan\tnan\tnan\n"
        "normal_weight\t1\t3.50000\t3.50000\t1.00000\t0.96000\n"
        "all_bias\t1\t0.50000\t1.00000\t0.50000\t1.00000\n"
        "all_weight\t1\t3.50000\t3.50000\t1.00000\t0.96000\n"
        "\n"
    )


# --- CSV and TSV


@pytest.mark.parametrize(("fmt", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_has_all_rows_and_columns(comparison, fmt, delimiter):
    text = comparison_delimited(comparison, View(), fmt)
    assert text.splitlines()[0].split(delimiter) == list(COLUMNS)
    rows = read(text, delimiter)
    assert [row["tensor"] or row["base_tensor"] for row in rows] == [
        row.tensor or row.base_tensor for row in comparison.rows
    ]
    for row, expected in zip(rows, comparison.rows, strict=True):
        assert json.loads(row["shape"]) == list((expected.other or expected.base).shape)
        if expected.status == "matched":
            assert float(row["delta"]) == expected.delta
        else:
            assert row["delta"] == "" and row["reason"]
    assert {row["base"] for row in rows} == {"base"}


def test_delimited_tells_nan_from_nothing(hostile):
    rows = read(comparison_delimited(hostile, View(), "csv"))
    assert (rows[1]["delta"], rows[1]["nonfinite"]) == ("inf", "1")
    assert rows[0]["tensor"] == plain(HOSTILE)  # JSON has it as it stands


def test_delimited_sort_top_metrics_by(comparison):
    rows = read(comparison_delimited(comparison, View.checked(sort="max_delta"), "csv"))
    assert rows[0]["tensor"] == "layer.0.dense.weight" and len(rows) == 12
    assert [row["status"] == "matched" for row in rows] == [True] * 8 + [False] * 4
    rows = read(comparison_delimited(comparison, View.checked(top=2, metrics="cosine,delta"), "csv"))
    assert len(rows) == 2
    assert list(rows[0]) == ["base", "other", *LEDGER_COLUMNS, "cosine", "delta", "reason"]
    rows = read(comparison_delimited(comparison, View.checked(by="kind", metrics="delta"), "csv"))
    assert list(rows[0]) == ["base", "other", "kind", *GROUP_COLUMNS, "delta", "pooled_delta"]
    assert len(rows) == 7
    rows = read(comparison_delimited(comparison, View.checked(by="layer", sort="max_delta", top=1), "tsv"), "\t")
    assert [row["layer"] for row in rows] == ["0"]


def test_header_only_once(comparison):
    text = comparison_delimited(comparison, View(), "csv") + comparison_delimited(
        comparison, View(), "csv", header=False
    )
    assert len(read(text)) == 24


def test_ledger_delimited(comparison):
    rows = read(ledger_delimited(comparison.ledger, "csv"))
    assert list(rows[0]) == ["base", "other", *LEDGER_COLUMNS, "reason"]
    assert len(rows) == 12


# --- JSON


def test_json_without_options_is_the_dict(comparison):
    assert json.loads(dump(comparison_object(comparison, View()))) == comparison.to_dict()


def test_json_is_strict_and_ascii(hostile):
    text = dump(comparison_object(hostile, View()))
    assert text.isascii() and "NaN" not in text and "Infinity" not in text and "\x1b" not in text
    assert json.loads(text)["tensors"][0]["tensor"] == HOSTILE


def test_json_floats_are_in_full(comparison):
    found = json.loads(dump(comparison.to_dict()))
    for row, expected in zip(found["tensors"], comparison.rows, strict=True):
        if expected.status == "matched":
            assert row["delta"] == expected.delta


def test_json_sort_top_metrics_by(comparison):
    found = comparison_object(comparison, View.checked(by="layer", top=2, metrics="delta"))
    assert [row["tensor"] for row in found["tensors"]] == ["layer.0.dense.bias", "layer.0.dense.weight"]
    assert "cosine" not in found["tensors"][0] and "cosine" in found["kinds"]["all_bias"]
    assert found["totals"] == comparison.totals
    assert [layer["layer"] for layer in found["layers"]] == [0, 2, 10, None]
    json.loads(dump(found))


# --- Markdown


def test_markdown(comparison):
    text = markdown(comparison_document(comparison))
    assert text.startswith("### other against base\n")
    assert "| kind | n | delta | cosine | relative_delta | max_delta | changed |\n| :-- | --: |" in text
    assert "| `layer.0.dense.weight` |" in text


def test_markdown_names_stay_in_their_cell(hostile):
    text = markdown(comparison_document(hostile))
    row = next(line for line in text.splitlines() if line.startswith("| ``[bold]"))
    assert row.replace("\\|", "").count("|") == 5
    assert "<b>" not in text.replace(row, "")


# --- a checkpoint


def inspection(stats):
    found = small()
    sums = np.array([[2.0, 3.0, -1.0, 5.0, 2.0, 0.0]] * len(found.ledger.other.tensors)) if stats else None
    return Inspection(found.ledger.other, sums, bytes_read=100, seconds=0.5)


def test_inspection_formats():
    found = inspection(stats=True)
    text = draw(inspection_document(found), 80)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("by dtype", "4x2", "word_embeddings.weight", "max_abs", "-0.50000", "read 100 B"):
        assert part in text
    rows = read(inspection_delimited(found, "csv"))
    assert rows[0]["mean"] == "-0.5" and rows[0]["nonfinite"] == "0" and rows[0]["l2"] == repr(5.0**0.5)
    data = json.loads(dump(found.to_dict()))
    assert data["totals"] == {"tensors": 11, "elements": 31, "bytes": 124}
    assert data["dtypes"] == {"F32": data["totals"]}
    assert "11 tensors, 31 elements" in repr(found)
    assert "<table>" in found._repr_html_()


def test_inspection_without_stats_and_with_undecodable_tensors():
    assert "mean" not in inspection(stats=False).rows[0]
    found = inspection(stats=True)
    found.self_sums[0] = np.nan
    assert found.to_dict()["tensors"][0]["nonfinite"] is None
    assert "nan" in draw(inspection_document(found))


# --- options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"sort": "max_delat"},
            r'there is no metric "max_delat" \(--sort\); did you mean "max_delta"\? choose from delta',
        ),
        ({"metrics": "delta,cosin"}, r'"cosin" \(--metrics\); did you mean "cosine"'),
        ({"metrics": " , "}, "--metrics names no metric; choose from delta, "),
        ({"by": "leyer"}, 'did you mean "layer"'),
        ({"top": -1}, "--top is -1; give the number of tensors to show, or 0 for all of them"),
    ],
)
def test_wrong_options_are_sentences(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        View.checked(**options)
