"""Which files of a folder are the checkpoint: a pure choice by name, the same for a folder on disk and one on the hub.

The standard names come before any other, and safetensors before PyTorch; without a standard name there must be exactly
one candidate, as nobody can say which of several was meant. Training leftovers (optimizer, scheduler, random states)
and the shards that an index already names are no candidates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from ..errors import FormatError
from .shard import read_error

__all__ = ["INDEX_SUFFIX", "choose", "choose_in_folder", "is_weights_name"]

INDEX_SUFFIX = ".index.json"

# (endings, standard stems with their ending) of each format, the preferred format first.
_FAMILIES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    ((".safetensors",), ("model.safetensors", "diffusion_pytorch_model.safetensors")),
    ((".bin", ".pt", ".pth", ".ckpt"), ("pytorch_model.bin", "diffusion_pytorch_model.bin")),
)

# What transformers' Trainer and accelerate write next to the weights.
_LEFTOVERS = (
    "training_args.bin",
    "optimizer*.bin",
    "optimizer*.pt",
    "scheduler*.bin",
    "scheduler*.pt",
    "scaler*.pt",
    "rng_state*.pth",
    "random_states*",
)

_SHARD = re.compile(r"-(\d{5,})-of-(\d{5,})\.[a-z]+$")


def is_weights_name(name: str) -> bool:
    """Whether a file of this name can be a checkpoint or an index of one, going by its ending."""
    endings = tuple(ending for endings, _ in _FAMILIES for ending in endings)
    return name.lower().endswith((*endings, INDEX_SUFFIX))


def choose(names: Iterable[str], load_index: Callable[[str], Mapping[str, str]], where: str) -> str | None:
    """The one name among a folder's that is its checkpoint: a file, or the index of a sharded one.

    Args:
        names: the names of the files in the folder, without subfolders.
        load_index: reads the index of a given name as tensor -> shard; called only where no standard name is there.
        where: the folder's name, for messages.
    Returns:
        The name, or None where no file is a candidate.
    Raises:
        FormatError: several are, or the only one is a shard of more; lists them.
    """
    visible = sorted(name for name in names if not name.startswith("."))
    found = _first(_standard(visible, standard) for _, standard in _FAMILIES)
    found = found or _first(_candidates(visible, endings, load_index) for endings, _ in _FAMILIES)
    if len(found) == 1:
        _refuse_lone_shard(found[0], where)
        return found[0]
    if found:
        listed = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
        if all(_SHARD.search(name) for name in found):
            raise FormatError(
                f'"{where}" holds shards ({listed}) without their index; fetch the file that ends in {INDEX_SUFFIX}.'
            )
        raise FormatError(f'"{where}" holds {len(found)} checkpoints ({listed}); name the one that is meant.')
    return None


def choose_in_folder(folder: str, load_index: Callable[[str], Mapping[str, str]]) -> str:
    """The path of the checkpoint or index that a folder on disk holds.

    Raises:
        FormatError: it is empty, holds none (says what was looked for), or several.
        ReadError: it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            listing = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise read_error(folder, error) from error
    if not listing:
        raise FormatError(f'"{folder}" is an empty folder; give a folder that holds a checkpoint.')
    name = choose([name for name, is_dir in listing if not is_dir], load_index, folder)
    if name is not None:
        return os.path.join(folder, name)
    inside = sorted(name for name, is_dir in listing if is_dir and _holds_weights(os.path.join(folder, name)))
    hint = f"; its subfolders {', '.join(inside)} do, name one" if inside else "; give a file or a folder that has one"
    raise FormatError(
        f'"{folder}" holds no checkpoint (looked for model.safetensors, pytorch_model.bin, an index of shards '
        f"*{INDEX_SUFFIX}, or a single *.safetensors, *.bin, *.pt, *.pth){hint}."
    )


def _first(lists: Iterable[list[str]]) -> list[str]:
    """The first list that is not empty; lazily, so that a later one's indices are not read for nothing."""
    return next(filter(None, lists), [])


def _standard(visible: list[str], standard: Iterable[str]) -> list[str]:
    """The standard names that are there: of each the file, else the index of its shards."""
    names = [name if name in visible else name + INDEX_SUFFIX for name in standard]
    return [name for name in names if name in visible]


def _candidates(
    visible: list[str], endings: tuple[str, ...], load_index: Callable[[str], Mapping[str, str]]
) -> list[str]:
    """Indices and files of one format, without the shards that the indices name and without training leftovers."""
    indices = [name for name in visible if name.endswith(tuple(ending + INDEX_SUFFIX for ending in endings))]
    named = {shard for index in indices for shard in load_index(index).values()}
    files = [
        name
        for name in visible
        if name.endswith(endings) and name not in named and not any(fnmatchcase(name, p) for p in _LEFTOVERS)
    ]
    return indices + files


def _refuse_lone_shard(name: str, where: str) -> None:
    """Refuse to take one shard of several for the whole checkpoint only because the others are not there."""
    if (match := _SHARD.search(name)) and int(match[2]) > 1:
        raise FormatError(
            f'"{where}" holds only "{name}", shard {int(match[1])} of {int(match[2])}, and no index; fetch the others, '
            "or name that file to open it alone."
        )


def _holds_weights(folder: str) -> bool:
    try:
        return any(is_weights_name(name) for name in os.listdir(folder))
    except OSError:
        return False  # only a hint in another error's message depends on it
