"""`open_checkpoint`: from what a user calls a checkpoint to an opened one.

A path that exists wins over a hub id of the same spelling. What a file is, is decided by its first bytes; only
`.safetensors` is taken at its word, so that what is wrong with it is said in terms of safetensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..checkpoint import Checkpoint, TensorRef
from ..errors import CheckpointNotFoundError, FormatError
from .folder import INDEX_SUFFIX, choose_in_folder
from .index import check_against_index, read_index, read_json_object, shard_paths
from .safetensors import looks_like_safetensors, read_safetensors
from .shard import Shard, digest, read_error, read_head
from .sniff import describe_head, is_zip

__all__ = ["open_checkpoint"]


def open_checkpoint(source: str | os.PathLike[str] | Checkpoint) -> Checkpoint:
    """Open a checkpoint: its tensors' names, dtypes, shapes and places, from headers alone.

    Args:
        source: a file (safetensors, PyTorch, or the index of shards), a folder that holds one, a hub id `org/name` or
            `name`, with `@revision` if wanted; or an opened checkpoint, which is handed back as it is.
    Returns:
        The checkpoint, tensors in file order (shards in the order of their names).
    Raises:
        CheckpointNotFoundError: there is no such path, and it cannot be a hub id.
        FormatError: it is there and is not a checkpoint, or is damaged; says what is wrong.
        ReadError: it is there and cannot be read.
        HubError: the hub id is not in the cache and could not be downloaded.
    """
    if isinstance(source, Checkpoint):
        return source
    label = os.fsdecode(source)
    for path in (label, os.path.expanduser(label)):
        if label and "\0" not in label and os.path.lexists(path):
            return _open_path(path, label)

    from .hub import local_copy, parse_hub_id

    hub_id = parse_hub_id(label) if isinstance(source, str) else None
    if hub_id is None:
        raise CheckpointNotFoundError(
            f'"{label}" does not exist; give a file, a folder, or a hub id such as org/name or org/name@revision.'
        )
    return _open_path(local_copy(hub_id), label)


def _open_path(path: str, label: str) -> Checkpoint:
    if not os.path.exists(path):
        raise CheckpointNotFoundError(f'"{path}" is a link to "{os.path.realpath(path)}", which does not exist.')
    is_folder = os.path.isdir(path)
    folder = path if is_folder else os.path.dirname(path)
    found = choose_in_folder(path, lambda name: read_index(os.path.join(path, name))) if is_folder else path
    if found.endswith(INDEX_SUFFIX):
        weight_map = read_index(found)
        shards = [_read_file(shard) for shard in shard_paths(found, weight_map)]
        check_against_index(found, weight_map, shards)
    else:
        shards = [_read_file(found)]

    config_path = os.path.join(folder, "config.json")
    config = read_json_object(config_path) if os.path.isfile(config_path) else {}
    return Checkpoint(
        label=label,
        path=path,
        format=shards[0].format,
        tensors=_join(shards),
        config=config,
        files=tuple(shard.path for shard in shards),
        identity=_identity(shards, config),
        metadata={key: value for shard in shards for key, value in shard.metadata.items()},
        tied=tuple(group for shard in shards for group in shard.tied),
    )


def _read_file(path: str) -> Shard:
    """One file, by the reader of what its first bytes are."""
    head, _ = read_head(path)
    if path.endswith(".safetensors") or looks_like_safetensors(head):
        return read_safetensors(path)
    if is_zip(head) or head[:1] == b"\x80":
        from .pytorch import read_pytorch

        return read_pytorch(path)
    seen = describe_head(head) or "begins neither as a safetensors file nor as a PyTorch one"
    raise FormatError(f'"{path}" is not a checkpoint: it {seen}.')


def _join(shards: Sequence[Shard]) -> dict[str, TensorRef]:
    """The tensors of all shards, in order; a name that two of them hold is an error."""
    tensors: dict[str, TensorRef] = {}
    for shard in shards:
        for ref in shard.tensors:
            if (first := tensors.setdefault(ref.name, ref)) is not ref:
                raise FormatError(
                    f'tensor "{ref.name}" is in "{first.file}" and in "{ref.file}" as well; '
                    "one checkpoint holds a name once, so save it again."
                )
    return tensors


def _identity(shards: Sequence[Shard], config: Mapping[str, Any]) -> str:
    """A digest of what the files are and of the config: cheap, no tensor byte is read.

    A file of a hub cache is a link to a blob that is named by its content's hash; that name is the best there is, and
    the same wherever the cache lies. Any other file is known by path, size, time of last change and header.
    """
    parts = [json.dumps(config, sort_keys=True, default=str)]
    for shard in shards:
        real = os.path.realpath(shard.path)
        if os.path.islink(shard.path) and os.path.basename(os.path.dirname(real)) == "blobs":
            parts.append("blob:" + os.path.basename(real))
        else:
            try:
                status = os.stat(real)
            except OSError as error:
                raise read_error(real, error) from error
            parts += [real, str(status.st_size), str(status.st_mtime_ns), shard.header_digest]
    return digest(*parts)
