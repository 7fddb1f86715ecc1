"""transformers' own renamings: looked for in its source, imported only where there are any."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

from weighbridge.engine.errors import RulesError
from weighbridge.engine.matching import match
from weighbridge.engine.rules import conversions

from support.handmade import checkpoint

VIT = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}


def test_keys_of_a_config():
    config = {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_config": {"model_type": "clip"},
    }
    assert conversions.mapping_keys(config) == ["LlavaForConditionalGeneration", "LlavaModel", "llava", "clip"]
    assert conversions.mapping_keys({"architectures": ["GPT2LMHeadModel"]}) == ["GPT2LMHeadModel", "GPT2Model"]
    assert conversions.mapping_keys({"architectures": None, "model_type": 3}) == []


@pytest.mark.parametrize("found", [None, "folder"])
def test_versions_without_a_mapping(monkeypatch, tmp_path, found):
    spec = found and SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    answer = conversions.find_conversions(VIT)
    assert answer.variants == ()
    assert answer.reason == (
        "the installed transformers has no conversion mapping (it came with version 5)"
        if found
        else "transformers is not installed"
    )
    base, other = checkpoint(["a.x.weight", "b"], config=VIT), checkpoint(["a.x.weight", "c"], config=VIT)
    ledger = match(base, other)
    assert ledger.notes == (f"transformers: {answer.reason}",) and len(ledger.matched) == 1
    with pytest.raises(RulesError, match=r'the rule "transformers" cannot be applied to handmade and handmade: '):
        match(base, other, rules="transformers")


def test_a_mapping_that_cannot_be_imported(monkeypatch, tmp_path):
    (tmp_path / "conversion_mapping.py").write_text('{"vit": []}')
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)
    assert "cannot be used" in conversions.find_conversions(VIT).reason


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from support.handmade import checkpoint
from weighbridge.engine.matching import match
config = {config!r}
match(checkpoint(["bert.x.a.weight", "bert.p"], config=config), checkpoint(["x.a.weight", "q"], config=config))
print("transformers" in sys.modules)
"""


@pytest.mark.parametrize(
    ("config", "imported"),
    [({}, False), ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, False), (VIT, True)],
    ids=["no config", "bert", "vit"],
)
def test_transformers_is_imported_only_where_it_has_renamings(config, imported, request):
    if imported:
        pytest.importorskip("transformers.conversion_mapping")
    script = SCRIPT.format(tests=str(request.path.parent), config=config)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(imported)
