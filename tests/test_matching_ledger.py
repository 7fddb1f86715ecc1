"""The ledger: every tensor of both sides exactly once, with a status, a rule and a reason."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.engine.errors import NothingMatchedError, OptionError, RulesError, WeighbridgeError
from weighbridge.engine.matching import STATUSES, match, require_matches

from support.handmade import checkpoint


def status_of(ledger):
    return {row.tensor or row.base_tensor: row.status for row in ledger.rows}


def assert_complete(ledger):
    assert [row.tensor for row in ledger.rows if row.tensor is not None] == ledger.other.names
    in_base = [row.base_tensor for row in ledger.rows if row.base_tensor is not None]
    assert Counter(in_base) == Counter(ledger.base.names)
    alone = [row.base_tensor for row in ledger.rows if row.tensor is None]
    assert alone == [name for name in ledger.base.names if name in set(alone)]
    assert all(row.tensor is None for row in ledger.rows[len(ledger.other.names) :])
    for row in ledger.rows:
        assert row.status in STATUSES
        assert (row.reason == "") == (row.status == "matched")
        assert (row.tensor is None) == (row.other is None) and (row.base_tensor is None) == (row.base is None)
        if row.status in ("matched", "shape_mismatch"):
            assert row.other is not None and row.base is not None
        if row.status == "matched":
            assert row.rows is not None or row.other.shape == row.base.shape
    totals = ledger.totals
    assert sum(totals[status] for status in STATUSES) == len(ledger.rows)
    outside = [row for row in ledger.rows if row.status == "outside_base_model"]
    assert totals["other"] + sum(row.other is not None for row in outside) == len(ledger.other.names)
    assert totals["base"] + sum(row.base is not None for row in outside) == len(ledger.base.names)


words = st.sampled_from(
    (
        "bert",
        "volta",
        "model",
        "module",
        "encoder",
        "decoder",
        "layer",
        "0",
        "1",
        "2",
        "output",
        "attention",
        "attention_self",
        "self",
        "_orig_mod",
        "LayerNorm",
        "embeddings",
        "word_embeddings",
        "wte",
        "lm_head",
        "weight",
        "bias",
        "gamma",
        "beta",
        "cls",
    )
)
names = st.lists(words, min_size=1, max_size=6).map(".".join)
shapes = st.lists(st.integers(0, 3), max_size=2).map(tuple)
tensors = st.dictionaries(names, shapes, max_size=14)
dtypes = st.sampled_from(["F32", "F32", "F32", "F4"])
configs = st.sampled_from(
    [
        {},
        {"model_type": "bert"},
        {"bert_layer2attn_sublayer": {"0": 0, "1": 2}, "bert_layer2ff_sublayer": {"0": 1, "1": 3}},
        {"bert_layer2attn_sublayer": {"0": 2}, "bert_layer2ff_sublayer": {"0": 0}},
    ]
)
rules = st.sampled_from(["auto", "none", "legacy", "prefix", "prefix,legacy", "auto,-prefix", "-rows", "volta,prefix"])
maps = st.lists(st.sampled_from(["^bert=>volta", "0=>1", r"(\w+)\.weight$=>\1.bias", "other:^model\\.=>"]), max_size=2)
globs = st.lists(st.sampled_from(["*.bias", "bert.*", "*"]), max_size=1)


@settings(max_examples=200, deadline=None)
@given(
    base=tensors,
    own=tensors,
    keep=st.lists(st.booleans(), min_size=14, max_size=14),
    prefix=st.sampled_from(["", "bert.", "module.", "module.model."]),
    dtype=dtypes,
    base_config=configs,
    config=configs,
    rule=rules,
    mapped=maps,
    include=globs,
    exclude=globs,
    rows=st.sampled_from(["overlap", "strict"]),
)
def test_every_tensor_has_one_row(
    base, own, keep, prefix, dtype, base_config, config, rule, mapped, include, exclude, rows
):
    shared = {prefix + name: shape for (name, shape), kept in zip(base.items(), keep, strict=False) if kept}
    other = checkpoint({**own, **shared}, "other", config, dtypes=dict.fromkeys(own, dtype))
    options = {"map": mapped, "include": include, "exclude": exclude, "rows": rows}
    try:
        ledger = match(checkpoint(base, "base", base_config), other, rules=rule, **options)
    except RulesError as error:
        assert rule != "auto" or mapped, f"rules that choose by themselves never collide: {error}"
        return
    assert_complete(ledger)
    again = match(checkpoint(base, "base", base_config), other, rules=rule, **options)
    assert again.rows == ledger.rows
    try:
        require_matches(ledger)
    except WeighbridgeError as error:
        assert not ledger.matched and "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(base=tensors, own=tensors)
def test_auto_pairs_at_least_what_the_names_as_they_stand_do(base, own):
    one, two = checkpoint(base), checkpoint(own)
    literal, auto = match(one, two, rules="none"), match(one, two)
    count = [sum(row.tensor is not None and row.base_tensor is not None for row in x.rows) for x in (literal, auto)]
    assert auto.notes or count[1] >= count[0]


@settings(max_examples=100, deadline=None)
@given(tensors)
def test_a_checkpoint_matches_itself(base):
    ledger = match(checkpoint(base), checkpoint(base))
    assert_complete(ledger)
    assert all(row.status == "matched" and row.rule == "name" and row.tensor == row.base_tensor for row in ledger.rows)
    assert ledger.rules == ()


def test_order_and_rows_of_a_small_pair():
    base = checkpoint({"a": (2, 3), "b": (4,), "c": (2, 2), "d": ()}, "base")
    other = checkpoint({"e": (1,), "c": (2, 2), "b": (5,), "a": (2, 3)}, "other")
    ledger = match(base, other)
    assert [(row.tensor, row.base_tensor, row.status) for row in ledger.rows] == [
        ("e", None, "only_in_other"),
        ("c", "c", "matched"),
        ("b", "b", "shape_mismatch"),
        ("a", "a", "matched"),
        (None, "d", "only_in_base"),
    ]
    assert [row.elements for row in ledger.rows] == [1, 4, 5, 6, 1]
    assert "(5,) in the other and (4,) in the base" in ledger.rows[2].reason
    assert "2 matched" in repr(ledger) and "matched" in ledger.totals


def test_dtypes_that_cannot_be_decoded_are_skipped():
    base = checkpoint(["x.weight", "y.weight", "z.weight"], dtypes={"y.weight": "F4"})
    other = checkpoint(["x.weight", "y.weight", "z.weight"], dtypes={"y.weight": "C64", "x.weight": "F6_E2M3"})
    ledger = match(base, other)
    assert [(row.status, row.reason) for row in ledger.rows] == [
        ("skipped", "dtype F6_E2M3 in the other cannot be decoded"),
        ("skipped", "dtype C64 in the other and F4 in the base cannot be decoded"),
        ("matched", ""),
    ]


def test_include_and_exclude_look_at_both_names():
    base = checkpoint(["bert.a.weight", "bert.b.weight", "bert.c.bias", "bert.d.bias"])
    other = checkpoint(["a.weight", "b.weight", "c.bias"])
    ledger = match(base, other, exclude="bert.a.*")
    assert status_of(ledger)["a.weight"] == "skipped"
    assert ledger.rows[0].reason == "left out by --exclude bert.a.*"
    assert ledger.totals["other"] == 3
    ledger = match(base, other, include=["*.weight"], exclude=["b.*"])
    assert status_of(ledger) == {
        "a.weight": "matched",
        "b.weight": "skipped",
        "c.bias": "skipped",
        "bert.d.bias": "skipped",
    }
    assert ledger.rows[2].reason == "not among --include *.weight"
    assert "--exclude nothing.* matches no name" in match(base, other, exclude="nothing.*").notes


def test_rows_of_embeddings_and_their_heads():
    def sized(rows, types=2, labels=3, hidden=8):
        return {
            "wte.weight": (rows, hidden),
            "token_type_embeddings.weight": (types, hidden),
            "lm_head.weight": (rows, hidden),
            "cls.predictions.bias": (rows,),
            "classifier.weight": (labels, hidden),
            "classifier.head.weight": (labels, hidden),
            "image_embeddings.weight": (rows, hidden),
            "image_embeddings.bias": (rows,),
            "embeddings.LayerNorm.weight": (hidden,),
            "fc.weight": (rows, hidden),
        }

    ledger = match(checkpoint(sized(50)), checkpoint(sized(60, types=1, labels=5)))
    assert {row.tensor: row.rows for row in ledger.matched if row.rows} == {
        "wte.weight": (50, 60),
        "token_type_embeddings.weight": (1, 2),
        "lm_head.weight": (50, 60),
        "cls.predictions.bias": (50, 60),
    }
    assert [row.tensor for row in ledger.rows if row.status == "shape_mismatch"] == [
        "classifier.weight",
        "classifier.head.weight",
        "image_embeddings.weight",
        "image_embeddings.bias",
        "fc.weight",
    ]
    assert {row.rule for row in ledger.matched if row.rows} == {"name+rows"}
    assert ledger.rules == ("rows",)
    for strict in ({"rows": "strict"}, {"rules": "auto,-rows"}):
        assert match(checkpoint(sized(50)), checkpoint(sized(60)), **strict).totals["shape_mismatch"] == 6
    wider = match(checkpoint(sized(50)), checkpoint(sized(50, hidden=16)))
    assert wider.totals["matched"] == 2


def test_a_head_that_the_file_ties_to_an_embedding():
    shapes = {"tok.embeddings.weight": (5, 2), "strange.name": (5, 2)}
    other = checkpoint(dict.fromkeys(shapes, (7, 2)), tied=(tuple(shapes),))
    assert match(checkpoint(shapes), other).totals["matched"] == 2
    assert match(checkpoint(shapes), checkpoint(dict.fromkeys(shapes, (7, 2)))).totals["matched"] == 1


def test_nothing_matched_tells_rules_and_nearest_names():
    base = checkpoint(["encoder.weight_matrix", "encoder.other"], "base.safetensors")
    other = checkpoint(["enc.weight_matrix"], "other.safetensors")
    ledger = match(base, other)
    assert ledger.totals["matched"] == 0
    with pytest.raises(NothingMatchedError) as caught:
        require_matches(ledger)
    text = str(caught.value)
    assert "no tensor of other.safetensors (1) matches one of base.safetensors (2)" in text
    assert "rules tried: transformers, legacy, volta, prefix" in text
    assert '"enc.weight_matrix" and "encoder.weight_matrix"' in text and "--map" in text
    with pytest.raises(NothingMatchedError, match="rules tried: none; "):
        require_matches(match(base, other, rules="none"))
    with pytest.raises(NothingMatchedError, match=r"1 shape_mismatch, such as .a.: .* in the other and"):
        require_matches(match(checkpoint({"a": (1, 2)}), checkpoint({"a": (2, 1)})))
    with pytest.raises(NothingMatchedError, match=r"1 skipped, such as .a.: left out by --exclude"):
        require_matches(match(checkpoint(["a"]), checkpoint(["a"]), exclude="a"))
    with pytest.raises(NothingMatchedError) as caught:
        require_matches(match(base, other, exclude="*.other"))
    text = str(caught.value)
    assert '1 skipped, such as "encoder.other": left out by --exclude *.other' in text
    assert '"enc.weight_matrix" and "encoder.weight_matrix"' in text and 'encoder.other" and' not in text
    with pytest.raises(NothingMatchedError, match="no two names are alike"):
        require_matches(match(checkpoint([]), checkpoint(["a"])))
    fine = match(base, base)
    assert require_matches(fine) is fine


def test_rows_option():
    with pytest.raises(OptionError, match='rows is "all"; it can be "overlap" or "strict"'):
        match(checkpoint([]), checkpoint([]), rows="all")


def test_speed_is_linear():
    """20,000 tensors on either side; quadratic work would take minutes."""
    names = [f"layers.{i // 10}.mlp.experts.{i % 10}.weight" for i in range(20_000)]
    base = checkpoint([f"model.{name}" for name in names])
    for other in (
        checkpoint(names),
        checkpoint([f"x{name}" for name in names]),
        checkpoint([f"y{i}.z" for i in range(20_000)]),
    ):
        start = time.perf_counter()
        match(base, other)
        assert time.perf_counter() - start < 3  # 0.3 s on an idle core
