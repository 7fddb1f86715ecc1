"""Hub ids: the cache first, then the hub, and one sentence where neither has it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import huggingface_hub.utils
import numpy as np
import pytest
import safetensors.numpy

from weighbridge.engine.errors import FormatError, HubError
from weighbridge.engine.formats import open_checkpoint
from weighbridge.engine.formats.hub import HubId, parse_hub_id

from support.ckpt import tensor_bytes

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ONE = safetensors.numpy.save({"a": np.arange(3.0)})
SHARDS = {
    "config.json": b'{"model_type": "bert"}',
    "model-00001-of-00002.safetensors": ONE,
    "model-00002-of-00002.safetensors": safetensors.numpy.save({"b": np.arange(4.0)}),
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "pytorch_model.bin": b"never fetched",
    "tokenizer.json": b"never fetched",
}


class _Handler(BaseHTTPRequestHandler):
    """The two things that huggingface_hub asks of a hub: what a repository holds, and one file of it."""

    def log_message(self, *_args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        if about := re.fullmatch(r"/api/models/(.+)/revision/([^/?]+)(\?.*)?", self.path):
            name, revision = about[1], about[2]
            hub.asked.append(name)
            if hub.status:
                self.reply(hub.status, b"")
            elif name not in hub.repositories:
                self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("main", "v1", COMMIT):
                self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                siblings = [{"rfilename": file} for file in hub.repositories[name]]
                self.reply(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        elif asked := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path):
            hub.asked.append(asked[3])
            if asked[1] == "org/gated":
                self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
                return
            content = hub.repositories[asked[1]][asked[3]]
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.reply(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})
        else:
            self.reply(404, b"")

    def reply(self, status, content, headers=()):
        self.send_response(status)
        for name, value in {**dict(headers), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _point(monkeypatch, endpoint, cache):
    """Lead huggingface_hub, which reads its environment when it is imported, to another hub and cache."""
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value, raising=False)
        if hasattr(huggingface_hub.file_download, name):  # before 1.0 some were imported there by name
            monkeypatch.setattr(huggingface_hub.file_download, name, value)
    _forget_sessions()


def _forget_sessions():
    """Before 1.0 an HTTP session kept the offline mode that was set when it began."""
    if hasattr(huggingface_hub.utils, "reset_sessions"):
        huggingface_hub.utils.reset_sessions()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, with `repositories`, what was `asked` of it, and a `status` to fail with."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.repositories = {"org/name": SHARDS, "bare": {"model.safetensors": ONE}, "org/gated": SHARDS}
    server.asked, server.status = [], 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    _point(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """A hub at a port where nobody answers."""
    _point(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    yield tmp_path / "cache"
    _forget_sessions()


def fill_cache(cache, name, files, revision="main"):
    """What the hub's library leaves on disk: refs, blobs, and a snapshot of links to them."""
    root = Path(cache) / ("models--" + name.replace("/", "--"))
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(COMMIT)
    (root / "blobs").mkdir(exist_ok=True)
    (root / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        blob = hashlib.sha256(content).hexdigest()
        (root / "blobs" / blob).write_bytes(content)
        (root / "snapshots" / COMMIT / file).symlink_to(f"../../blobs/{blob}")
    return root / "snapshots" / COMMIT


def refusal(source, error=HubError):
    started = time.perf_counter()
    with pytest.raises(error) as raised:
        open_checkpoint(source)
    assert time.perf_counter() - started < 5
    message = str(raised.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# What an id is


@pytest.mark.parametrize(
    ("text", "hub_id"),
    [
        ("bert-base-uncased", HubId("bert-base-uncased", "main")),
        ("google/bert_uncased_L-2", HubId("google/bert_uncased_L-2", "main")),
        ("org/name@v1.0", HubId("org/name", "v1.0")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        (f"name@{COMMIT}", HubId("name", COMMIT)),
        ("t5-v1.1", HubId("t5-v1.1", "main")),
        ("/org/name", None),
        ("./name", None),
        ("../name", None),
        ("a/b/c", None),
        ("name/", None),
        ("", None),
        ("model.safetensors", None),
        ("run/pytorch_model.bin", None),
        ("run/config.json", None),
        ("org/na--me", None),
        ("org/..", None),
        ("org/name@../../secret", None),
        ("org/name@", None),
        ("org/na me", None),
        ("x" * 97, None),
    ],
)
def test_ids(text, hub_id):
    assert parse_hub_id(text) == hub_id


def test_a_path_that_exists_wins(tmp_path, monkeypatch, hub):
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "model.safetensors").write_bytes(ONE)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("org/name").names == ["a"]
    assert not hub.asked


# From the cache


def test_from_the_cache_without_a_network(no_network):
    snapshot = fill_cache(no_network, "org/name", SHARDS)
    checkpoint = open_checkpoint("org/name")
    assert checkpoint.label == "org/name"
    assert checkpoint.path == str(snapshot)
    assert checkpoint.names == ["a", "b"]
    assert checkpoint.config == {"model_type": "bert"}
    assert tensor_bytes(checkpoint.tensors["b"]) == np.arange(4.0).tobytes()


def test_revisions_from_the_cache(no_network):
    fill_cache(no_network, "org/name", SHARDS, revision="v1")
    assert open_checkpoint("org/name@v1").names == open_checkpoint(f"org/name@{COMMIT}").names == ["a", "b"]
    assert "org/name@v2" in refusal("org/name@v2")


def test_what_is_cached_is_not_asked_for_again(hub):
    open_checkpoint("org/name")
    hub.asked.clear()
    assert open_checkpoint("org/name").names == ["a", "b"]
    assert hub.asked == []


def test_identity_is_the_blobs_wherever_the_cache_lies(no_network, tmp_path):
    snapshot = fill_cache(no_network, "org/name", SHARDS)
    first = open_checkpoint("org/name").identity
    os.utime((snapshot / "model-00001-of-00002.safetensors").resolve(), ns=(1, 1))
    assert open_checkpoint("org/name").identity == first
    shutil.copytree(no_network, tmp_path / "moved", symlinks=True)
    moved = tmp_path / "moved" / snapshot.relative_to(no_network)
    assert open_checkpoint(moved).identity == first
    other = fill_cache(no_network, "org/other", {**SHARDS, "config.json": b"{}"})
    assert open_checkpoint(other).identity != first


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HF_HOME"])
def test_the_environment_says_where_the_cache_is(tmp_path, name):
    cache = tmp_path / "hub" if name == "HF_HOME" else tmp_path
    fill_cache(cache, "org/name", SHARDS)
    code = "from weighbridge.engine.formats import open_checkpoint; print(open_checkpoint('org/name').names)"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))}
    environment = {**kept, name: str(tmp_path), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['a', 'b']"


# From the hub


def test_only_what_is_needed_is_downloaded(hub, tmp_path):
    checkpoint = open_checkpoint("org/name")
    assert checkpoint.names == ["a", "b"]
    assert checkpoint.config == {"model_type": "bert"}
    assert set(hub.asked) == {"org/name", *SHARDS} - {"pytorch_model.bin", "tokenizer.json"}
    assert Path(checkpoint.path).is_relative_to(tmp_path / "cache")


def test_ids_of_one_part_and_revisions(hub):
    assert open_checkpoint("bare").names == ["a"]
    assert open_checkpoint("org/name@v1").names == ["a", "b"]
    assert open_checkpoint(f"org/name@{COMMIT}").names == ["a", "b"]


def test_safetensors_are_preferred_and_pytorch_is_taken_alone(hub, tmp_path):
    import torch

    torch.save({"w": torch.ones(2)}, tmp_path / "w.bin")
    hub.repositories["org/old"] = {"pytorch_model.bin": (tmp_path / "w.bin").read_bytes()}
    hub.repositories["org/both"] = {"pytorch_model.bin": b"never fetched", "model.safetensors": ONE}
    assert open_checkpoint("org/old").format == "pytorch"
    assert open_checkpoint("org/both").format == "safetensors"


@pytest.mark.parametrize("cached", [("config.json",), ("config.json", "model.safetensors.index.json"), (*SHARDS,)[:2]])
def test_what_the_cache_lacks_is_fetched(hub, tmp_path, cached):
    fill_cache(tmp_path / "cache", "org/name", {name: SHARDS[name] for name in cached})
    assert open_checkpoint("org/name").names == ["a", "b"]


# Refusals


def test_neither_cache_nor_network(no_network):
    message = refusal("org/name")
    assert (
        '"org/name" is neither a path here nor in the hub cache, and it could not be downloaded from the hub' in message
    )
    assert "check the spelling and the network" in message


def test_offline(no_network, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _forget_sessions()
    message = refusal("org/name")
    assert "is neither a path here nor in the hub cache, and HF_HUB_OFFLINE forbids downloads; unset it" in message
    fill_cache(no_network, "org/name", SHARDS)
    assert open_checkpoint("org/name").names == ["a", "b"]


@pytest.mark.parametrize(
    ("cached", "words"),
    [
        (("config.json",), "is only partly in the hub cache (without weights)"),
        (
            ("model.safetensors.index.json", "model-00001-of-00002.safetensors"),
            "is only partly in the hub cache (without model-00002-of-00002.safetensors)",
        ),
        (("model-00001-of-00002.safetensors",), "is only partly in the hub cache (without an index of its shards"),
    ],
)
def test_half_a_cache_and_no_network(no_network, cached, words):
    fill_cache(no_network, "org/name", {name: SHARDS[name] for name in cached})
    assert words in refusal("org/name")


def test_a_blob_that_is_gone_is_not_there(no_network):
    snapshot = fill_cache(no_network, "bare", {"model.safetensors": ONE})
    (snapshot / "model.safetensors").resolve().unlink()
    assert "is only partly in the hub cache (without weights)" in refusal("bare")


def test_no_such_repository(hub):
    message = refusal("org/gone")
    assert "the hub has no such model that may be read with the present login; check the spelling" in message


def test_no_such_revision(hub):
    assert 'hub id "org/name" has no revision "v9"; give a branch, a tag' in refusal("org/name@v9")


def test_a_gated_repository(hub):
    assert 'hub id "org/gated" is gated; ask for access on its page' in refusal("org/gated")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble(hub, status):
    hub.status = status
    assert f"the hub answered with status {status}; try again later" in refusal("org/name")


def test_a_repository_without_a_checkpoint(hub):
    hub.repositories["org/none"] = {"README.md": b"", "unet/model.safetensors": ONE}
    assert "holds no safetensors or PyTorch checkpoint at its top" in refusal("org/none", FormatError)


def test_a_repository_with_several(hub):
    hub.repositories["org/two"] = {"x.safetensors": ONE, "y.safetensors": ONE}
    assert '"org/two" holds 2 checkpoints (x.safetensors, y.safetensors)' in refusal("org/two", FormatError)


def test_an_index_on_the_hub_that_leaves_its_folder(hub, tmp_path):
    index = json.dumps({"weight_map": {"a": "../../../secret.safetensors"}}).encode()
    hub.repositories["org/bad"] = {"model.safetensors.index.json": index}
    assert "lies outside its folder" in refusal("org/bad", FormatError)
