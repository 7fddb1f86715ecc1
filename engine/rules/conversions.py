"""Names that changed between versions of transformers, by its own conversion mapping.

Only renamings are taken (`WeightRenaming`). What merges or splits tensors (`WeightConverter`, such as the stacking of
experts) pairs no tensor with one tensor, and those are left unmatched.

Importing the mapping imports torch, which takes seconds. So its source is searched for the config's model type and
classes first, as text, and it is imported only where one of them is there. Versions without the mapping (before 5.0)
make the rule unavailable, with the reason.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Conversions", "find_conversions"]

Rename = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Conversions:
    """The renamings that transformers has for a model.

    Attributes:
        variants: what was found under which key (class or model type), and the function old name -> new name.
        reason: why there are none, "" where there simply are none for this model.
    """

    variants: tuple[tuple[str, Rename], ...] = ()
    reason: str = ""


def mapping_keys(config: Mapping[str, Any]) -> list[str]:
    """The keys under which a model's renamings may stand: its classes, its base class, its model types."""
    keys: list[str] = []
    for architecture in config.get("architectures") or ():
        if isinstance(architecture, str):
            # ViTForImageClassification holds a ViTModel, and the mapping may stand under either.
            keys += [architecture, re.sub(r"(For[A-Z]\w*|LMHeadModel|Model)$", "", architecture) + "Model"]
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        if isinstance(part.get("model_type"), str):
            keys.append(part["model_type"])
    return list(dict.fromkeys(keys))


def find_conversions(*configs: Mapping[str, Any]) -> Conversions:
    """The renamings for the models of these configs; imports transformers only where there are any."""
    keys = list(dict.fromkeys(key for config in configs for key in mapping_keys(config)))
    if not keys:
        return Conversions()
    try:
        spec = importlib.util.find_spec("transformers")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return Conversions(reason="transformers is not installed")
    source = Path(spec.origin).with_name("conversion_mapping.py")
    try:
        text = source.read_text(encoding="utf-8")
    except OSError:
        return Conversions(reason="the installed transformers has no conversion mapping (it came with version 5)")
    keys = [key for key in keys if f'"{key}"' in text or f"'{key}'" in text]
    if not keys:
        return Conversions()
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError as error:
        return Conversions(
            reason=f"the conversion mapping of the installed transformers cannot be used ({str(error).splitlines()[0]})"
        )

    found: list[tuple[str, list[Any]]] = []
    for key in keys:
        transforms = get_checkpoint_conversion_mapping(key) or ()
        renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        if any(not callable(getattr(renaming, "rename_source_key", None)) for renaming in renamings):
            return Conversions(reason="the installed transformers describes renamings in a way not known here")
        if renamings:
            found.append((key, renamings))
    variants = [(key, renamings) for key, renamings in found]
    if len(found) > 1:
        variants.insert(0, ("+".join(key for key, _ in found), [one for _, renamings in found for one in renamings]))
    scoped: list[tuple[str, Rename]] = []
    for key, renamings in variants:
        scoped.append((key, _chained(renamings)))
        # Patterns that start with ^ speak of the submodel's own names, which stand behind a prefix in the whole model.
        if any("^" in pattern for renaming in renamings for pattern in renaming.source_patterns):
            scoped.append((f"{key} behind the prefix", _behind_first_component(_chained(renamings))))
    return Conversions(tuple(scoped))


def _chained(renamings: list[Any]) -> Rename:
    """One rewriting, made of the library's own list: there each entry is applied in turn, by design."""

    def rename(name: str) -> str:
        for renaming in renamings:
            name = renaming.rename_source_key(name)[0]
        return name

    return rename


def _behind_first_component(rename: Rename) -> Rename:
    def behind(name: str) -> str:
        first, dot, rest = name.partition(".")
        return f"{first}{dot}{rename(rest)}" if rest else name

    return behind
