"""Hugging Face hub ids: `org/name` or `name`, with `@revision` where wanted.

The cache comes first: what is in it is used without a look at the network, so a comparison made twice reads the same
bytes twice. What is not is downloaded through huggingface_hub, one revision, and of it only the config, the index and
the weights, chosen among the repository's files as among those of a folder. The first request is made without retries,
so that a machine without a network hears so at once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import FormatError, HubError
from .folder import INDEX_SUFFIX, choose, is_weights_name
from .index import read_index

__all__ = ["HubId", "local_copy", "parse_hub_id"]

_DEFAULT_REVISION = "main"
_TIMEOUT_SECONDS = 10.0

_PART = r"[A-Za-z0-9](?:[\w.-]*[\w])?"
_HUB_ID = re.compile(rf"(?P<name>{_PART}(?:/{_PART})?)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository of models on the hub, and the branch, tag or commit of it."""

    name: str
    revision: str

    def __str__(self) -> str:
        return self.name if self.revision == _DEFAULT_REVISION else f"{self.name}@{self.revision}"


def parse_hub_id(text: str) -> HubId | None:
    """The hub id that a text spells, or None where it can only be a path (`./x`, `a/b/c`, `model.safetensors`)."""
    match = _HUB_ID.fullmatch(text)
    if match is None or is_weights_name(match["name"]) or match["name"].endswith((".json", ".gguf", ".git")):
        return None
    if "--" in match["name"] or ".." in text or len(match["name"]) > 96:
        return None
    return HubId(match["name"], match["revision"] or _DEFAULT_REVISION)


def local_copy(hub_id: HubId) -> str:
    """The folder in the hub's cache that holds a repository's weights, downloaded if they are not there yet.

    Raises:
        HubError: they are not in the cache and cannot be had from the hub; says why.
        FormatError: the repository holds no checkpoint, or several.
    """
    folder = _cached_snapshot(hub_id)
    missing = _missing_from(folder) if folder is not None else None
    if folder is not None and missing is None:
        return folder
    here = f"is only partly in the hub cache ({missing})" if missing else "is neither a path here nor in the hub cache"
    return _download(hub_id, here)


def _cached_snapshot(hub_id: HubId) -> str | None:
    """The folder of a revision in the cache, by the cache's documented layout, or None."""
    from huggingface_hub import constants

    root = os.path.join(constants.HF_HUB_CACHE, "models--" + hub_id.name.replace("/", "--"))
    commit = hub_id.revision
    if not _COMMIT.fullmatch(commit):
        try:
            with open(os.path.join(root, "refs", *commit.split("/")), encoding="ascii") as file:
                commit = file.read().strip()
        except (OSError, ValueError):
            return None
    folder = os.path.join(root, "snapshots", commit)
    return folder if _COMMIT.fullmatch(commit) and os.path.isdir(folder) else None


def _missing_from(folder: str) -> str | None:
    """What a snapshot lacks of being a checkpoint, as a phrase, or None where it is whole."""
    # A link whose blob is gone is a file that is not there.
    names = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
    try:
        found = choose(names, lambda name: read_index(os.path.join(folder, name)), folder)
        if found is None:
            return "without weights"
        shards = set(read_index(os.path.join(folder, found)).values()) if found.endswith(INDEX_SUFFIX) else set()
    except FormatError:
        return "without an index of its shards, or damaged"
    absent = sorted(shard for shard in shards if not os.path.exists(os.path.join(folder, shard)))
    return f"without {absent[0]}" if absent else None


def _download(hub_id: HubId, here: str) -> str:
    """Fetch the config, the index and the weights of one revision; the folder of the cache that they lie in.

    Args:
        hub_id: what to fetch.
        here: what there is of it already, for messages: "is only partly …".
    """
    from huggingface_hub import HfApi, hf_hub_download

    folders = set()

    def fetch(name: str) -> str:
        path = hf_hub_download(hub_id.name, name, revision=hub_id.revision, etag_timeout=_TIMEOUT_SECONDS)
        folders.add(path.removesuffix(os.path.join("", *name.split("/"))).rstrip(os.sep))
        return path

    def load_index(name: str) -> Mapping[str, str]:
        return read_index(fetch(name))

    try:
        info = HfApi().model_info(hub_id.name, revision=hub_id.revision, timeout=_TIMEOUT_SECONDS)
        names = [item.rfilename for item in info.siblings or () if "/" not in item.rfilename]
        found = choose(names, load_index, str(hub_id))
        if found is None:
            raise FormatError(
                f'hub id "{hub_id}" holds no safetensors or PyTorch checkpoint at its top; '
                "download the subfolder that is meant and name it."
            )
        if "config.json" in names:
            fetch("config.json")
        for name in sorted(set(load_index(found).values())) if found.endswith(INDEX_SUFFIX) else [found]:
            fetch(name)
    except FormatError:
        raise
    # huggingface_hub has raised requests', httpx's and httpx2's errors in turn, so no list of them would hold.
    except Exception as error:
        raise HubError(_explain(hub_id, here, error)) from error
    if len(folders) != 1:
        raise HubError(f'hub id "{hub_id}" was changed on the hub while it was being downloaded; try again.')
    return folders.pop()


def _explain(hub_id: HubId, here: str, error: Exception) -> str:
    """One sentence for whatever huggingface_hub raised."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled) or isinstance(error.__cause__, errors.OfflineModeIsEnabled):
        return f'"{hub_id}" {here}, and HF_HUB_OFFLINE forbids downloads; unset it, or download the files beforehand.'
    if isinstance(error, errors.GatedRepoError):
        return (
            f'hub id "{hub_id}" is gated; ask for access on its page on the hub, then log in with `hf auth login` '
            "or set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f'"{hub_id}" {here}, and the hub has no such model that may be read with the present login; check the '
            "spelling, or log in with `hf auth login` if it is private."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f'hub id "{hub_id.name}" has no revision "{hub_id.revision}"; give a branch, a tag or a full commit hash.'
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HfHubHTTPError) and status is not None:
        return f'"{hub_id}" {here}, and the hub answered with status {status}; try again later.'
    if isinstance(error, json.JSONDecodeError):
        return (
            f'"{hub_id}" {here}, and the hub answered with something else than JSON; check HF_ENDPOINT and the proxy.'
        )
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    detail = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return (
        f'"{hub_id}" {here}, and it could not be downloaded from the hub ({detail}); check the spelling and the '
        "network, or download it on a machine that has one."
    )
