"""The others of a sweep: from what a user names (paths, globs, hub ids, a manifest file) to a list without doubles."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import CheckpointNotFoundError, FormatError, OptionError, ReadError

__all__ = ["Other", "find_others", "natural_key"]

Scalar = str | int | float | bool | None

_SOURCE_KEYS = ("source", "path", "checkpoint")


@dataclass(frozen=True)
class Other:
    """One checkpoint under study.

    Attributes:
        source: the path or hub id that it is opened by.
        label: what it is called in the results; unique within a sweep.
        extra: further columns of the manifest, such as the training step; they come along into the results.
    """

    source: str
    label: str
    extra: Mapping[str, Scalar] = field(default_factory=dict)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which runs of digits sort as numbers: checkpoint-2 before checkpoint-10."""
    return tuple(
        (0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", text) if part
    )


def find_others(
    sources: Sequence[str | os.PathLike[str] | Other], manifest: str | os.PathLike[str] | None = None
) -> list[Other]:
    """The others that are meant, in order: the sources as they are named, then the lines of the manifest.

    Args:
        sources: paths, globs (each in natural order, `**` for any depth), hub ids, and `Other`s, which are taken as
            they are. A path that exists is not a glob.
        manifest: a text file with one source per line ('#' begins a comment line), a CSV file with a header, or JSON
            lines. CSV and JSON lines name the checkpoint as `source`, `path` or `checkpoint`; `label` is optional and
            all else are extra columns.
    Returns:
        The others, labels unique: a source that is named twice is taken once; two different ones with one label are an
        error.
    Raises:
        CheckpointNotFoundError: a glob that matches nothing.
        ReadError, FormatError: the manifest cannot be read, or a line of it is wrong; says which.
        OptionError: no others at all, or a label that is given twice.
    """
    found: list[Other] = []
    for source in sources:
        if isinstance(source, Other):
            found.append(source)
        else:
            found += [Other(each, each) for each in _expanded(os.fspath(source))]
    if manifest is not None:
        found += _from_manifest(os.fspath(manifest))
    if not found:
        raise OptionError(
            "there is no checkpoint to compare with the base; name paths, globs, hub ids or a --manifest."
        )
    unique = {(other.label, other.source): other for other in found}
    counts = Counter(label for label, _ in unique)
    for label, count in counts.items():
        if count > 1:
            one, two = [source for name, source in unique if name == label][:2]
            raise OptionError(f'the label "{label}" stands for "{one}" and for "{two}"; give each a label of its own.')
    return list(unique.values())


def _expanded(source: str) -> list[str]:
    if os.path.lexists(source) or not glob.has_magic(source):
        return [source]
    matches = sorted(glob.glob(os.path.expanduser(source), recursive=True), key=natural_key)
    if not matches:
        raise CheckpointNotFoundError(f'"{source}" matches no file or folder; check the pattern.')
    return matches


def _from_manifest(path: str) -> list[Other]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror or error}; check the path of the manifest.") from error
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} is no manifest: byte {error.start:,} is not UTF-8; save it as UTF-8 text."
        ) from error
    records = list(_records(path, text))
    if not records:
        raise FormatError(f"{path} names no checkpoint; write one per line, or CSV or JSON lines.")
    return records


def _records(path: str, text: str) -> Iterable[Other]:
    lines = text.splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("{"):
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _other(path, number, _json_line(path, number, line))
    elif _is_header(first):
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows = []
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise FormatError(
                        f"{path}, line {reader.line_num}: {sum(value is not None for value in row.values())} cells and "
                        f"{len(reader.fieldnames or ())} columns; give each line as many cells as the header."
                    )
                rows.append((reader.line_num, row))
        except csv.Error as error:
            raise FormatError(f"{path}, line {reader.reader.line_num}: {error}; check the quotes.") from error
        columns = {name: _typed([row[name] for _, row in rows]) for name in reader.fieldnames or ()}
        for place, (number, row) in enumerate(rows):
            text_columns = (*_SOURCE_KEYS, "label")
            yield _other(path, number, {k: row[k] if k in text_columns else columns[k][place] for k in columns})
    else:
        for line in lines:
            if line.strip() and not line.lstrip().startswith("#"):
                for source in _expanded(line.strip()):
                    yield Other(source, source)


def _is_header(line: str) -> bool:
    """Whether a line is the header of a CSV manifest."""
    return any(cell.strip().strip('"') in _SOURCE_KEYS for cell in line.split(",")) and not os.path.lexists(line)


def _json_line(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise FormatError(f"{path}, line {number} is not JSON: {error}; write one object per line.") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}, line {number} is {type(value).__name__}, not an object; write one object per line.")
    return value


def _other(path: str, number: int, record: Mapping[str, Any]) -> Other:
    keys = [key for key in _SOURCE_KEYS if record.get(key)]
    if not keys:
        raise FormatError(f'{path}, line {number} names no checkpoint; give it as "source" or "path".')
    source = record[keys[0]]
    label = record.get("label") or source
    extra = {str(k): v for k, v in record.items() if k not in (keys[0], "label")}
    for key, value in (*extra.items(), (keys[0], source), ("label", label)):
        wrong = not isinstance(value, str | int | float | bool | None) or (key in (keys[0], "label") and value is None)
        if wrong or (key == keys[0] and not isinstance(value, str)):
            raise FormatError(f'{path}, line {number}: "{key}" is {value!r}; give a text or a number.')
    return Other(source, str(label), extra)


def _typed(cells: Sequence[str]) -> Sequence[Scalar]:
    """The cells of a CSV column as integers or floats, where all that are not empty can be; empty ones as None."""
    for kind in (int, float, str):
        try:
            return [kind(cell) if cell != "" else None for cell in cells]
        except ValueError:
            continue
    return cells
