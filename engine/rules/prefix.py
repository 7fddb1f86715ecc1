"""The base-model prefix: `bert.`, `volta.`, `model.`, `module.`, `base_model.model.` and whatever else a file has.

No list of prefixes is needed. A prefix pair (p, q) is worth the number of names s with p + s in the base and q + s in
the other; the pair worth most is taken, and only where it is worth more than the names as they stand. What stands
outside a prefix (heads) is outside the base model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .rewriting import UNPAIRED, Side

__all__ = ["apply_prefixes", "base_model_names", "find_prefixes", "unwrapped"]

_MAX_DEPTH = 4  # module.base_model.model.model. is the deepest met so far
_MAX_CANDIDATES = 24  # a side; the search is linear in names x candidates
_MIN_SHARE = 0.1  # of the smaller side's names; less is chance (`bias` and `weight` of two unrelated modules)

# Words for different parts of one model: `text_encoder.` and `text_decoder.` are never two names of one part.
_CONTRARIES = (
    {"encoder": 0, "decoder": 1},
    {"text": 0, "vision": 1, "visual": 1, "image": 1, "audio": 2},
    {"student": 0, "teacher": 1, "momentum": 1},
    {"online": 0, "target": 1},
    {"generator": 0, "discriminator": 1},
    {"question": 0, "ctx": 1},
)
_GENERIC = frozenset(("model", "module", "transformer", "base_model", "backbone", "language_model"))

# Components that wrappers put anywhere into a name: torch.compile, FSDP, activation checkpointing, PEFT.
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")


def unwrapped(key: str) -> str | None:
    """The name without the components that wrappers put in, or None where it has none."""
    if "_orig_mod." not in key and "_wrapped_module." not in key and "base_layer." not in key:
        return None
    return _WRAPPER.sub("", key)


def base_model_names(*configs: Mapping[str, Any]) -> frozenset[str]:
    """What the base model may be called, by the configs: the model types, and the usual generic names."""
    return _GENERIC.union(str(config["model_type"]) for config in configs if config.get("model_type"))


# The components up to the first number: a prefix ends somewhere within them.
_HEAD = re.compile(rf"(?:(?!\d+\.)[^.]+\.){{0,{_MAX_DEPTH}}}")


def _heads(keys: Iterable[str]) -> dict[str, list[str]]:
    """head -> the keys that begin with it; most files have a few heads and thousands of keys."""
    heads: dict[str, list[str]] = {}
    for key in keys:
        found = _HEAD.match(key)
        heads.setdefault(found.group() if found else "", []).append(key)
    return heads


def _prefixes(head: str) -> list[str]:
    """ "", then every run of the head's components from the first on."""
    return [head[:end] for end in (0, *(dot.end() for dot in re.finditer(r"\.", head)))]


def _candidates(heads: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """head -> those of its prefixes that are among the side's commonest."""
    count: Counter[str] = Counter()
    for head, keys in heads.items():
        for prefix in _prefixes(head):
            count[prefix] += len(keys)
    common = {"", *(prefix for prefix, _ in count.most_common(_MAX_CANDIDATES))}
    return {head: [prefix for prefix in _prefixes(head) if prefix in common] for head in heads}


def _are_different_parts(p: str, q: str) -> bool:
    """Whether the components in which two prefixes differ are called by contrary words."""
    mine, theirs = p.split("."), q.split(".")
    while mine and theirs and mine[-1] == theirs[-1]:
        del mine[-1], theirs[-1]
    for contrary in _CONTRARIES:
        here = {contrary[word] for part in mine for word in part.split("_") if word in contrary}
        there = {contrary[word] for part in theirs for word in part.split("_") if word in contrary}
        if here and there and not here & there:
            return True
    return False


def _may_be_base_model(prefix: str, names: frozenset[str], share: float) -> bool:
    """Whether a prefix that both sides have is the base model's: called so, or most of the file and no mere part."""
    last = prefix.rstrip(".").rsplit(".", 1)[-1]
    return last in names or (share > 0.5 and not any(last in contrary for contrary in _CONTRARIES))


def find_prefixes(
    base: Side, other: Side, *, forced: bool = False, names: frozenset[str] = _GENERIC
) -> tuple[str, str, int]:
    """The pair of prefixes under which most tensors pair up.

    worth(p, q) = #{s: p+s in base, q+s in other} + #{those with equal shapes}

    Args:
        base, other: the two sides, all other rules applied.
        forced: take a pair even where the names as they stand pair up better; then both sides may lose the same
            prefix.
        names: what a base model may be called (`base_model_names`).
    Returns:
        (prefix of the base, prefix of the other, worth); prefixes end with a dot, "" is none.
    """
    base_keys = {key: base.shapes[name] for name, key in base.inside() if not key.endswith(UNPAIRED)}
    other_keys = {key: other.shapes[name] for name, key in other.inside() if not key.endswith(UNPAIRED)}
    literal = sum(1 + (base_keys[key] == shape) for key, shape in other_keys.items() if key in base_keys)
    smaller = min(len(base_keys), len(other_keys))
    if not forced and literal == 2 * smaller:
        return "", "", literal

    base_heads, other_heads = _heads(base_keys), _heads(other_keys)
    base_prefixes, other_prefixes = _candidates(base_heads), _candidates(other_heads)
    rests: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for head, keys in base_heads.items():
        for prefix in base_prefixes[head]:
            for key in keys:
                rests.setdefault(key[len(prefix) :], []).append((prefix, base_keys[key]))
    paired: Counter[tuple[str, str]] = Counter()
    worth: Counter[tuple[str, str]] = Counter()
    for head, keys in other_heads.items():
        for prefix in other_prefixes[head]:
            for key in keys:
                rest = key[len(prefix) :]
                for base_prefix, base_shape in rests.get(rest, ()):
                    if prefix and base_prefix and "." not in rest:
                        continue  # `weight` of some module against `weight` of another says nothing
                    paired[base_prefix, prefix] += 1
                    worth[base_prefix, prefix] += 1 + (base_shape == other_keys[key])

    best, best_worth = ("", ""), 0 if forced else literal
    for (p, q), value in worth.items():
        if p == q and not (forced and p and _may_be_base_model(p, names, paired[p, q] / smaller)):
            continue
        if paired[p, q] < _MIN_SHARE * smaller or _are_different_parts(p, q):
            continue
        shorter = best != ("", "") and (p + q).count(".") < "".join(best).count(".")
        if value > best_worth or (value == best_worth and shorter):
            best, best_worth = (p, q), value
    return *best, best_worth


def apply_prefixes(base: Side, other: Side, base_prefix: str, other_prefix: str) -> None:
    """Takes the prefixes off; tensors outside them go to `outside`, unless their full names pair them up.

    Where one side has no prefix, a head of that side cannot be told from the base model by its name. If the other
    side has a head of the very same name, the two are a pair all the same.
    """
    for side, prefix in ((base, base_prefix), (other, other_prefix)):
        if not prefix:
            continue
        proposals = {}
        for name, key in side.keys.items():
            if key.startswith(prefix):
                proposals[name] = key[len(prefix) :]
            else:
                side.outside.add(name)
        opposite = other if side is base else base
        if (other_prefix if side is base else base_prefix) == "":
            free = set(opposite.keys.values()).difference(proposals.values())
            side.outside.difference_update([name for name in side.outside if side.keys[name] in free])
        # Tensors outside get out of the way of those inside: `x` must not meet `bert.x` without its prefix.
        side.keys.update({name: side.keys[name] + UNPAIRED for name in side.outside})
        side.apply("prefix", proposals)
