"""The user's own renamings: `--map 'REGEX=>REPLACEMENT'` and TOML files.

A file:

    exclude = ["*.position_ids"]     # GLOBs, as --exclude
    include = []                     # GLOBs, as --include

    [[rename]]
    pattern = '^encoder\\.blocks\\.(\\d+)\\.'
    replacement = 'h.\\1.'
    side = "base"                    # or "other", "both"

They come before all other rules and see names as they stand in the files. All of them look at the original name at
once: every match of every pattern is replaced, and where two matches overlap, the renaming given first wins. So
`1=>2` and `2=>4` never turn 1 into 4.

Which names: those of the side that is named (`--map 'other:REGEX=>REPLACEMENT'`). Without a side, those of the base;
where the pattern matches none of them, those of the other.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os import PathLike

from ..errors import RulesError
from .rewriting import Side

__all__ = ["CustomRules", "Renaming", "apply_renamings", "parse_map", "read_rules_file"]

_SIDES = ("base", "other", "both")


@dataclass(frozen=True, slots=True)
class Renaming:
    """One renaming: what a pattern matches, in the names of a side, becomes the replacement.

    Attributes:
        pattern: searched for anywhere in a name (`re` syntax).
        replacement: may refer to groups (`\\1`, `\\g<name>`).
        side: "base", "other", "both", or "" (the base, or where nothing matches there the other).
        source: "--map" or "--rules-file"; the rule that the ledger names.
        text: how the user wrote it, for errors.
    """

    pattern: re.Pattern[str]
    replacement: str
    side: str
    source: str
    text: str

    def matches(self, name: str) -> bool:
        """Whether this renaming has anything to say about a name."""
        return self.pattern.search(name) is not None


@dataclass(frozen=True, slots=True)
class CustomRules:
    """What a rules file holds."""

    renamings: tuple[Renaming, ...] = ()
    include: tuple[str, ...] = field(default=())
    exclude: tuple[str, ...] = field(default=())


def _renaming(pattern: str, replacement: str, side: str, source: str, text: str) -> Renaming:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RulesError(
            f'{text}: "{pattern}" is no regular expression ({error}); put a backslash before characters that are '
            "meant literally."
        ) from None
    try:
        # The pattern's own groups decide whether the replacement can be expanded, whatever it will match.
        re.compile(f"(?:{pattern})|").sub(replacement, "")
    except (re.error, IndexError) as error:
        raise RulesError(
            f'{text}: the replacement "{replacement}" does not fit the pattern "{pattern}" ({error}); the pattern has '
            f"{compiled.groups} group(s)."
        ) from None
    return Renaming(compiled, replacement, side, source, text)


def parse_map(text: str) -> Renaming:
    """Reads `REGEX=>REPLACEMENT`, with `base:`, `other:` or `both:` before it where wanted.

    Raises:
        RulesError: there is no `=>`, the pattern is empty or no regular expression, or the replacement has a group
            that the pattern lacks.
    """
    label = f"--map {text!r}"
    pattern, arrow, replacement = text.partition("=>")
    if not arrow:
        raise RulesError(f"{label} has no =>; write it as 'REGEX=>REPLACEMENT'.")
    side = ""
    for word in _SIDES:
        if pattern.startswith(f"{word}:"):
            side, pattern = word, pattern[len(word) + 1 :]
            break
    if not pattern:
        raise RulesError(f"{label} has nothing before =>; to put something before every name write '^=>{replacement}'.")
    return _renaming(pattern, replacement, side, "--map", label)


def read_rules_file(path: str | PathLike[str]) -> CustomRules:
    """Reads a TOML file of renamings.

    Raises:
        RulesError: the file is not there or no TOML, has a key that means nothing, or a value of the wrong type.
    """
    label = f"rules file {path}"
    try:
        with open(path, "rb") as handle:
            content = tomllib.load(handle)
    except OSError as error:
        raise RulesError(f"{label} cannot be read ({error.strerror or error}); give the path of a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesError(
            f"{label} is no TOML ({error}); write patterns in single quotes, where \\ stands for itself."
        ) from None

    for key in content:
        if key not in ("rename", "include", "exclude"):
            raise RulesError(
                f'{label} has the key "{key}", which means nothing; known are rename, include and exclude.'
            )
    tables = content.get("rename", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RulesError(
            f'{label}: "rename" is {type(tables).__name__}, not a list of tables; write [[rename]] above each.'
        )
    renamings = []
    for number, table in enumerate(tables, 1):
        where = f"{label}, rename {number}"
        for key, value in table.items():
            if key not in ("pattern", "replacement", "side"):
                raise RulesError(
                    f'{where} has the key "{key}", which means nothing; known are pattern, replacement, side.'
                )
            if not isinstance(value, str):
                raise RulesError(f'{where}: "{key}" is {value!r}, not a string.')
        if not table.get("pattern"):
            raise RulesError(f'{where} has no "pattern"; give the regular expression to look for.')
        if "replacement" not in table:
            raise RulesError(f"{where} has no \"replacement\"; give one, '' to take the match away.")
        side = table.get("side", "")
        if side not in ("", *_SIDES):
            raise RulesError(f'{where}: "side" is "{side}"; it can be "base", "other" or "both".')
        renamings.append(_renaming(table["pattern"], table["replacement"], side, "--rules-file", where))
    return CustomRules(tuple(renamings), _globs(content, "include", label), _globs(content, "exclude", label))


def _globs(content: dict[str, object], key: str, label: str) -> tuple[str, ...]:
    value = content.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RulesError(f'{label}: "{key}" is {value!r}, not a list of strings.')
    return tuple(value)


def rewritten(name: str, renamings: Iterable[Renaming]) -> tuple[str, tuple[str, ...]]:
    """A name with every match of every renaming replaced at once, and the sources of those that did."""
    spans: list[tuple[int, int, str]] = []
    sources: list[str] = []
    for renaming in renamings:
        before = len(spans)
        for found in renaming.pattern.finditer(name):
            start, end = found.span()
            if any(start == s == end == e or (start < e and s < end) for s, e, _ in spans):
                continue
            if start == end and any(e == start for _, e, _ in spans[before:]):
                continue  # `.*` matches once more, emptily, at the end of what it has matched
            spans.append((start, end, found.expand(renaming.replacement)))
        if len(spans) > before and renaming.source not in sources:
            sources.append(renaming.source)
    if not spans:
        return name, ()
    pieces, position = [], 0
    for start, end, text in sorted(spans, key=lambda span: span[:2]):
        pieces += [name[position:start], text]
        position = end
    return "".join([*pieces, name[position:]]), tuple(sources)


def apply_renamings(base: Side, other: Side, renamings: Sequence[Renaming]) -> list[str]:
    """Applies the user's renamings to both sides; returns one phrase for each that matched no name.

    Raises:
        RulesError: two tensors of a side would get one name, or a tensor an empty one.
    """
    for_base, for_other, idle = [], [], []
    for renaming in renamings:
        on_base = renaming.side in ("", "base", "both") and any(map(renaming.matches, base.shapes))
        wants_other = renaming.side in ("other", "both") or (renaming.side == "" and not on_base)
        on_other = wants_other and any(map(renaming.matches, other.shapes))
        if on_base:
            for_base.append(renaming)
        if on_other:
            for_other.append(renaming)
        if not on_base and not on_other:
            idle.append(f"{renaming.text} matches no name")
    for side, chosen in ((base, for_base), (other, for_other)):
        if not chosen:
            continue
        proposals: dict[str, dict[str, str]] = {}
        for name in side.shapes:
            new, sources = rewritten(name, chosen)
            if new == name:
                continue
            if not new:
                raise RulesError(
                    f'{" and ".join(sources)} leave nothing of "{name}" of {side.label}; narrow the pattern or '
                    "leave the tensor out with --exclude."
                )
            proposals.setdefault(" and ".join(sources), {})[name] = new
        merged = {name: new for group in proposals.values() for name, new in group.items()}
        labels = {name: tuple(label.split(" and ")) for label, group in proposals.items() for name in group}
        side.apply("+".join(dict.fromkeys(renaming.source for renaming in chosen)), merged)
        side.changed.update(labels)
    return idle
