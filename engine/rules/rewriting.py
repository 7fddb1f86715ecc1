"""The names of one side on their way to a common form: rewritten by rules, each change on record.

A rule proposes a new key for some names, all computed from the keys as they stood before the rule, so a rule never
sees its own results (layer 1 -> 2 and 2 -> 4 do not chain to 1 -> 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..errors import RulesError

__all__ = ["UNPAIRED", "Shape", "Side"]

Shape = tuple[int, ...]

UNPAIRED = "\0"
"""Ends a key that must meet no other: a tensor that a rule knows to have no counterpart, whatever its name."""


class Side:
    """One checkpoint's names while they are being brought into a common form.

    Attributes:
        label: how errors call the checkpoint.
        shapes: name -> shape, in file order; the names as they stand in the file.
        keys: name -> its present form.
        changed: name -> the rules that changed it, in the order in which they did.
        outside: the names that stand outside the base model.
        reasons: name -> why a rule says that it has no counterpart.
    """

    def __init__(self, label: str, shapes: Mapping[str, Shape]) -> None:
        self.label = label
        self.shapes = dict(shapes)
        self.keys: dict[str, str] = {name: name for name in shapes}
        self.changed: dict[str, tuple[str, ...]] = {}
        self.outside: set[str] = set()
        self.reasons: dict[str, str] = {}

    def copy(self) -> Side:
        """An independent copy, for trying a rule out."""
        twin = Side(self.label, self.shapes)
        twin.keys, twin.changed = dict(self.keys), dict(self.changed)
        twin.outside, twin.reasons = set(self.outside), dict(self.reasons)
        return twin

    def inside(self) -> Iterable[tuple[str, str]]:
        """(name, key) of the tensors of the base model."""
        if not self.outside:
            return self.keys.items()
        return ((name, key) for name, key in self.keys.items() if name not in self.outside)

    def propose(self, rewrite: Callable[[str], str | None]) -> dict[str, str]:
        """name -> new key, for the keys that `rewrite` changes."""
        proposals = {}
        for name, key in self.keys.items():
            new = rewrite(key)
            if new is not None and new != key:
                proposals[name] = new
        return proposals

    def apply(self, rule: str, proposals: Mapping[str, str]) -> None:
        """Makes a rule's changes.

        Raises:
            RulesError: two tensors would get one name; names both, and the rule.
        """
        if not proposals:
            return
        keys = {**self.keys, **proposals}
        if len(set(keys.values())) != len(keys):
            first: dict[str, str] = {}
            for name, key in keys.items():
                if key in first:
                    raise RulesError(
                        f'{_rule_in_words(rule)} gives "{first[key]}" and "{name}" of {self.label} the same name '
                        f'"{key}"; narrow the pattern or switch the rule off, so that every tensor keeps a name of '
                        "its own."
                    )
                first[key] = name
        self._accept(rule, proposals)

    def apply_where_free(self, rule: str, proposals: Mapping[str, str], taken: Iterable[str] = ()) -> int:
        """Makes those of a rule's changes that take no tensor's name away; returns how many that are.

        A name stays as it is where the other side has the very same one (`taken`), and where its new form is already,
        or would become, that of another tensor of this side.
        """
        taken = taken if isinstance(taken, (set, frozenset, dict)) else set(taken)
        present = set(self.keys.values())
        times: dict[str, int] = {}
        for key in proposals.values():
            times[key] = times.get(key, 0) + 1
        free = {
            name: key
            for name, key in proposals.items()
            if times[key] == 1 and key not in present and self.keys[name] not in taken
        }
        self._accept(rule, free)
        return len(free)

    def _accept(self, rule: str, proposals: Mapping[str, str]) -> None:
        self.keys.update(proposals)
        for name in proposals:
            self.changed[name] = (*self.changed.get(name, ()), rule)


def _rule_in_words(rule: str) -> str:
    return rule if rule.startswith("--") else f'the rule "{rule}"'
