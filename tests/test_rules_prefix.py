"""The prefix rule finds prefixes by itself, and takes none that does not help."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.engine.formats import open_checkpoint
from weighbridge.engine.matching import match

from support import minilm
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


# --- two names of a part


STACKS = [
    # a container of the base's, its name in the other
    ("encoder.layer.", "blocks."),
    ("encoder.", "enc."),
    ("encoder.", ""),
    ("", "encoder."),
]


def renamed(names, one, two):
    """The names of blocks moved from one container to another; all others stand as they are."""
    return [two + name.removeprefix(one) if ".layer." in name else name for name in names]


@pytest.mark.parametrize(("one", "two"), STACKS)
@pytest.mark.parametrize("rules", ["auto", "prefix"])
def test_a_renamed_stack_of_blocks_leaves_equal_names_paired(one, two, rules):
    names = [*BODY, "pooler.dense.weight", "position_ids"]
    base, other = renamed(names, "encoder.", one.replace("layer.", "")), renamed(names, "encoder.", two)
    if two == "blocks.":
        other = [name.replace("blocks.layer.", "blocks.") for name in other]
    for ledger in (match(checkpoint(base), checkpoint(other), rules=rules), match(checkpoint(other), checkpoint(base))):
        assert len(ledger.matched) == len(names) and not outside(ledger)
        assert {row.tensor for row in ledger.matched if row.rule == "name"} == set(base) & set(other)


def test_a_real_model_with_its_layers_renamed():
    base = open_checkpoint(minilm.folder())
    shapes = {
        name.replace("encoder.layer.", "blocks.").replace("attention.self.", "attn."): ref.shape
        for name, ref in base.tensors.items()
    }
    ledger = match(base, checkpoint(shapes))
    beside = [name for name in base.names if not name.startswith("encoder.")]
    assert {name: pairs(ledger)[name] for name in beside} == {name: name for name in beside}
    assert len(ledger.matched) == 60 + len(beside) and not outside(ledger)
    assert ledger.notes == ('prefix: "encoder.layer." in the base is "blocks." in the other',)
    assert len(match(base, base, rules="prefix").matched) == len(base.names)


def test_a_part_with_a_norm_of_its_own_is_no_base_model_where_embeddings_stand_beside_it():
    """T5's encoder holds more than blocks, but what embeds its input is beside it."""
    stack = [*(f"block.{i}.fc.weight" for i in range(3)), "final_layer_norm.weight"]
    base = checkpoint(["shared.weight", *with_prefix("encoder.", stack)])
    for prefix in ("enc.", ""):
        ledger = match(base, checkpoint(["shared.weight", *with_prefix(prefix, stack)]))
        assert len(ledger.matched) == len(stack) + 1 and not outside(ledger)


def test_a_name_in_common_is_not_stripped_for_nothing():
    """`model.scale` loses no partner because everything else lost `model.`"""
    base = checkpoint([*with_prefix("model.", BODY), "model.scale"])
    ledger = match(base, checkpoint([*BODY, "model.scale"]))
    assert pairs(ledger)["model.scale"] == "model.scale" and len(ledger.matched) == len(BODY) + 1


COMPONENTS = st.sampled_from(["embed", "encoder", "layer", "blocks", "model", "head", "0", "1", "weight"])
NAMES = st.lists(st.lists(COMPONENTS, min_size=1, max_size=4).map(".".join), min_size=1, max_size=14, unique=True)


@settings(deadline=None)
@given(NAMES, NAMES)
def test_equal_names_are_lost_only_beside_two_base_models(base, other):
    """Whatever the names: a tensor that both sides have is paired, or stands beside both base models."""
    ledger = match(checkpoint(base), checkpoint(other))
    paired, beside = pairs(ledger), outside(ledger)
    for name in set(base) & set(other):
        assert name in paired or name in paired.values() or beside.count(name) == 2
