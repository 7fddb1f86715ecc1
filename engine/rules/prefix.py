"""The base-model prefix: `bert.`, `volta.`, `model.`, `module.`, `base_model.model.` and whatever else a file has.

No list of prefixes is needed. A prefix pair (p, q) is worth the number of names s with p + s in the base and q + s in
the other; the pair worth most is taken, and only where it is worth more than the names as they stand. What stands
outside a base model's prefix (heads) is outside the base model.

A pair may also be two names of a part: `encoder.layer.` here and `blocks.` there, beside embeddings that are called the
same. Then nothing stands outside; the part's names meet, and all others are compared as they stand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .rewriting import UNPAIRED, Shape, Side
from .rows import is_embedding

__all__ = ["Prefixes", "apply_prefixes", "base_model_names", "find_prefixes", "unwrapped"]

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

_NUMBERED = re.compile(r"(?:^|\.)\d+\.")


@dataclass(frozen=True, slots=True)
class Prefixes:
    """A pair of prefixes; each ends with a dot, "" is none.

    Attributes:
        base, other: what to take off either side.
        of_base_model: whether they hold the base model, so that what stands beside them is no part of it; else they
            are two names of a part.
    """

    base: str = ""
    other: str = ""
    of_base_model: bool = True


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


def find_prefixes(base: Side, other: Side, *, forced: bool = False, names: frozenset[str] = _GENERIC) -> Prefixes:
    """The pair of prefixes under which most tensors pair up.

    worth(p, q) = #{s: p+s in base, q+s in other} + #{those with equal shapes}

    Args:
        base, other: the two sides, all other rules applied.
        forced: take a pair even where the names as they stand pair up better; then both sides may lose the same
            prefix.
        names: what a base model may be called (`base_model_names`).
    """
    base_keys, other_keys = _paired_keys(base), _paired_keys(other)
    literal = sum(1 + (base_keys[key] == shape) for key, shape in other_keys.items() if key in base_keys)
    smaller = min(len(base_keys), len(other_keys))
    if not forced and literal == 2 * smaller:
        return Prefixes()

    base_heads, other_heads = _heads(base_keys), _heads(other_keys)
    base_prefixes, other_prefixes = _candidates(base_heads), _candidates(other_heads)
    rests: dict[str, list[tuple[str, Shape]]] = {}
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
        if paired[p, q] < _MIN_SHARE * smaller or _are_different_parts(p, q):
            continue
        if p == q and not (
            forced
            and p
            and _may_be_base_model(p, names, paired[p, q] / smaller)
            and _holds_base_model(p, q, base_keys, other_keys)
        ):
            continue
        shorter = best != ("", "") and (p + q).count(".") < "".join(best).count(".")
        if value > best_worth or (value == best_worth and shorter):
            best, best_worth = (p, q), value
    return Prefixes(*best, _holds_base_model(*best, base_keys, other_keys))


def _paired_keys(side: Side) -> dict[str, Shape]:
    """The keys that may meet one of the other side, with their shapes."""
    return {key: side.shapes[name] for name, key in side.inside() if not key.endswith(UNPAIRED)}


def _holds_base_model(p: str, q: str, base_keys: Mapping[str, Shape], other_keys: Mapping[str, Shape]) -> bool:
    """Whether what pairs up under two prefixes is a base model, and not one of its parts.

    A base model holds more than numbered blocks, and no embedding that both sides have stands beside it.
    """
    pairs = (key[len(q) :] for key in other_keys if key.startswith(q) and p + key[len(q) :] in base_keys)
    return any(not _NUMBERED.search(rest) for rest in pairs) and not any(
        is_embedding(key, other_keys[key], other_keys)
        for key in base_keys.keys() & other_keys.keys()
        if not key.startswith(p) and not key.startswith(q)
    )


def apply_prefixes(base: Side, other: Side, prefixes: Prefixes) -> str:
    """Takes the prefixes off, or brings two names of a part together; returns a phrase that says what was done.

    No tensor loses a partner of the very same name by it, but heads that stand beside the base models of both sides:
    those go to `outside`, as does whatever else is no part of a base model.
    """
    p, q = prefixes.base, prefixes.other
    if not p and not q:
        return ""
    off = " and ".join(f'"{prefix}" off the {side}' for prefix, side in ((p, "base"), (q, "other")) if prefix)
    if not prefixes.of_base_model:
        renamed = _bring_together(base, other, p, q)
        phrase = f'"{p}" in the base is "{q}" in the other' if p and q else off
        return f"prefix: {phrase}" if renamed else ""
    kept = _names_in_common(_paired_keys(base), _paired_keys(other), p, q)
    for side, prefix in ((base, p), (other, q)):
        if not prefix:
            continue
        proposals = {}
        for name, key in side.keys.items():
            if key in kept:
                continue
            if key.startswith(prefix):
                proposals[name] = key[len(prefix) :]
            else:
                side.outside.add(name)
        # Tensors outside get out of the way of those inside: `x` must not meet `bert.x` without its prefix.
        side.keys.update({name: side.keys[name] + UNPAIRED for name in side.outside})
        side.apply("prefix", proposals)
    return f"prefix: {off}"


def _bring_together(base: Side, other: Side, p: str, q: str) -> int:
    """Gives the base's tensors under p the names that the other has under q; returns how many."""
    theirs = _paired_keys(other)
    proposals = {
        name: q + key[len(p) :] for name, key in base.keys.items() if key.startswith(p) and q + key[len(p) :] in theirs
    }
    return base.apply_where_free("prefix", proposals, theirs)


def _names_in_common(base_keys: Mapping[str, Shape], other_keys: Mapping[str, Shape], p: str, q: str) -> set[str]:
    """Names of both sides that stay as they are, since without the prefix they would meet nothing.

    Where one side has no prefix, a head of that side cannot be told from the base model by its name. If the other side
    has a head of the very same name, the two are a pair all the same. A name beside the base models of both sides is
    none of these.
    """
    kept = set()
    for key in base_keys.keys() & other_keys.keys():
        in_base, in_other = key.startswith(p), key.startswith(q)
        meets = (in_base and q + key[len(p) :] in other_keys) or (in_other and p + key[len(q) :] in base_keys)
        taken = (p and p + key in base_keys) or (q and q + key in other_keys)
        if (in_base or in_other) and not meets and not taken:
            kept.add(key)
    return kept
