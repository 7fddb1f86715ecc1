"""Names that a user typed, checked against those there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from .errors import OptionError

__all__ = ["named", "names"]


def named(name: str, valid: Sequence[str], what: str, where: str) -> str:
    """`name` itself, if it is one of `valid`.

    Args:
        name: what the user typed.
        valid: the names there are, in the order in which the message lists them.
        what: the word for one of them ("metric").
        where: the option or argument it was typed in ("--sort").
    Raises:
        OptionError: it is none of them; the sentence gives the nearest and the list.
    """
    if name in valid:
        return name
    near = difflib.get_close_matches(name.lower(), valid, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise OptionError(f'there is no {what} "{name}" ({where}); {hint}choose from {", ".join(valid)}.')


def names(listed: str | Iterable[str] | None, valid: Sequence[str], what: str, where: str) -> tuple[str, ...] | None:
    """The names in a comma-separated list or an iterable, each checked by `named` and kept once; None for None.

    Raises:
        OptionError: a name is unknown, or there is none at all.
    """
    if listed is None:
        return None
    parts = listed.split(",") if isinstance(listed, str) else list(listed)
    chosen = tuple(dict.fromkeys(named(part.strip(), valid, what, where) for part in parts if part.strip()))
    if not chosen:
        raise OptionError(f"{where} names no {what}; choose from {', '.join(valid)}.")
    return chosen
