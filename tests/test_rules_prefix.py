"""The prefix rule finds prefixes by itself, and takes none that does not help."""

import pytest

from weighbridge.engine.matching import match

from support.handmade import checkpoint

BODY = [
    "embeddings.word.weight",
    *(f"encoder.layer.{i}.{part}.weight" for i in range(3) for part in ("query", "fc", "norm")),
]
HEAD = ["cls.decoder.weight", "cls.bias"]


def with_prefix(prefix, names):
    return [prefix + name for name in names]


def pairs(ledger):
    return {row.tensor: row.base_tensor for row in ledger.matched}


def outside(ledger):
    return sorted(row.tensor or row.base_tensor for row in ledger.rows if row.status == "outside_base_model")


@pytest.mark.parametrize("prefix", ["bert.", "model.", "base_model.model.", "module.model.", "some.thing."])
def test_a_prefix_on_one_side(prefix):
    bare, wrapped = checkpoint(BODY), checkpoint([*with_prefix(prefix, BODY), *HEAD])
    for ledger in (match(bare, wrapped), match(wrapped, bare)):
        assert len(ledger.matched) == len(BODY) and outside(ledger) == sorted(HEAD)
        assert ledger.rules == ("prefix",)
        assert all(
            row.tensor.endswith(row.base_tensor) or row.base_tensor.endswith(row.tensor) for row in ledger.matched
        )


@pytest.mark.parametrize(("one", "two"), [("bert.", "volta."), ("module.bert.", "volta."), ("model.", "a.b.c.")])
def test_different_prefixes(one, two):
    ledger = match(checkpoint([*with_prefix(one, BODY), *HEAD]), checkpoint([*with_prefix(two, BODY), *HEAD]))
    assert pairs(ledger) == {two + name: one + name for name in BODY}
    assert len(outside(ledger)) == 2 * len(HEAD)


def test_a_wrapped_whole_model_has_nothing_outside():
    whole = [*with_prefix("bert.", BODY), *HEAD]
    for prefix in ("module.", "_orig_mod.", "base_model.model.", "module._orig_mod."):
        ledger = match(checkpoint(whole), checkpoint(with_prefix(prefix, whole)))
        assert len(ledger.matched) == len(whole) and not outside(ledger)


def test_wrappers_within_a_name():
    other = [
        name.replace("encoder.", "encoder._fsdp_wrapped_module.").replace("query.", "query.base_layer.")
        for name in BODY
    ]
    ledger = match(checkpoint(BODY), checkpoint(other))
    assert len(ledger.matched) == len(BODY) and ledger.rules == ("prefix",)


def test_same_naming_compares_heads_by_name():
    base = checkpoint([*with_prefix("bert.", BODY), *HEAD])
    other = checkpoint([*with_prefix("bert.", BODY), "cls.bias", "qa.weight"])
    ledger = match(base, other)
    assert not outside(ledger) and "cls.bias" in pairs(ledger) and ledger.rules == ()
    forced = match(base, other, rules="prefix")
    assert outside(forced) == ["cls.bias", "cls.bias", "cls.decoder.weight", "qa.weight"]
    assert forced.rules == ("prefix",)


def test_a_head_of_the_same_name_on_the_side_without_prefix():
    """The side without a prefix cannot say what its heads are; equal names are a pair all the same."""
    ledger = match(checkpoint([*BODY, "cls.bias"]), checkpoint([*with_prefix("bert.", BODY), *HEAD]))
    assert pairs(ledger)["cls.bias"] == "cls.bias" and outside(ledger) == ["cls.decoder.weight"]


def test_parts_of_one_model_are_not_names_of_one_part():
    encoder, decoder = with_prefix("encoder.", BODY), with_prefix("decoder.", BODY)
    assert not match(checkpoint(encoder), checkpoint(decoder)).matched
    both = match(checkpoint(encoder), checkpoint([*encoder, *decoder]))
    assert all(row.rule == "name" for row in both.matched) and len(both.matched) == len(BODY)
    assert not match(
        checkpoint(with_prefix("vision_model.", BODY)), checkpoint(with_prefix("text_model.", BODY))
    ).matched


def test_modules_that_merely_have_a_weight_are_no_pair():
    assert not match(checkpoint(["fc.weight", "fc.bias"]), checkpoint(["conv.weight", "conv.bias"])).matched
    assert len(match(checkpoint(["weight", "bias"]), checkpoint(["module.weight", "module.bias"])).matched) == 2


def test_prefixes_are_found_where_widths_differ():
    base, other = checkpoint(dict.fromkeys(BODY, (4, 4))), checkpoint({f"bert.{name}": (8, 8) for name in BODY})
    assert match(base, other).totals["shape_mismatch"] == len(BODY)


def test_switched_off():
    assert not match(checkpoint(BODY), checkpoint(with_prefix("bert.", BODY)), rules="auto,-prefix").matched
