"""What a tensor is, by its name alone: a norm's or another's, a weight or a bias, and of which layer.

Names are judged component by component and word by word, never by substring: `q_norm.weight` belongs to a norm,
`normalizer_net.weight` does not.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["KINDS", "kind_of", "layer_of"]

KINDS = ("layer_norm_bias", "layer_norm_weight", "normal_bias", "normal_weight", "other")

_WEIGHTS = frozenset({"weight", "gamma"})
_BIASES = frozenset({"bias", "beta"})
_LEGACY = frozenset({"gamma", "beta"})

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_NORM_WORDS = frozenset(("norm", "norms", "normalization", "ln", "lns", "bn", "gn"))
# Written as one word: layernorm, rmsnorm, batchnorm, prenorm, qnorm ...
_NORM_WORD = re.compile(r"(?:layer|rms|batch|group|instance|scale|pre|post|final|input|q|k|qk)norms?")
# `norm_proj` and `norm_linear` are projections that stand beside a norm; `proj_norm` is a norm.
_PROJECTION_WORDS = frozenset(("linear", "proj", "projection", "fc", "conv", "dense", "net", "mlp"))
# torch and peft put these between a module and its parameter.
_TRANSPARENT = frozenset({"base_layer", "original_module", "_orig_mod", "module"})
# `ls1.gamma` is a learned scale of a residual branch (timm, DINOv2), not a norm.
_SCALE_MODULE = re.compile(r"ls_?\d*|layer_?scale_?\d*", re.IGNORECASE)

_BLOCK = re.compile(
    r"(?:^|\.)(?:\w*layers?|h|\w*blocks?|\w*blks?|stages?|resblocks|transformer|groups?)\.(\d+)(?=\.)",
    re.IGNORECASE,
)
_NUMBERED_MODULE = re.compile(r"(?:^|\.)(\d+)\.[^.]+\.[^.]+")


@lru_cache(maxsize=65536)
def _is_norm_component(component: str) -> bool:
    words = [word.lower() for word in _WORD.findall(component)]
    if not any(word in _NORM_WORDS or _NORM_WORD.fullmatch(word) for word in words):
        return False
    # Falcon's `ln_mlp` is a norm: the short forms never name a projection.
    return not (words[-1] in _PROJECTION_WORDS and words[0] not in ("ln", "bn", "gn"))


def kind_of(name: str) -> str:
    """The kind of a tensor by its name.

    The last component says weight (`weight`, `gamma`) or bias (`bias`, `beta`); the module before it says whether it
    is a norm's (`LayerNorm`, `layer_norm`, `input_layernorm`, `ln_1`, `norm2`, `bn1`, `RMSNorm` ...).

    Args:
        name: a tensor's name, components joined by dots.
    Returns:
        One of `KINDS`; "other" for a name that is neither weight nor bias.
    """
    *modules, last = name.split(".")
    if last in _WEIGHTS:
        suffix = "weight"
    elif last in _BIASES:
        suffix = "bias"
    else:
        return "other"
    module = ""
    while modules and (modules[-1].isdigit() or modules[-1] in _TRANSPARENT):
        modules.pop()
    if modules:
        module = modules[-1]
    norm = _is_norm_component(module) or (last in _LEGACY and not _SCALE_MODULE.fullmatch(module))
    return f"{'layer_norm' if norm else 'normal'}_{suffix}"


def layer_of(name: str) -> int | None:
    """The number of the first numbered block that a tensor stands in, or None where it stands in none.

    `encoder.layer.7.output.dense.weight` -> 7, `h.11.ln_1.weight` -> 11, `embeddings.LayerNorm.weight` -> None. Where
    no component has a usual name for a stack of blocks, the first number with a module and a parameter after it
    counts, so that the `1` of `downsample.1.weight` does not.
    """
    found = _BLOCK.search(name) or _NUMBERED_MODULE.search(name)
    return int(found.group(1)) if found else None
