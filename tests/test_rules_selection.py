import pytest

from weighbridge.engine.errors import RulesError
from weighbridge.engine.matching import match
from weighbridge.engine.rules import RULES, parse_rules

from support.handmade import checkpoint


def test_auto_none_forced_and_off():
    auto, none = parse_rules("auto"), parse_rules("none")
    assert all(auto.may_choose(rule) for rule in RULES) and not any(none.allows(rule) for rule in RULES)
    forced = parse_rules("volta, legacy")
    assert {rule for rule in RULES if forced.allows(rule)} == {"volta", "legacy"} and forced.is_forced("volta")
    mixed = parse_rules(["auto", "legacy", "-prefix"])
    assert mixed.is_forced("legacy") and mixed.may_choose("volta") and not mixed.allows("prefix")
    assert parse_rules("-prefix") == parse_rules("auto,-prefix")
    assert auto.tried == ("transformers", "legacy", "volta", "prefix") and none.tried == ()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("bolta", 'there is no rule "bolta"; known rules are transformers, legacy, volta, prefix, rows'),
        ("auto,-bolta", 'there is no rule "-bolta"'),
        ("", "no rule is named"),
        ("legacy,-legacy", "both asked for and switched off"),
        ("none,legacy", '"none" compares names as they stand'),
        ([], "no rule is named"),
    ],
)
def test_malformed_choices(rules, message):
    with pytest.raises(RulesError, match=message):
        parse_rules(rules)


def test_legacy():
    base = checkpoint(["x.LayerNorm.gamma", "x.LayerNorm.beta", "c.weight_g", "gamma.weight"])
    other = checkpoint(
        ["x.LayerNorm.weight", "x.LayerNorm.bias", "c.parametrizations.weight.original0", "gamma.weight"]
    )
    ledger = match(base, other)
    assert [row.rule for row in ledger.matched] == ["legacy", "legacy", "legacy", "name"]
    assert match(base, other, rules="none").totals["matched"] == 1
    assert match(base, other, rules="-legacy").totals["matched"] == 1


def test_legacy_steals_no_name():
    """`ls.gamma` beside `ls.weight`: each keeps its own counterpart."""
    base, other = checkpoint(["ls.gamma", "ls.weight"]), checkpoint(["ls.weight", "ls.gamma"])
    assert {row.tensor: row.base_tensor for row in match(base, other).matched} == {
        "ls.gamma": "ls.gamma",
        "ls.weight": "ls.weight",
    }
    assert match(checkpoint(["ls.gamma"]), other).matched[0].tensor == "ls.gamma"
    with pytest.raises(
        RulesError, match=r'the rule "legacy" gives "ls.gamma" and "ls.weight" of handmade the same name'
    ):
        match(base, other, rules="legacy")
