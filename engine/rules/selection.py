"""Which rules a user asked for: `auto`, `none`, `volta,legacy`, `auto,-prefix`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RulesError

__all__ = ["NAME_RULES", "RULES", "Selection", "parse_rules"]

NAME_RULES = ("transformers", "legacy", "volta", "prefix")
"""The rules that rewrite names, in the order in which they are applied (after the user's own)."""

RULES = (*NAME_RULES, "rows")
"""Every rule that has a name of its own."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A parsed choice of rules.

    Attributes:
        auto: rules that were not named are chosen by themselves.
        forced: rules that were named.
        off: rules that were switched off.
    """

    auto: bool
    forced: frozenset[str]
    off: frozenset[str]

    def is_forced(self, rule: str) -> bool:
        """Whether a rule was asked for by name."""
        return rule in self.forced

    def may_choose(self, rule: str) -> bool:
        """Whether a rule is to be chosen by itself, where it helps."""
        return self.auto and rule not in self.off and rule not in self.forced

    def allows(self, rule: str) -> bool:
        """Whether a rule may be applied at all."""
        return self.is_forced(rule) or self.may_choose(rule)

    @property
    def tried(self) -> tuple[str, ...]:
        """The naming rules that are forced or may be chosen."""
        return tuple(rule for rule in NAME_RULES if self.allows(rule))


def parse_rules(rules: str | Sequence[str]) -> Selection:
    """Reads a choice of rules.

    - `auto`: each rule is chosen by itself, from names and config.
    - `none`: names are compared as they stand.
    - `volta,legacy`: exactly these, applied whether they help or not.
    - `auto,legacy,-prefix` or `-prefix`: as `auto`, but with some forced and some (`-`) switched off.

    The rule `rows` does not touch names and has an option of its own (`--rows`): a list does not need to name it, and
    `-rows` says the same as `--rows strict`.

    Raises:
        RulesError: an unknown rule (lists the known ones), one both forced and switched off, or `none` beside others.
    """
    parts = rules.split(",") if isinstance(rules, str) else [part for item in rules for part in str(item).split(",")]
    words = [part.strip().lower() for part in parts if part.strip()]
    known = f"known rules are {', '.join(RULES)}, besides auto and none; put - before one to switch it off"
    if not words:
        raise RulesError(f"no rule is named in {rules!r}; {known}.")
    for word in words:
        if word not in ("auto", "none") and word.removeprefix("-") not in RULES:
            raise RulesError(f'there is no rule "{word}"; {known}.')
    off = frozenset(word[1:] for word in words if word.startswith("-"))
    forced = frozenset(word for word in words if word in RULES)
    if forced & off:
        raise RulesError(
            f'the rule "{min(forced & off)}" is both asked for and switched off; leave one of the two out.'
        )
    if "none" in words and (forced or "auto" in words):
        raise RulesError(f'"none" compares names as they stand and cannot stand beside {", ".join(sorted(words))}.')
    auto = "auto" in words or (not forced and "none" not in words)
    return Selection(auto=auto, forced=forced, off=off)
