"""Checkpoints that transformers itself writes: with and without head, resized, renamed, tied and untied."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from weighbridge.engine.formats import open_checkpoint
from weighbridge.engine.matching import match

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def bert(head="BertModel", **changes):
    return getattr(transformers, head)(
        transformers.BertConfig(**{**SMALL, "vocab_size": 50, "max_position_embeddings": 16, **changes})
    )


def gpt2(head="GPT2Model", **changes):
    config = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    return getattr(transformers, head)(transformers.GPT2Config(**{**config, **changes}))


def llama(head="LlamaModel", **changes):
    config = {**SMALL, "num_key_value_heads": 1, "vocab_size": 50}
    return getattr(transformers, head)(transformers.LlamaConfig(**{**config, **changes}))


def t5(head="T5Model", **changes):
    config = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 50}
    return getattr(transformers, head)(transformers.T5Config(**{**config, **changes}))


def vit(head="ViTModel", **changes):
    return getattr(transformers, head)(transformers.ViTConfig(**{**SMALL, "image_size": 8, "patch_size": 4, **changes}))


def mixtral(head="MixtralModel", **changes):
    config = {**SMALL, "num_key_value_heads": 1, "vocab_size": 50, "num_local_experts": 2}
    return getattr(transformers, head)(transformers.MixtralConfig(**{**config, **changes}))


@pytest.fixture
def saved(tmp_path):
    """Saves a model as its library does, and opens it."""

    def save(model, name):
        model.save_pretrained(tmp_path / name)
        return open_checkpoint(tmp_path / name)

    return save


@pytest.fixture
def saved_names(tmp_path):
    """Saves a model's state dict under the names that the running version gives its tensors."""

    def save(model, name, rename=str):
        folder = tmp_path / name
        folder.mkdir()
        state = {rename(key): value.clone().contiguous() for key, value in model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        return open_checkpoint(folder)

    return save


def pairs(ledger):
    return {row.tensor: row.base_tensor for row in ledger.matched}


def by_status(ledger, status):
    return {row.tensor or row.base_tensor for row in ledger.rows if row.status == status}


def assert_complete(ledger):
    assert [row.tensor for row in ledger.rows if row.tensor is not None] == ledger.other.names
    assert sorted(row.base_tensor for row in ledger.rows if row.base_tensor is not None) == sorted(ledger.base.names)


FAMILIES = [
    # build, class with head, prefix, tensors outside the base model
    (bert, "BertForMaskedLM", "bert.", "cls."),
    (bert, "BertForSequenceClassification", "bert.", "classifier."),
    (gpt2, "GPT2LMHeadModel", "transformer.", "lm_head."),
    (llama, "LlamaForCausalLM", "model.", "lm_head."),
    (vit, "ViTForImageClassification", "vit.", "classifier."),
    (mixtral, "MixtralForCausalLM", "model.", "lm_head."),
]


@pytest.mark.parametrize(("build", "head", "prefix", "outside"), FAMILIES, ids=[family[1] for family in FAMILIES])
def test_with_and_without_head(build, head, prefix, outside, saved):
    bare, headed = saved(build(), "bare"), saved(build(head), "headed")
    inner = {name.removeprefix(prefix) for name in headed.names if name.startswith(prefix)}
    ledger = match(bare, headed)
    assert_complete(ledger)
    assert pairs(ledger) == {prefix + name: name for name in bare.names if name in inner}
    assert len(ledger.matched) == len(inner)
    assert by_status(ledger, "outside_base_model") == {name for name in headed.names if name.startswith(outside)}
    assert by_status(ledger, "only_in_base") == {name for name in bare.names if name not in inner}
    turned = match(headed, bare)
    assert_complete(turned)
    assert {mine: theirs for theirs, mine in pairs(turned).items()} == pairs(ledger)


@pytest.mark.parametrize("build", [bert, gpt2, llama, t5, vit, mixtral])
def test_retrained_copies_pair_name_by_name(build, saved):
    model = build()
    base = saved(model, "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    ledger = match(base, saved(model, "other"))
    assert pairs(ledger) == {name: name for name in base.names}
    assert ledger.rules == () and {row.rule for row in ledger.rows} == {"name"}
    kinds = {row.kind for row in ledger.rows}
    assert {"layer_norm_weight", "normal_weight"} <= kinds and ("other" in kinds) == (build is vit)


def test_heads_of_the_same_naming_are_compared_by_name(saved):
    ledger = match(saved(bert("BertForMaskedLM"), "mlm"), saved(bert("BertForPreTraining"), "pretraining"))
    assert_complete(ledger)
    assert all(name == base_name for name, base_name in pairs(ledger).items())
    assert "cls.predictions.bias" in pairs(ledger) and ledger.totals["outside_base_model"] == 0
    assert {"cls.seq_relationship.weight", "bert.pooler.dense.weight"} <= by_status(ledger, "only_in_other")


@pytest.mark.parametrize(
    ("build", "head", "resized"),
    [
        (bert, "BertForMaskedLM", {"bert.embeddings.word_embeddings.weight", "cls.predictions.bias"}),
        (gpt2, "GPT2LMHeadModel", {"transformer.wte.weight"}),
        (llama, "LlamaForCausalLM", {"model.embed_tokens.weight", "lm_head.weight"}),
        (mixtral, "MixtralForCausalLM", {"model.embed_tokens.weight", "lm_head.weight"}),
        (t5, "T5ForConditionalGeneration", {"shared.weight"}),
    ],
    ids=["bert", "gpt2", "llama", "mixtral", "t5"],
)
def test_resized_vocabulary(build, head, resized, saved):
    model = build(head)
    base = saved(model, "base")
    model.resize_token_embeddings(57, mean_resizing=False)
    other = saved(model, "other")
    ledger = match(base, other)
    assert_complete(ledger)
    assert len(ledger.matched) == len(other.names)
    assert {row.tensor: row.rows for row in ledger.rows if row.rows} == dict.fromkeys(resized, (50, 57))
    assert by_status(match(base, other, rows="strict"), "shape_mismatch") == resized
    # A vocabulary and a head at once: the bare model against the resized one with a head.
    bare = match(saved(build(), "bare"), other)
    assert_complete(bare)
    assert any(row.rows == (50, 57) for row in bare.matched)


def test_a_classifier_with_other_labels_is_no_resized_vocabulary(saved):
    few = saved(bert("BertForSequenceClassification", num_labels=2), "few")
    many = saved(bert("BertForSequenceClassification", num_labels=5), "many")
    assert by_status(match(few, many), "shape_mismatch") == {"classifier.weight", "classifier.bias"}


def test_tied_and_untied_heads(saved):
    tied, untied = (saved(llama("LlamaForCausalLM", tie_word_embeddings=tie), str(tie)) for tie in (True, False))
    ledger = match(untied, tied)
    assert_complete(ledger)
    assert len(ledger.matched) == len(tied.names)
    assert by_status(ledger, "only_in_base") == {"lm_head.weight"}
    assert by_status(match(tied, untied), "only_in_other") == {"lm_head.weight"}


def test_parts_of_t5(saved):
    encoder, whole = saved(t5("T5EncoderModel"), "encoder"), saved(t5("T5ForConditionalGeneration"), "whole")
    ledger = match(encoder, whole)
    assert_complete(ledger)
    assert pairs(ledger) == {name: name for name in encoder.names}
    assert all(name.startswith("decoder.") for name in by_status(ledger, "only_in_other"))
    again = match(whole, whole, rules="prefix")
    assert all(name == base_name for name, base_name in pairs(again).items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod."])
def test_wrapped_whole_models(prefix, saved, saved_names):
    model = llama("LlamaForCausalLM")
    base = saved(model, "base")
    ledger = match(base, saved_names(model, "wrapped", lambda name: prefix + name))
    assert pairs(ledger) == {prefix + name: name for name in base.names}
    assert ledger.totals["outside_base_model"] == 0
    bare = match(saved(llama(), "bare"), ledger.other)
    assert len(bare.matched) == len(bare.base.names)
    assert by_status(bare, "outside_base_model") == {f"{prefix}lm_head.weight"}


def test_names_of_an_older_version_meet_those_of_a_newer(saved, saved_names):
    """ViT was renamed in transformers 5; `save_pretrained` still writes the old names, `state_dict` has new ones."""
    pytest.importorskip("transformers.conversion_mapping")
    model = vit("ViTForImageClassification")
    old, new = saved(model, "old"), saved_names(model, "new")
    if set(old.names) == set(new.names):
        pytest.skip("this version of transformers writes ViT's names as they are in memory")
    ledger = match(old, new)
    assert_complete(ledger)
    assert len(ledger.matched) == len(new.names) and ledger.rules == ("transformers",)
    query = "attention.q_proj.weight"
    assert pairs(ledger)[f"vit.layers.1.{query}"] == "vit.encoder.layer.1.attention.attention.query.weight"
    old_values, new_values = load_file(old.files[0]), load_file(new.files[0])
    assert all(torch.equal(new_values[name], old_values[base_name]) for name, base_name in pairs(ledger).items())

    bare_old = saved(vit(), "bare_old")
    with_prefix = match(bare_old, new)
    assert_complete(with_prefix)
    assert set(with_prefix.rules) == {"transformers", "prefix"}
    assert by_status(with_prefix, "outside_base_model") == {"classifier.weight", "classifier.bias"}
    assert len(match(new, bare_old).matched) == len(with_prefix.matched)

    off = match(old, new, rules="auto,-transformers")
    assert_complete(off)
    assert len(off.matched) < len(ledger.matched)


def test_merged_experts_stay_unpaired_and_listed(saved, saved_names):
    """Renamings are applied; what version 5 stacks into one tensor has no single counterpart."""
    pytest.importorskip("transformers.conversion_mapping")
    model = mixtral("MixtralForCausalLM")
    old, new = saved(model, "old"), saved_names(model, "new")
    if set(old.names) == set(new.names):
        pytest.skip("this version of transformers writes Mixtral's names as they are in memory")
    ledger = match(old, new)
    assert_complete(ledger)
    assert pairs(ledger)["model.layers.0.mlp.gate.weight"] == "model.layers.0.block_sparse_moe.gate.weight"
    assert all(".experts." in name for name in by_status(ledger, "only_in_other") | by_status(ledger, "only_in_base"))
    assert by_status(ledger, "only_in_other") and by_status(ledger, "only_in_base")
