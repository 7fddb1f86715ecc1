"""The index of a sharded checkpoint: which file holds which tensor.

`{"metadata": {…}, "weight_map": {"tensor": "model-00001-of-00002.safetensors", …}}`, the same in transformers and
diffusers, for safetensors and PyTorch. It is text from a stranger: a shard's name may not lead out of the folder. That
is checked on the text, not on where links lead, since a hub cache's snapshot consists of links to `../../blobs`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import FormatError
from .shard import Shard, read_error, read_head
from .sniff import describe_head

__all__ = ["check_against_index", "read_index", "read_json_object", "shard_paths"]


def read_json_object(path: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FormatError: it is empty, no JSON, or no object; names the file and the place.
        ReadError: it cannot be read.
    """
    head, _ = read_head(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            value = json.load(file)
    except OSError as error:
        raise read_error(path, error) from error
    except RecursionError as error:
        raise FormatError(f'"{path}" is not valid JSON (nested too deeply); download or save it again.') from error
    except ValueError as error:
        seen = describe_head(head)
        detail = f"it {seen}" if seen and "text file" not in seen else str(error)
        raise FormatError(f'"{path}" is not valid JSON ({detail}); download or save it again.') from error
    if not isinstance(value, dict):
        raise FormatError(f'"{path}" holds a JSON {type(value).__name__}, not an object; download or save it again.')
    return value


def read_index(path: str) -> dict[str, str]:
    """The map tensor -> shard of an index.

    Raises:
        FormatError: it has no `weight_map`, an empty one, or one that names a file outside the index's folder.
    """
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f'"{path}" is no index of a checkpoint: it has no "weight_map" of tensors to shards.')
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard:
            raise FormatError(f'"{path}" gives {shard!r} as the shard of tensor "{name}", not the name of a file.')
    for shard in set(weight_map.values()):
        if _leaves_folder(shard):
            raise FormatError(
                f'"{path}" names the shard "{shard}", which lies outside its folder; shards must lie next to the index.'
            )
    return weight_map


def shard_paths(index_path: str, weight_map: Mapping[str, str]) -> list[str]:
    """The paths of an index's shards, in the order of their names.

    Raises:
        FormatError: one is not there; names it.
    """
    folder = os.path.dirname(index_path)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not os.path.exists(os.path.join(folder, shard))]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise FormatError(
            f'"{index_path}" names the shard "{missing[0]}"{more}, missing from "{folder or "."}" '
            f"({len(shards) - len(missing)} of {len(shards)} are there); fetch what is missing."
        )
    return [os.path.join(folder, shard) for shard in shards]


def check_against_index(index_path: str, weight_map: Mapping[str, str], shards: Iterable[Shard]) -> None:
    """Refuse an index that names a tensor its shard does not hold.

    The other way round, a tensor that a shard holds and no index names, is no error: it is there, so it is listed.
    """
    folder = os.path.dirname(index_path)
    held = {shard.path: {ref.name for ref in shard.tensors} for shard in shards}
    for name, shard_name in weight_map.items():
        if name not in held[os.path.join(folder, shard_name)]:
            raise FormatError(
                f'"{index_path}" says that tensor "{name}" lies in "{shard_name}", which does not hold it; '
                "fetch the index and the shards again, from one and the same revision."
            )


def _leaves_folder(shard: str) -> bool:
    posix, windows = PurePosixPath(shard), PureWindowsPath(shard)
    return posix.is_absolute() or bool(windows.anchor) or ".." in posix.parts or ".." in windows.parts or "\0" in shard
