"""The demo: BERT and five vision-and-language models built on it, written to disk and compared.

The names, shapes, tied names, configs and on-disk layout are those of `bert-base-uncased` and of the five controlled
VoLTA checkpoints (`data/volta/*.json`). The weights are drawn: BERT's from a fixed seed, and in each of the five the
tensors that began as BERT's are BERT's plus a little noise. By default every width is an eighth of the true one, so
that all six take some 75 MB; `full` writes the true 5.3 GB.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.threads import thread_pool
from .errors import OutputError
from .naming import kind_of

if TYPE_CHECKING:
    from .table import Comparison

__all__ = ["BASE", "DEFAULT_OUT", "OTHERS", "Layout", "layout", "run", "sources", "values", "write"]

BASE = "bert-base-uncased"
OTHERS = ("ctrl_visual_bert", "ctrl_uniter", "ctrl_vl_bert", "ctrl_lxmert", "ctrl_vilbert")
DEFAULT_OUT = Path("demo-checkpoints")

_RECIPE = 1  # raise it when the files that `write` makes change, so that older ones are not taken for them
_MANIFEST = "demo.json"

# Every dimension and every config field holding one shrinks through this table, so shapes stay consistent with each
# other and with the config: 12 heads of 8 instead of 12 of 64. Values that are not here (1, 2, 3, 5, 37) stay.
_REDUCED = {
    30522: 2048,  # vocabulary
    4096: 512,  # VL-BERT's image feature beside its coordinates
    3072: 384,  # feed-forward
    2048: 256,  # image feature
    1601: 201,  # image classes
    1024: 128,  # pooler
    768: 96,  # hidden
    512: 64,  # positions
    256: 32,  # coordinate embedding
}

# kind -> mean and standard deviation of BERT's values, standard deviation of what the other adds. Of the order of
# what the real checkpoints show; cosines come out between 0.95 and 1.
_DISTRIBUTIONS = {
    "layer_norm_weight": (0.85, 0.05, 0.02),
    "layer_norm_bias": (0.0, 0.1, 0.008),
    "normal_bias": (0.0, 0.05, 0.01),
    "normal_weight": (0.0, 0.04, 0.012),
    "other": (0.0, 0.02, 0.005),
}

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(attention|intermediate|output)\.(.+)")


@dataclass(frozen=True, slots=True)
class Layout:
    """What one checkpoint of the demo looks like on disk.

    Attributes:
        name: the name of its folder.
        config: what its `config.json` holds.
        shapes: tensor name -> shape, every name that is in the file.
        tied: name -> the name whose values it shares.
    """

    name: str
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    tied: dict[str, str]

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors; a tied one is written under each of its names."""
        return 4 * sum(math.prod(shape) for shape in self.shapes.values())


def layout(name: str, full: bool = False) -> Layout:
    """The layout of one checkpoint, at its true size or with every width an eighth of it."""
    path = resources.files(__package__).joinpath("data", "volta", f"{name}.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    sizes: dict[int, int] = {} if full else _REDUCED
    config = {
        key: sizes.get(value, value) if type(value) is int else value  # not bool, which is an int too
        for key, value in data["config"].items()
    }
    shapes = {tensor: tuple(sizes.get(size, size) for size in shape) for tensor, _, shape in data["checkpoint"]}
    tied = {alias: group[0] for group in data["tied"] for alias in group[1:]}
    return Layout(name, config, shapes, tied)


def sources(base: Layout, other: Layout) -> dict[str, str]:
    """Which tensors of a VoLTA checkpoint began as which of BERT's: other's name -> base's name.

    Worked out from the config alone and not by `engine.matching`, so that the demo can show the matcher wrong.
    """
    attention = other.config["bert_layer2attn_sublayer"]
    feed_forward = other.config["bert_layer2ff_sublayer"]
    found = {}
    for name in base.shapes:
        if not name.startswith("bert."):
            continue
        tail = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
        tail = tail.replace("LayerNorm.beta", "LayerNorm.bias")
        if parts := _LAYER.fullmatch(tail):
            number, block, rest = parts.groups()
            if block == "attention":
                tail = f"encoder.layer.{attention[number]}.attention_{rest}"
            else:
                tail = f"encoder.layer.{feed_forward[number]}.{block}.{rest}"
        if f"volta.{tail}" in other.shapes:
            found[f"volta.{tail}"] = name
    return found


def values(name: str, shape: tuple[int, ...], seed: str = BASE) -> np.ndarray:
    """BERT's values for one tensor, float32; they depend on the name, the shape and the seed alone."""
    mean, deviation, _ = _DISTRIBUTIONS[kind_of(name)]
    return _normal(f"{seed}/{name}", shape, deviation) + np.float32(mean)


def write(
    full: bool = False,
    out: Path | None = None,
    threads: int | None = None,
    say: Callable[[str], None] | None = None,
    others: Sequence[str] = OTHERS,
) -> list[Path]:
    """Writes the checkpoints, `<out>/<name>/{model.safetensors,config.json}`, unless they are there already.

    Args:
        full: the true size (5.3 GB, one checkpoint of at most 1.1 GB in memory at a time) instead of an eighth of
            every width.
        out: where; `demo-checkpoints` in the current folder when None.
        threads: how many tensors are drawn at once; all cores when None. The files do not depend on it.
        say: what is told of the progress, a sentence at a time; stderr when None.
        others: which of the five to write beside BERT.
    Returns:
        The folders, the base first.
    Raises:
        OutputError: too little room on the disk, a file in the way that the demo did not write, or no permission.
    """
    out = DEFAULT_OUT if out is None else Path(out)
    say = _to_stderr if say is None else say
    layouts = [layout(name, full) for name in (BASE, *others)]
    folders = [out / entry.name for entry in layouts]
    wanted: dict[str, Any] = {"recipe": _RECIPE, "full": full, "bytes": {entry.name: entry.nbytes for entry in layouts}}
    there = _read_manifest(out / _MANIFEST)
    if there == {**wanted, "complete": True} and all(map(_is_whole, layouts, folders)):
        say(f"{out} holds the demo's checkpoints already; they are used as they are.")
        return folders
    if there is None:
        _refuse_to_overwrite(folders)
    _check_room(out, layouts, ours=there is not None)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Before the first checkpoint, so that what an interrupted run leaves behind is known to be the demo's own.
        _write_whole(out / _MANIFEST, json.dumps({**wanted, "complete": False}, indent=1).encode())
        for entry, folder in zip(layouts, folders, strict=True):
            say(f"writing {folder} ({entry.nbytes / 1e6:,.0f} MB)")
            _write_checkpoint(layouts[0], entry, folder, threads)
        _write_whole(out / _MANIFEST, json.dumps({**wanted, "complete": True}, indent=1).encode())
    except OSError as error:
        raise OutputError(
            f"the demo's checkpoints could not be written to {out}: {error.strerror or error}; "
            "choose another folder with --out"
        ) from error
    return folders


def run(
    full: bool = False,
    out: Path | None = None,
    threads: int | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Comparison]:
    """Writes the demo's checkpoints (see `write`) and compares BERT with each of the five; one comparison for each."""
    from .compare import compare

    base, *others = write(full, out, threads, say)
    return [compare(base, other, threads=threads, say=say or _to_stderr) for other in others]


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _normal(key: str, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    """N(0, deviation²), float32, from a generator that the key alone seeds: the order of drawing does not matter."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    drawn = generator.standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(deviation)
    return drawn


def _descendant(base: Layout, other: Layout, name: str, source: str | None) -> np.ndarray:
    """The other's values for one tensor: BERT's plus noise in the rows that began as BERT's, fresh ones elsewhere."""
    shape = other.shapes[name]
    if source is None:
        return values(name, shape, seed=other.name)
    began = values(source, base.shapes[source])
    began += _normal(f"{other.name}/{name}/noise", began.shape, _DISTRIBUTIONS[kind_of(name)][2])
    if began.shape == shape:
        return began
    drawn = values(name, shape, seed=other.name)
    drawn[: len(began)] = began
    return drawn


def _write_checkpoint(base: Layout, entry: Layout, folder: Path, threads: int | None) -> None:
    from safetensors.numpy import save_file

    source = sources(base, entry) if entry is not base else {name: name for name in base.shapes}

    def draw(name: str) -> np.ndarray:
        if entry is base:
            return values(name, entry.shapes[name])
        return _descendant(base, entry, name, source.get(name))

    drawn_names = [name for name in entry.shapes if name not in entry.tied]
    with thread_pool(threads or os.cpu_count() or 1) as pool:
        tensors = dict(zip(drawn_names, pool.map(draw, drawn_names), strict=True))
    tensors |= {alias: tensors[name] for alias, name in entry.tied.items()}
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(folder / "config.json", json.dumps(entry.config, indent=2).encode() + b"\n")
    partial = folder / "model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, folder / "model.safetensors")


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "recipe" in found else None


def _is_whole(entry: Layout, folder: Path) -> bool:
    """Whether the files are there and of the right size; that they hold what they should is taken from the manifest."""
    weights = folder / "model.safetensors"
    return (folder / "config.json").is_file() and weights.is_file() and weights.stat().st_size > entry.nbytes


def _refuse_to_overwrite(folders: list[Path]) -> None:
    for folder in folders:
        for name in ("model.safetensors", "config.json"):
            if (folder / name).exists():
                raise OutputError(
                    f"{folder / name} is there already and was not written by the demo; it would be overwritten: "
                    "choose another folder with --out, or move it away"
                )


def _check_room(out: Path, layouts: list[Layout], ours: bool) -> None:
    needed = sum(entry.nbytes for entry in layouts)
    if ours:
        # What an earlier run left is replaced file by file, so its bytes come free as the new ones are written.
        needed -= sum(path.stat().st_size for path in out.glob("*/model.safetensors"))
    place = out.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"the demo's checkpoints take {needed / 1e9:.2f} GB and {place} has {free / 1e9:.2f} GB free; "
            "make room or choose another folder with --out"
        )
