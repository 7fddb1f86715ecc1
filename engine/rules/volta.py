"""BERT's layers in VoLTA's numbering.

VoLTA splits a BERT layer into an attention sublayer and a feed-forward sublayer, numbered in one sequence; its
config.json maps the one to the other (keys are strings):

    encoder.layer.N.attention.X              -> encoder.layer.<bert_layer2attn_sublayer[N]>.attention_X
    encoder.layer.N.{intermediate,output}.X  -> encoder.layer.<bert_layer2ff_sublayer[N]>.{intermediate,output}.X

A join on literal names pairs `encoder.layer.3.output` of BERT's layer 3 with that of VoLTA's sublayer 3, which is
layer 1 of BERT. Source: Bugliarello et al., "Multimodal Pretraining Unmasked", TACL 2021; github.com/e-bug/volta.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RulesError
from .rewriting import UNPAIRED, Side

__all__ = ["SublayerMap", "apply_volta", "read_map"]

_ATTN, _FF = "bert_layer2attn_sublayer", "bert_layer2ff_sublayer"
_BERT_LAYER = re.compile(r"(?:^|(?<=\.))encoder\.layer\.(\d+)\.(attention|intermediate|output)\.")
_SUBLAYER = re.compile(r"(?:^|(?<=\.))encoder\.layer\.(\d+)\.(attention_|intermediate\.|output\.)")


@dataclass(frozen=True, slots=True)
class SublayerMap:
    """BERT layer -> VoLTA sublayer, for attention and for feed-forward."""

    attention: Mapping[int, int]
    feed_forward: Mapping[int, int]


def read_map(config: Mapping[str, Any], label: str) -> SublayerMap | None:
    """The sublayer maps of a config, or None where it has none.

    Raises:
        RulesError: only one of the maps is there, a map is no map of numbers, or two layers share a sublayer.
    """
    if _ATTN not in config and _FF not in config:
        return None
    maps = []
    for field in (_ATTN, _FF):
        raw = config.get(field)
        try:
            numbers = {int(layer): int(sublayer) for layer, sublayer in dict(raw or {}).items()}
        except (TypeError, ValueError):
            numbers = {}
        if not numbers:
            raise RulesError(
                f'"{field}" in the config of {label} is {_short(raw)}, not a map from layers to sublayers such as '
                '{"0": 0, "1": 2}; correct it or pass --rules auto,-volta.'
            )
        if len(set(numbers.values())) != len(numbers):
            raise RulesError(
                f'"{field}" in the config of {label} gives two layers the same sublayer: {_short(raw)}; correct it or '
                "pass --rules auto,-volta."
            )
        maps.append(numbers)
    return SublayerMap(*maps)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _has_bert_layers(keys: Iterable[str]) -> bool:
    return any(".attention.self." in key and _BERT_LAYER.search(key) for key in keys)


def _has_sublayers(keys: Iterable[str]) -> bool:
    return any(".attention_self." in key and _SUBLAYER.search(key) for key in keys)


def apply_volta(
    base: Side, other: Side, base_map: SublayerMap | None, other_map: SublayerMap | None, *, forced: bool
) -> str | None:
    """Brings BERT's layers and VoLTA's sublayers into one numbering.

    - One side has the map: the other side's layers are written in its numbering.
    - Both have maps, and different ones: both are written in BERT's numbering; sublayers that stand for no layer of
      BERT have no counterpart (sublayer 24 is another cross-attention in each model).
    - Names say VoLTA against BERT, but there is no map: sublayers stay without counterpart, since a literal join
      would pair most of them with other layers.

    Returns:
        One phrase about what was done, or None where nothing was.
    Raises:
        RulesError: the rule is forced and neither side has the maps.
    """
    if base_map is None and other_map is None:
        if forced:
            raise RulesError(
                f'the rule "volta" needs "{_ATTN}" and "{_FF}" in a config.json beside {other.label} or {base.label}, '
                "and there are none; add the file or leave the rule out."
            )
        return _set_apart_without_map(base, other)
    if base_map is not None and other_map is not None:
        if base_map == other_map:
            return None
        _to_bert(base, base_map)
        _to_bert(other, other_map)
        return "volta: both sides written in the numbering of BERT's layers"
    source, target = (base, other) if other_map is not None else (other, base)
    numbers = other_map or base_map
    assert numbers is not None
    if not forced and not _has_bert_layers(source.keys.values()):
        return None
    _to_volta(source, numbers)
    return f"volta: layers of {source.label} written as sublayers of {target.label}"


def _to_volta(side: Side, numbers: SublayerMap) -> None:
    def rewrite(key: str) -> str | None:
        found = _BERT_LAYER.search(key)
        if found is None:
            return None
        part = found.group(2)
        sublayer = (numbers.attention if part == "attention" else numbers.feed_forward).get(int(found.group(1)))
        if sublayer is None:
            return key + UNPAIRED
        joint = "_" if part == "attention" else "."
        return f"{key[: found.start()]}encoder.layer.{sublayer}.{part}{joint}{key[found.end() :]}"

    _apply(side, rewrite, "the config's maps name no sublayer for this layer")


def _to_bert(side: Side, numbers: SublayerMap) -> None:
    attention = {sublayer: layer for layer, sublayer in numbers.attention.items()}
    feed_forward = {sublayer: layer for layer, sublayer in numbers.feed_forward.items()}

    def rewrite(key: str) -> str | None:
        found = _SUBLAYER.search(key)
        if found is None:
            return None
        part = found.group(2)
        layer = (attention if part == "attention_" else feed_forward).get(int(found.group(1)))
        if layer is None:
            return key + UNPAIRED
        return f"{key[: found.start()]}encoder.layer.{layer}.{part[:-1]}.{key[found.end() :]}"

    _apply(side, rewrite, "a sublayer that stands for no layer of BERT")


def _set_apart_without_map(base: Side, other: Side) -> str | None:
    for sublayers, layers in ((other, base), (base, other)):
        if _has_sublayers(sublayers.keys.values()) and _has_bert_layers(layers.keys.values()):
            reason = f'needs "{_ATTN}" and "{_FF}" in the config.json of {sublayers.label}'
            _apply(sublayers, lambda key: key + UNPAIRED if _SUBLAYER.search(key) else None, reason)
            return f"volta: sublayers of {sublayers.label} left unpaired, {reason}"
    return None


def _apply(side: Side, rewrite: Callable[[str], str | None], reason: str) -> None:
    proposals = side.propose(rewrite)
    side.reasons.update((name, reason) for name, key in proposals.items() if key.endswith(UNPAIRED))
    side.apply("volta", proposals)
