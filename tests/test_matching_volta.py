"""BERT against the five controlled VoLTA models: every one of the 197 pairs, from on-disk and state-dict names."""

from collections import Counter

import pytest

from weighbridge.engine.errors import RulesError
from weighbridge.engine.matching import match

from support.handmade import checkpoint
from support.volta import data as described

TOTALS = {"ctrl_visual_bert": 399, "ctrl_uniter": 405, "ctrl_vl_bert": 404, "ctrl_lxmert": 503, "ctrl_vilbert": 497}
CODES = {"float32": "F32", "int64": "I64"}
LAYERS = 12


def opened(name, names="checkpoint", config=True):
    data = described(name)
    return checkpoint(
        {tensor: shape for tensor, _, shape in data[names]},
        label=name,
        config=data["config"] if config else {},
        dtypes={tensor: CODES[dtype] for tensor, dtype, _ in data[names]},
        tied=tuple(map(tuple, data["tied"])) if names == "checkpoint" else (),
    )


def expected_pairs(name, names, base_names):
    """(name in the other, name in the base), spelt out from the config's maps without regular expressions."""
    config = described(name)["config"]
    attention, feed_forward = config["bert_layer2attn_sublayer"], config["bert_layer2ff_sublayer"]
    weight, bias = ("gamma", "beta") if base_names == "checkpoint" else ("weight", "bias")
    pairs = [(f"embeddings.{part}_embeddings.weight",) * 2 for part in ("word", "position", "token_type")]
    pairs += [("embeddings.LayerNorm.weight", f"embeddings.LayerNorm.{weight}")]
    pairs += [("embeddings.LayerNorm.bias", f"embeddings.LayerNorm.{bias}")]
    for layer in range(LAYERS):
        to_attention = f"encoder.layer.{attention[str(layer)]}."
        to_feed_forward = f"encoder.layer.{feed_forward[str(layer)]}."
        here = f"encoder.layer.{layer}."
        for kind, base_kind in (("weight", weight), ("bias", bias)):
            for projection in ("query", "key", "value"):
                pairs.append(
                    (f"{to_attention}attention_self.{projection}.{kind}", f"{here}attention.self.{projection}.{kind}")
                )
            pairs.append((f"{to_attention}attention_output.dense.{kind}", f"{here}attention.output.dense.{kind}"))
            pairs.append(
                (f"{to_attention}attention_output.LayerNorm.{kind}", f"{here}attention.output.LayerNorm.{base_kind}")
            )
            pairs.append((f"{to_feed_forward}intermediate.dense.{kind}", f"{here}intermediate.dense.{kind}"))
            pairs.append((f"{to_feed_forward}output.dense.{kind}", f"{here}output.dense.{kind}"))
            pairs.append((f"{to_feed_forward}output.LayerNorm.{kind}", f"{here}output.LayerNorm.{base_kind}"))
    prefix = "volta." if names == "checkpoint" else ""
    base_prefix = "bert." if base_names == "checkpoint" else ""
    return {(prefix + mine, base_prefix + theirs) for mine, theirs in pairs}


@pytest.mark.parametrize("base_names", ["checkpoint", "state_dict"])
@pytest.mark.parametrize("names", ["checkpoint", "state_dict"])
@pytest.mark.parametrize("name", TOTALS)
def test_every_pair_is_the_right_one(name, names, base_names):
    ledger = match(opened("bert-base-uncased", base_names), opened(name, names))
    totals = ledger.totals
    assert (totals["other"], totals["matched"]) == (TOTALS[name], 197)
    assert totals["shape_mismatch"] == totals["skipped"] == 0
    pairs = expected_pairs(name, names, base_names)
    assert len(pairs) == 197
    assert {(row.tensor, row.base_tensor) for row in ledger.matched} == pairs

    kinds = Counter(row.kind for row in ledger.matched)
    assert (kinds["layer_norm_bias"], kinds["layer_norm_weight"]) == (25, 25)
    assert (kinds["normal_bias"], kinds["normal_weight"]) == (72, 75)
    assert kinds["layer_norm_bias"] + kinds["normal_bias"] == 97
    assert kinds["layer_norm_weight"] + kinds["normal_weight"] == 100

    expected = set()
    if "checkpoint" in (names, base_names):
        expected.add("prefix")
    if base_names == "checkpoint":
        expected.add("legacy")
    if name == "ctrl_vl_bert":
        expected.add("rows")
    assert set(ledger.rules) == expected | {"volta"}

    alone = [row.base_tensor for row in ledger.rows if row.status == "only_in_base"]
    pooler = ["pooler.dense.weight", "pooler.dense.bias"]
    if base_names == "checkpoint":
        assert alone == [f"bert.{part}" for part in pooler]
    else:
        assert alone == ["embeddings.position_ids", *pooler]
    outside = {row.tensor or row.base_tensor for row in ledger.rows if row.status == "outside_base_model"}
    heads = [one for one in (*ledger.other.names, *ledger.base.names) if one.startswith("cls.")]
    assert outside == set(heads)


@pytest.mark.parametrize("name", TOTALS)
def test_the_trap(name):
    """Literal names have 41 in common, 36 of them of other layers: the reason for the rule."""
    base, other = opened("bert-base-uncased", "state_dict"), opened(name, "state_dict")
    literal = match(base, other, rules="none")
    right = expected_pairs(name, "state_dict", "state_dict")
    pairs = {(row.tensor, row.base_tensor) for row in literal.matched}
    assert len(pairs & right) < len(pairs)
    # Without a config there is no telling which layer is which: what cannot be known is left unpaired, not guessed.
    blind = match(base, opened(name, "state_dict", config=False))
    assert {(row.tensor, row.base_tensor) for row in blind.matched} <= right
    assert any("bert_layer2attn_sublayer" in note for note in blind.notes)
    assert any("bert_layer2attn_sublayer" in row.reason for row in blind.rows)


def test_the_trap_in_numbers():
    base, other = opened("bert-base-uncased", "state_dict"), opened("ctrl_visual_bert", "state_dict")
    pairs = {(row.tensor, row.base_tensor) for row in match(base, other, rules="none").matched}
    right = expected_pairs("ctrl_visual_bert", "state_dict", "state_dict")
    assert (len(pairs), len(pairs - right)) == (41, 36)


def test_rows_of_the_token_types():
    ledger = match(opened("bert-base-uncased"), opened("ctrl_vl_bert"))
    trimmed = [row for row in ledger.rows if row.rows]
    assert [(row.tensor, row.rows, row.rule) for row in trimmed] == [
        ("volta.embeddings.token_type_embeddings.weight", (2, 3), "prefix+rows")
    ]
    assert trimmed[0].elements == 2 * 768
    strict = match(opened("bert-base-uncased"), opened("ctrl_vl_bert"), rows="strict")
    assert strict.totals["matched"] == 196
    (row,) = [row for row in strict.rows if row.status == "shape_mismatch"]
    assert row.reason.startswith("(3, 768) in the other and (2, 768) in the base; pass --rows overlap")


def test_forced_rules_give_the_same_as_auto():
    base, other = opened("bert-base-uncased"), opened("ctrl_lxmert")
    auto, forced = match(base, other), match(base, other, rules="volta,legacy,prefix")
    assert [(row.tensor, row.base_tensor, row.status) for row in auto.rows] == [
        (row.tensor, row.base_tensor, row.status) for row in forced.rows
    ]


def test_either_may_be_the_base():
    ledger = match(opened("ctrl_vilbert"), opened("bert-base-uncased"))
    assert {(row.base_tensor, row.tensor) for row in ledger.matched} == expected_pairs(
        "ctrl_vilbert", "checkpoint", "checkpoint"
    )


def test_two_volta_models_meet_in_berts_numbering():
    lxmert, vilbert = opened("ctrl_lxmert"), opened("ctrl_vilbert")
    ledger = match(lxmert, vilbert)
    pairs = {row.tensor: row.base_tensor for row in ledger.matched}
    # BERT's layer 9: attention in sublayer 19 of LXMERT and 26 of ViLBERT.
    assert pairs["volta.encoder.layer.26.attention_self.query.weight"] == (
        "volta.encoder.layer.19.attention_self.query.weight"
    )
    # Sublayer 24 is a cross-attention in both, but not the same one.
    assert "volta.encoder.layer.24.attention_self.query.weight" not in pairs
    same = match(lxmert, lxmert)
    assert all(row.status == "matched" and row.rule == "name" for row in same.rows)


def test_a_broken_map_is_named():
    base, other = opened("bert-base-uncased"), opened("ctrl_lxmert")
    config = {**other.config, "bert_layer2ff_sublayer": {"0": 1, "1": 1}}
    with pytest.raises(RulesError, match="gives two layers the same sublayer"):
        match(base, checkpoint(other.names, config=config))
    with pytest.raises(RulesError, match="is None, not a map"):
        match(base, checkpoint(other.names, config={"bert_layer2attn_sublayer": {"0": 1}}))
    with pytest.raises(RulesError, match=r"needs .bert_layer2attn_sublayer."):
        match(base, base, rules="volta")
