"""Two checkpoints and rules -> a ledger in which every tensor of both sides has exactly one row."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from os import PathLike

from ..kernels.decoders import DECODERS
from .checkpoint import Checkpoint, TensorRef
from .errors import OptionError
from .ledger import STATUSES, Ledger, LedgerRow, require_matches
from .naming import kind_of, layer_of
from .rules import (
    UNPAIRED,
    CustomRules,
    RowsRule,
    Side,
    apply_rules,
    only_rows_differ,
    parse_map,
    parse_rules,
    read_rules_file,
)

__all__ = ["STATUSES", "Ledger", "LedgerRow", "match", "require_matches"]

# The order in which a row names the rules that brought its two names together.
_RULE_ORDER = ("--map", "--rules-file", "transformers", "legacy", "prefix", "volta", "rows")


def match(
    base: Checkpoint,
    other: Checkpoint,
    *,
    rules: str | Sequence[str] = "auto",
    map: str | Sequence[str] = (),
    rules_file: str | PathLike[str] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    rows: str = "overlap",
) -> Ledger:
    """Pairs the tensors of two checkpoints by name; reads no tensor bytes.

    Args:
        base: the checkpoint compared against.
        other: the checkpoint under study.
        rules: "auto", "none", or rules by name (`rules.parse_rules`).
        map: the user's renamings, `REGEX=>REPLACEMENT` each (`rules.custom`).
        rules_file: a TOML file of more of them, which come after those of `map`.
        include: GLOBs; where any are given, only tensors whose name on either side matches one are compared.
        exclude: GLOBs; tensors whose name on either side matches one are not compared.
        rows: "overlap" compares the leading rows of embeddings and tied heads whose numbers of rows differ, "strict"
            leaves them as `shape_mismatch`.
    Returns:
        The ledger; where nothing matched, one without matched rows (`require_matches` makes that an error).
    Raises:
        RulesError: a rule is unknown or malformed, or gives two tensors one name.
        OptionError: `rows` is neither "overlap" nor "strict".
    """
    if rows not in ("overlap", "strict"):
        raise OptionError(f'rows is "{rows}"; it can be "overlap" or "strict".')
    selection = parse_rules(rules)
    custom = read_rules_file(rules_file) if rules_file is not None else CustomRules()
    renamings = (*(parse_map(text) for text in _listed(map)), *custom.renamings)
    selected = _Globs((*_listed(include), *custom.include), (*_listed(exclude), *custom.exclude))
    overlap = rows == "overlap" and "rows" not in selection.off

    outcome = apply_rules(
        Side(base.label, {name: ref.shape for name, ref in base.tensors.items()}),
        Side(other.label, {name: ref.shape for name, ref in other.tensors.items()}),
        base.config,
        other.config,
        selection,
        renamings,
    )
    ledger_rows = _rows(base, other, outcome.base, outcome.other, selected, overlap)
    unpaired = ("only_in_other", "only_in_base")
    used = {rule for row in ledger_rows if row.status not in unpaired for rule in row.rule.split("+")}
    sources = tuple(dict.fromkeys(renaming.source for renaming in renamings))
    return Ledger(
        base=base,
        other=other,
        rows=tuple(ledger_rows),
        rules=tuple(rule for rule in _RULE_ORDER if rule in used),
        tried=(*sources, *selection.tried),
        notes=(*outcome.notes, *selected.idle(base, other)),
    )


def _listed(values: str | Sequence[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


class _Globs:
    """Which tensors --include and --exclude leave."""

    def __init__(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        self._globs = {"--include": include, "--exclude": exclude}
        self._any = bool(include or exclude)
        self._patterns = {option: _any_of(globs) for option, globs in self._globs.items()}

    def reason(self, *names: str | None) -> str:
        """Why a tensor with these names is left out, or "" where it is not."""
        if not self._any:
            return ""
        present = [name for name in names if name is not None]
        exclude, include = self._patterns["--exclude"], self._patterns["--include"]
        if exclude is not None and any(map(exclude.match, present)):
            globs = [
                glob for glob in self._globs["--exclude"] if any(fnmatch.fnmatchcase(name, glob) for name in present)
            ]
            return f"left out by --exclude {globs[0]}"
        if include is not None and not any(map(include.match, present)):
            return "not among --include " + ", ".join(self._globs["--include"])
        return ""

    def idle(self, *checkpoints: Checkpoint) -> list[str]:
        """One phrase for each GLOB that matches no name."""
        names = [name for checkpoint in checkpoints for name in checkpoint.tensors]
        return [
            f"{option} {glob} matches no name"
            for option, globs in self._globs.items()
            for glob in globs
            if not any(map(re.compile(fnmatch.translate(glob)).match, names))
        ]


def _any_of(globs: Iterable[str]) -> re.Pattern[str] | None:
    translated = [fnmatch.translate(glob) for glob in globs]
    return re.compile("|".join(translated)) if translated else None


def _rows(
    base: Checkpoint, other: Checkpoint, base_side: Side, other_side: Side, selected: _Globs, overlap: bool
) -> list[LedgerRow]:
    by_key = {key: name for name, key in base_side.inside() if not key.endswith(UNPAIRED)}
    pairs = {name: by_key[key] for name, key in other_side.inside() if key in by_key and not key.endswith(UNPAIRED)}
    resized = [
        (name, other.tensors[name].shape, base.tensors[base_name].shape)
        for name, base_name in pairs.items()
        if only_rows_differ(other.tensors[name].shape, base.tensors[base_name].shape)
    ]
    rows_rule = RowsRule(other.tensors, resized, other.tied)

    result = []
    for name, ref in other.tensors.items():
        base_name = pairs.get(name)
        if base_name is None:
            result.append(_alone(name, ref, other_side, selected, in_other=True))
        else:
            rule = _rule(name, base_name, other_side, base_side)
            result.append(_pair(ref, base.tensors[base_name], rule, selected, rows_rule, overlap))
    paired = set(pairs.values())
    for name, ref in base.tensors.items():
        if name not in paired:
            result.append(_alone(name, ref, base_side, selected, in_other=False))
    return result


def _rule(name: str, base_name: str, other_side: Side, base_side: Side) -> str:
    if name == base_name:
        return "name"
    of_other, of_base = other_side.changed.get(name, ()), base_side.changed.get(base_name, ())
    used = {*of_other, *of_base}
    if "legacy" in of_other and "legacy" in of_base:
        used.discard("legacy")  # the same on both sides: it has brought nothing together
    return "+".join(rule for rule in _RULE_ORDER if rule in used)


def _alone(name: str, ref: TensorRef, side: Side, selected: _Globs, *, in_other: bool) -> LedgerRow:
    rule = "+".join(rule for rule in _RULE_ORDER if rule in side.changed.get(name, ())) or "name"
    if name in side.outside:
        status, rule, reason = "outside_base_model", "prefix", "stands outside the base model's prefix"
    elif left_out := selected.reason(name):
        status, rule, reason = "skipped", left_out.split()[2], left_out
    else:
        status = "only_in_other" if in_other else "only_in_base"
        reason = side.reasons.get(name) or f"no tensor of that name in the {'base' if in_other else 'other'}"
    return LedgerRow(
        tensor=name if in_other else None,
        base_tensor=None if in_other else name,
        status=status,
        rule=rule,
        kind=kind_of(name),
        layer=layer_of(name),
        other=ref if in_other else None,
        base=None if in_other else ref,
        rows=None,
        reason=reason,
    )


def _pair(
    ref: TensorRef, base_ref: TensorRef, rule: str, selected: _Globs, rows_rule: RowsRule, overlap: bool
) -> LedgerRow:
    status, rows = "matched", None
    reason = selected.reason(ref.name, base_ref.name) or _undecodable(ref, base_ref)
    if reason:
        status = "skipped"
    elif ref.shape != base_ref.shape:
        trimmable = rows_rule.accepts(ref.name)
        if trimmable and overlap:
            rows = (min(ref.shape[0], base_ref.shape[0]), max(ref.shape[0], base_ref.shape[0]))
            rule += "+rows"
        else:
            status, reason = "shape_mismatch", _mismatch(ref.shape, base_ref.shape, trimmable)
    return LedgerRow(
        tensor=ref.name,
        base_tensor=base_ref.name,
        status=status,
        rule=rule,
        kind=kind_of(ref.name),
        layer=layer_of(ref.name),
        other=ref,
        base=base_ref,
        rows=rows,
        reason=reason,
    )


def _undecodable(ref: TensorRef, base_ref: TensorRef) -> str:
    if ref.dtype in DECODERS and base_ref.dtype in DECODERS:
        return ""
    sides = [
        f"{one.dtype} in the {side}" for one, side in ((ref, "other"), (base_ref, "base")) if one.dtype not in DECODERS
    ]
    return f"dtype {' and '.join(sides)} cannot be decoded"


def _mismatch(shape: tuple[int, ...], base_shape: tuple[int, ...], trimmable: bool) -> str:
    remedy = (
        "pass --rows overlap to compare the rows that both have"
        if trimmable
        else "leave it out with --exclude or pair it with another by --map"
    )
    return f"{shape} in the other and {base_shape} in the base; {remedy}"
