"""The user's own renamings: --map and rules files."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.engine.errors import RulesError
from weighbridge.engine.matching import match
from weighbridge.engine.rules import parse_map, read_rules_file
from weighbridge.engine.rules.custom import rewritten

from support.handmade import checkpoint


def pairs(ledger):
    return {row.tensor: row.base_tensor for row in ledger.matched}


def test_rewrites_are_simultaneous():
    renamings = [parse_map("layer1=>layer2"), parse_map("layer2=>layer4"), parse_map("gamma$=>weight")]
    assert rewritten("layer1.gamma", renamings)[0] == "layer2.weight"
    assert rewritten("layer2.layer1", renamings)[0] == "layer4.layer2"
    assert rewritten("else", renamings) == ("else", ())


def test_the_first_renaming_wins_where_two_overlap():
    renamings = [parse_map("a.b=>X"), parse_map("b.c=>Y"), parse_map("^=>p.")]
    assert rewritten("a.b.c", renamings)[0] == "p.X.c"
    assert rewritten("(.*)", [parse_map(r"(.*)=>m.\1")])[0] == "m.(.*)"


@given(st.text("ab.", max_size=12), st.sampled_from(["a", "b+", "^a", r"\.", "(a|b)$", ".*", "^", "(?=a)"]))
def test_one_renaming_is_what_re_sub_does(name, pattern):
    expected = re.sub(pattern, "<>", name)
    if pattern == ".*":  # re.sub replaces the empty match after a full one once more; that is never wanted in a name
        expected = "<>"
    assert rewritten(name, [parse_map(f"{pattern}=><>")])[0] == expected


def test_layers_shifted_by_one():
    base = checkpoint([f"layers.{i}.fc.weight" for i in range(3)])
    other = checkpoint([f"layers.{i + 1}.fc.weight" for i in range(3)])
    ledger = match(base, other, map=[f"base:^layers\\.{i}\\.=>layers.{i + 1}." for i in range(3)])
    assert pairs(ledger) == {f"layers.{i + 1}.fc.weight": f"layers.{i}.fc.weight" for i in range(3)}
    assert {row.rule for row in ledger.matched} == {"--map"} and ledger.rules == ("--map",)


def test_without_a_side_the_base_is_meant_and_else_the_other():
    base, other = checkpoint(["enc.a.weight", "enc.b.weight"]), checkpoint(["encoder.a.weight", "encoder.b.weight"])
    for text in ("^enc\\.=>encoder.", "^encoder\\.=>enc.", "both:^enc(oder)?\\.=>e."):
        assert len(pairs(match(base, other, map=text, rules="none"))) == 2
    assert not pairs(match(base, other, map="other:^enc\\.=>encoder.", rules="none"))
    assert match(base, other, map="zzz=>y").notes[0] == "--map 'zzz=>y' matches no name"


def test_maps_come_before_the_other_rules():
    base = checkpoint(["bert.encoder.x.gamma", "bert.encoder.y.weight"])
    other = checkpoint(["enc.x.weight", "enc.y.weight"])
    ledger = match(base, other, map=r"\bencoder\.=>enc.")
    assert pairs(ledger) == {"enc.x.weight": "bert.encoder.x.gamma", "enc.y.weight": "bert.encoder.y.weight"}
    assert ledger.matched[0].rule == "--map+legacy+prefix"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "has no =>; write it as 'REGEX=>REPLACEMENT'"),
        ("=>x", "has nothing before =>"),
        ("(a=>x", "is no regular expression"),
        (r"a=>\1", r"the replacement \"\\1\" does not fit the pattern \"a\""),
        (r"(a)=>\2", r"the pattern has 1 group\(s\)"),
        (r"a=>\g<name>", "does not fit the pattern"),
    ],
)
def test_malformed_maps(text, message):
    with pytest.raises(RulesError, match=message):
        parse_map(text)


def test_two_tensors_on_one_name():
    base = checkpoint(["a.weight", "b.weight"], "base.safetensors")
    with pytest.raises(RulesError) as caught:
        match(base, base, map="^[ab]=>c")
    assert '--map gives "a.weight" and "b.weight" of base.safetensors the same name "c.weight"' in str(caught.value)
    with pytest.raises(RulesError, match=r'gives "a.weight" and "b.weight"'):
        match(base, base, map="^a=>b")
    with pytest.raises(RulesError, match=r'leave nothing of "a.weight"'):
        match(base, base, map="^a.*=>")
    swapped = match(base, base, map=["base:^a=>b", "base:^b=>a"])
    assert pairs(swapped) == {"a.weight": "b.weight", "b.weight": "a.weight"}


def test_a_rules_file(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        r"""
        exclude = ["*.inv_freq"]

        [[rename]]
        pattern = '^encoder\.blocks\.(\d+)\.'
        replacement = 'h.\1.'
        side = "base"

        [[rename]]
        pattern = 'norm$'
        replacement = ''
        """
    )
    base = checkpoint(["encoder.blocks.0.w", "encoder.blocks.1.w", "a.inv_freq"])
    ledger = match(base, checkpoint(["h.0.w", "h.1.w", "a.inv_freq"]), rules_file=path)
    assert pairs(ledger) == {"h.0.w": "encoder.blocks.0.w", "h.1.w": "encoder.blocks.1.w"}
    assert ledger.rules[0] == "--rules-file" and ledger.totals["skipped"] == 1
    assert any("rename 2 matches no name" in note for note in ledger.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rename]\n", "is no TOML"),
        ("[[rename]]\nreplacement = ''", 'rename 1 has no "pattern"'),
        ("[[rename]]\npattern = 'a'", 'rename 1 has no "replacement"'),
        ("[[rename]]\npattern = '('\nreplacement = ''", "rename 1: .* is no regular expression"),
        ("[[rename]]\npattern = 'a'\nreplacement = ''\nside = 'left'", '"side" is "left"'),
        ("[[rename]]\npattern = 1\nreplacement = ''", '"pattern" is 1, not a string'),
        ("[[rename]]\nfrom = 'a'", 'has the key "from", which means nothing'),
        ("rename = 3", "not a list of tables"),
        ("renames = []", 'has the key "renames"'),
        ("exclude = 'a'", "not a list of strings"),
    ],
)
def test_malformed_files(tmp_path, text, message):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(RulesError, match=message):
        read_rules_file(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RulesError, match="cannot be read"):
        match(checkpoint([]), checkpoint([]), rules_file=tmp_path / "none.toml")
