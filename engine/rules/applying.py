"""Which rules are applied to two sides, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RulesError
from .conversions import Rename, find_conversions
from .custom import Renaming, apply_renamings
from .legacy import modern_name
from .prefix import apply_prefixes, base_model_names, find_prefixes, unwrapped
from .rewriting import UNPAIRED, Side
from .selection import Selection
from .volta import apply_volta, read_map

__all__ = ["Outcome", "apply_rules"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Two sides in their common form, and what was done on the way.

    Attributes:
        base, other: the sides, every rule applied.
        notes: one phrase for each choice worth telling ('prefix: "bert." off the base').
    """

    base: Side
    other: Side
    notes: tuple[str, ...]


def apply_rules(
    base: Side,
    other: Side,
    base_config: Mapping[str, Any],
    other_config: Mapping[str, Any],
    selection: Selection,
    renamings: Sequence[Renaming] = (),
) -> Outcome:
    """Brings the names of both sides into a common form.

    Rules that are forced are applied to every name, and two tensors that get one name are an error. Rules that are
    chosen by themselves change a name only where the other side has not the very same one, and never give a tensor
    the name of another.
    """
    notes = apply_renamings(base, other, renamings)
    configs = (base_config, other_config)

    before_conversion = (base, other)
    if selection.may_choose("transformers"):
        before_conversion = (base.copy(), other.copy())
    elif selection.is_forced("transformers"):
        base, other, told = _convert(base, other, configs, selection, forced=True)
        notes += told

    prefixed, told = _rest(base, other, configs, selection)
    if selection.may_choose("transformers") and _unpaired_on_both_sides(*prefixed):
        converted_base, converted_other, told_conversion = _convert(
            *before_conversion, configs, selection, forced=False
        )
        notes += told_conversion
        if (
            converted_base.changed != before_conversion[0].changed
            or converted_other.changed != before_conversion[1].changed
        ):
            prefixed, told = _rest(converted_base, converted_other, configs, selection)
    return Outcome(*prefixed, (*notes, *told))


def _rest(
    base: Side, other: Side, configs: tuple[Mapping[str, Any], Mapping[str, Any]], selection: Selection
) -> tuple[tuple[Side, Side], list[str]]:
    """Every rule after the user's own and transformers, in order."""
    notes: list[str] = []
    if selection.allows("legacy"):
        _both(base, other, "legacy", modern_name, forced=selection.is_forced("legacy"))
    if selection.allows("volta"):
        maps = [read_map(config, side.label) for config, side in zip(configs, (base, other), strict=True)]
        told = apply_volta(base, other, *maps, forced=selection.is_forced("volta"))
        notes += [told] if told else []
    if selection.allows("prefix"):
        forced = selection.is_forced("prefix")
        _both(base, other, "prefix", unwrapped, forced=forced)
        prefixes = find_prefixes(base, other, forced=forced, names=base_model_names(*configs))
        told = apply_prefixes(base, other, prefixes)
        notes += [told] if told else []
    return (base, other), notes


def _both(base: Side, other: Side, rule: str, rewrite: Any, *, forced: bool) -> None:
    proposals = (base.propose(rewrite), other.propose(rewrite))
    if forced:
        base.apply(rule, proposals[0])
        other.apply(rule, proposals[1])
    elif proposals[0] or proposals[1]:
        of_base, of_other = set(base.keys.values()), set(other.keys.values())
        base.apply_where_free(rule, proposals[0], of_other)
        other.apply_where_free(rule, proposals[1], of_base)


def _unpaired_on_both_sides(base: Side, other: Side) -> bool:
    base_keys = {key for _, key in base.inside()}
    other_keys = {key for _, key in other.inside()}
    return not (base_keys <= other_keys or other_keys <= base_keys)


def _worth(base: Side, other: Side, configs: tuple[Mapping[str, Any], Mapping[str, Any]], selection: Selection) -> int:
    """How many pairs the remaining rules would find, twice those of equal shape."""
    (base, other), _ = _rest(base.copy(), other.copy(), configs, selection)
    shapes = {key: base.shapes[name] for name, key in base.inside()}
    return sum(1 + (shapes[key] == other.shapes[name]) for name, key in other.inside() if key in shapes)


def _convert(
    base: Side,
    other: Side,
    configs: tuple[Mapping[str, Any], Mapping[str, Any]],
    selection: Selection,
    *,
    forced: bool,
) -> tuple[Side, Side, list[str]]:
    """Applies the one of transformers' renamings, to the one side or to both, that pairs most tensors."""
    conversions = find_conversions(*configs)
    if not conversions.variants:
        if forced:
            reason = conversions.reason or "it knows of no renamings for these models"
            raise RulesError(f'the rule "transformers" cannot be applied to {other.label} and {base.label}: {reason}.')
        return base, other, [f"transformers: {conversions.reason}"] if conversions.reason else []
    best, note = (base, other), ""
    worth = -1 if forced else _worth(base, other, configs, selection)
    for key, rename in conversions.variants:
        renamed_base, renamed_other = _renamed(base, rename), _renamed(other, rename)
        for candidate in ((renamed_base, other), (base, renamed_other), (renamed_base, renamed_other)):
            if candidate[0] is None or candidate[1] is None:
                continue
            value = _worth(candidate[0], candidate[1], configs, selection)
            if value > worth:
                best, worth, note = (candidate[0], candidate[1]), value, f"transformers: renamings of {key}"
    return *best, [note] if note else []


def _renamed(side: Side, rename: Rename) -> Side | None:
    """A copy of a side, renamed; None where that changes nothing."""
    proposals = side.propose(lambda key: key if key.endswith(UNPAIRED) else rename(key))
    twin = side.copy()
    return twin if twin.apply_where_free("transformers", proposals) else None
