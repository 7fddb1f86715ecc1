"""A sweep of small files for the tests of what is shown of it."""

import json
import os
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import save_file

import weighbridge

STEPS = (20, 30, 100)


def swept(folder):
    """A base and four others under labels that try to be markup, the last of them truncated; `folder`/out."""
    rng = np.random.default_rng(5)
    base = {"embeddings.word_embeddings.weight": rng.standard_normal((6, 4)), "gone.weight": np.ones(3)}
    for layer in range(12):
        base[f"layer.{layer}.dense.weight"] = rng.standard_normal((5, 4))
        base[f"layer.{layer}.dense.bias"] = np.zeros(5)
        base[f"layer.{layer}.LayerNorm.weight"] = np.ones(5)
    base["odd.weight"] = np.ones((2, 3))
    base = {name: array.astype(np.float32) for name, array in base.items()}
    save_file(base, folder / "base.safetensors")
    lines = []
    for step in STEPS:
        other = {n: a + (np.float32(step * 1e-4) if "0.dense" in n else np.float32(0)) for n, a in base.items()}
        other["embeddings.word_embeddings.weight"] = rng.standard_normal((8, 4)).astype(np.float32)
        other["odd.weight"] = np.ones(3, np.float32)
        del other["gone.weight"]
        save_file(other, folder / f"{step}.safetensors")
        lines.append({"source": str(folder / f"{step}.safetensors"), "label": f"<b>a_$x^{step}$", "step": step})
    (folder / "bad.safetensors").write_bytes(b"x" * 50)
    lines.append({"source": str(folder / "bad.safetensors"), "label": "bad", "step": None})
    (folder / "others.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return weighbridge.sweep(folder / "base.safetensors", out=folder / "out", manifest=folder / "others.jsonl")


def family(folder, count, *, seed=3, elements=3000):
    """`folder`/base.safetensors and `o-1`, `o-2`, … of it plus noise; the paths of the base and of the others."""
    rng = np.random.default_rng(seed)
    base = {f"layer.{n}.dense.weight": rng.standard_normal((elements // 100, 100)).astype("f4") for n in range(4)}
    base |= {f"layer.{n}.dense.bias": rng.standard_normal(7).astype("f4") for n in range(4)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(base, folder / "base.safetensors")
    others = []
    for number in range(1, count + 1):
        noisy = {n: a + rng.standard_normal(a.shape).astype("f4") * np.float32(1e-3) for n, a in base.items()}
        others.append(folder / f"o-{number}.safetensors")
        save_file(noisy, others[-1])
    return folder / "base.safetensors", others


def contents(out):
    """All that a sweep's folder says: name -> bytes of each row file, and the manifest."""
    found = {path.name: path.read_bytes() for path in sorted((out / "rows").iterdir())}
    return found | {"sweep.json": json.loads((out / "sweep.json").read_text())}


@contextmanager
def mapped_without_pages(like, disk):
    """A checkpoint in the new folder `disk` that sends SIGBUS when its map is read, as a file does that shrinks.

    It is sparse and lies in a full memory file system, so that no page can be made for what is read.
    """
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    try:
        data = like.read_bytes()
        (disk / "o-0.safetensors").write_bytes(data[: 8 + int.from_bytes(data[:8], "little")])
        os.truncate(disk / "o-0.safetensors", len(data))
        yield disk / "o-0.safetensors"
    finally:
        subprocess.run(["umount", disk], check=True)


class Silent:
    """A progress that says nothing; tests do what they like at its calls."""

    def start(self, plan):
        pass

    def reading(self, nbytes):
        pass

    def finished(self, nbytes, outcomes):
        pass

    def say(self, text):
        pass

    def close(self):
        pass
