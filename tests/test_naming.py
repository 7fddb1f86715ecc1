import pytest

from weighbridge.engine.naming import KINDS, kind_of, layer_of

NORMS = (
    "bert.embeddings.LayerNorm.weight",
    "encoder.layer.0.attention.output.LayerNorm.gamma",
    "v_embeddings.ImgLayerNorm.weight",
    "encoder.layer.3.attention_output.v_LayerNorm.weight",
    "embeddings.image_layer_norm.weight",
    "embeddings.visual_ln_text.weight",
    "h.0.ln_1.weight",
    "transformer.ln_f.weight",
    "layers.0.input_layernorm.weight",
    "model.norm.weight",
    "blocks.0.norm1.weight",
    "layers.1.self_attn.q_norm.weight",
    "encoder.block.0.layer.0.layer_norm.weight",
    "encoder.final_layer_norm.weight",
    "vit.encoder.layer.0.layernorm_before.weight",
    "vit.layernorm.weight",
    "model.decoder.layernorm_embedding.weight",
    "bn1.weight",
    "layer1.0.bn2.weight",
    "features.0.BatchNorm.weight",
    "down.0.group_norm.weight",
    "x.RMSNorm.weight",
    "encoder.layer_norms.0.weight",
    "norm1.base_layer.weight",
    "transformer.h.0.ln_mlp.weight",
    "ln_post.weight",
    "blocks.0.norm_f.weight",
    "stem.normalization.weight",
    "stem.prenorm.weight",
    "grn.gamma",
    "x.LayerNorm2d.weight",
)

NOT_NORMS = (
    "normalizer_net.weight",
    "normal.weight",
    "enormous.weight",
    "abnormal_score.weight",
    "column.weight",
    "ln2x.fc.weight",
    "encoder.layer.0.output.dense.weight",
    "h.0.attn.c_attn.weight",
    "embeddings.word_embeddings.weight",
    "weight",
    "norm_out.linear.weight",
    "norm_proj.weight",
    "blocks.0.ls1.gamma",
    "block.layer_scale.gamma",
    "lm_head.weight",
    "layers.0.adaln_modulation.weight",
    "0.weight",
)


@pytest.mark.parametrize("name", NORMS)
def test_norm_weights_and_biases(name):
    assert kind_of(name) == "layer_norm_weight"
    bias = name.removesuffix("weight") + "bias" if name.endswith("weight") else name.removesuffix("gamma") + "beta"
    assert kind_of(bias) == "layer_norm_bias"


@pytest.mark.parametrize("name", NOT_NORMS)
def test_other_weights_and_biases(name):
    assert kind_of(name) == "normal_weight"
    assert kind_of(name.removesuffix("weight").removesuffix("gamma") + "bias") == "normal_bias"


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.position_ids",
        "bn1.running_mean",
        "volta.dummy_input_imgs",
        "cls_token",
        "",
        "norm",
        "a.weight_scale",
    ],
)
def test_neither_weight_nor_bias_is_other(name):
    assert kind_of(name) == "other"


def test_every_kind_is_listed():
    assert {kind_of(name) for name in ("ln.bias", "ln.weight", "fc.bias", "fc.weight", "fc.scale")} == set(KINDS)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("bert.encoder.layer.7.output.dense.weight", 7),
        ("model.layers.31.self_attn.q_proj.weight", 31),
        ("transformer.h.11.ln_1.bias", 11),
        ("blocks.2.norm1.weight", 2),
        ("encoder.block.3.layer.0.layer_norm.weight", 3),
        ("model.layers.1.block_sparse_moe.experts.6.w1.weight", 1),
        ("text_model.encoder.layers.5.mlp.fc1.weight", 5),
        ("resblocks.4.attn.in_proj_weight", 4),
        ("0.auto_model.weight", 0),
        ("embeddings.LayerNorm.weight", None),
        ("embeddings.obj_downsample.1.weight", None),
        ("cls.imagePredictions.decoder_dict.0.weight", None),
        ("lm_head.weight", None),
        ("", None),
    ],
)
def test_layer(name, layer):
    assert layer_of(name) == layer
