"""Mutated safetensors files, and the question whether we take them as the safetensors library does.

    PYTHONPATH=tests python -m support.fuzz_safetensors --cases 1000000 --seed 1

Case number n of a seed is always the same file. A case fails where we accept what the library refuses or the other
way round, where a tensor's name, dtype, shape or bytes are not the library's, where a tensor leaves the file, where
anything but a WeighbridgeError is raised, or where it takes longer than TIME_LIMIT_SECONDS.
"""

import argparse
import ctypes
import faulthandler
import json
import os
import random
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save

from weighbridge.engine.errors import WeighbridgeError
from weighbridge.engine.formats import open_checkpoint
from weighbridge.engine.reading import Files

TIME_LIMIT_SECONDS = 20

_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I64", "I32", "I16", "I8", "U8", "BOOL", "F4")
_DTYPES += ("F6_E2M3", "C64", "f32", "F32 ", "F128", "", "FLOAT32", "U64")
_NUMBERS = ("0", "1", "3", "-1", "-0", "1.0", "1e2", "1E400", "00", "0x10", "NaN", "Infinity", "null", "true", '"4"')
_NUMBERS += ("4294967296", "9223372036854775808", "18446744073709551615", "18446744073709551616", "9" * 30, "7" * 5000)
_NAMES = (
    "a",
    "",
    "é",
    "\u202egnp",
    "\x1b[31m",
    "a\nb",
    "\0",
    "😀",
    "__metadata__",
    "<b>",
    "x" * 70_000,
    "\ufeff",
    "\x7f",
)
_RAW_NAMES = (
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\\u0061"',
    '"a\x01"',
    '"\\x41"',
    '"\\/"',
    "'a'",
    "a",
    '"\\u00"',
    '"\xff"',
)
_VALUES = ("{}", "[]", "null", "1", '""', "[" * 200 + "]" * 200, '{"a":' * 127 + "1" + "}" * 127, "[" * 3000, "{" * 50)
_FIELDS = ("dtype", "shape", "data_offsets", "Dtype", "strides", "__metadata__")


def seeds() -> list[tuple[dict[str, dict], dict[str, str] | None, bytes]]:
    """Files that the library takes, as (entries in order, metadata, bytes of tensors)."""
    found = []
    rng = np.random.default_rng(1)
    plans: list[tuple[dict[str, tuple[str, list[int], int]], dict[str, str] | None]] = [
        ({"weight": ("F32", [2, 3], 24), "bias": ("F32", [3], 12)}, {"format": "pt"}),
        ({"a": ("BF16", [5], 10), "b": ("F8_E4M3", [7], 7), "c": ("I64", [], 8), "empty": ("F32", [0, 4], 0)}, None),
        ({f"encoder.layer.{n}.dense.weight": ("F16", [2, 2], 8) for n in range(12)}, {"step": "100", "é": "<b>"}),
        ({"none": ("F32", [0], 0), "nothing": ("F32", [0], 0), "one": ("U8", [1, 1, 1], 1)}, {}),
        ({"x": ("F4", [4], 2), "y": ("BOOL", [3], 3), "z": ("C64", [2], 16)}, None),
    ]
    for plan, metadata in plans:
        tensors = {
            name: {"dtype": dtype, "shape": shape, "data": rng.integers(0, 256, nbytes, np.uint8).tobytes()}
            for name, (dtype, shape, nbytes) in plan.items()
        }
        found.append(_parts(_laid_out(tensors, metadata)))
    written = {f"model.layers.{n}.mlp.up_proj.weight": rng.standard_normal((3, n)).astype(np.float32) for n in range(4)}
    found.append(_parts(save(written | {"lm_head.weight": np.arange(6, dtype=np.int64)}, {"format": "pt"})))
    return found


def _parts(whole: bytes) -> tuple[dict[str, dict], dict[str, str] | None, bytes]:
    header_bytes = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + header_bytes])
    return entries, entries.pop("__metadata__", None), whole[8 + header_bytes :]


def _laid_out(tensors: dict[str, dict], metadata: dict[str, str] | None) -> bytes:
    """A file as the library's writer lays it out, of dtypes that its NumPy interface cannot write as well."""
    entries: dict[str, dict] = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, each in tensors.items():
        entries[name] = {k: each[k] for k in ("dtype", "shape")} | {
            "data_offsets": [len(body), len(body + each["data"])]
        }
        body += each["data"]
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    whole = len(header).to_bytes(8, "little") + header + body
    deserialize(whole)  # the library takes it
    return whole


class Cases:
    """The mutated files of a seed, by number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.seeds = seeds()

    def make(self, number: int) -> tuple[bytes, int]:
        """A case: the bytes with which the file begins, and its size (more than the bytes where it ends in a hole)."""
        rng = random.Random(self.seed << 40 | number)
        entries, metadata, body = rng.choice(self.seeds)
        texts = [(json.dumps(name), _fields(entry)) for name, entry in entries.items()]
        if metadata is not None:
            texts.insert(rng.randrange(len(texts) + 1), ('"__metadata__"', json.dumps(metadata)))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            rng.choice(_MUTATIONS)(rng, texts)
        pieces = [f"{name}:{value if isinstance(value, str) else _text(value)}" for name, value in texts]
        header = ("{" + rng.choice((",", ", ")).join(pieces) + "}").encode("utf-8", "surrogatepass")
        if rng.random() < 0.3:
            header = _mutated_bytes(rng, header)
        if rng.random() < 0.5:
            header += b" " * (-len(header) % 8)
        announced = len(header) if rng.random() < 0.9 else _number(rng, len(header))
        if rng.random() < 0.1:
            body = rng.choice((body[:-1], body + b"\0", b"", body * 2, body[1:], body + bytes(4096)))
        whole = announced.to_bytes(8, "little") + header + body
        if rng.random() < 0.03:
            whole = whole[: rng.randrange(len(whole))]
        hole = 0
        if rng.random() < 0.01:  # a sparse file that claims terabytes, rightly or not
            huge = rng.choice((1 << 30, 1 << 40, 3 << 40))
            entry = {"dtype": "U8", "shape": [huge], "data_offsets": [0, huge + (rng.random() < 0.2)]}
            header = json.dumps({rng.choice(_NAMES[:6]): entry}).encode()
            whole, hole = len(header).to_bytes(8, "little") + header, huge + (rng.random() < 0.2)
        return whole, len(whole) + hole


def _fields(entry: dict) -> list[tuple[str, str]]:
    return [(json.dumps(key), json.dumps(value)) for key, value in entry.items()]


def _text(fields: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{key}:{value}" for key, value in fields) + "}"


def _entry(rng, texts):
    """One entry's list of fields, to be changed in place; None where there is none."""
    lists = [value for _, value in texts if not isinstance(value, str)]
    return rng.choice(lists) if lists else None


def _change_field(rng, texts):
    if fields := _entry(rng, texts):
        at = rng.randrange(len(fields))
        key = fields[at][0]
        if key == '"dtype"':
            value = json.dumps(rng.choice(_DTYPES))
        elif rng.random() < 0.3:
            value = "[" + ",".join(rng.choice(_NUMBERS) for _ in range(rng.randrange(5))) + "]"
        else:
            numbers = [int(digits) for digits in re.findall(r"\b\d{1,19}\b", fields[at][1][:200])] or [1]
            numbers = [max(0, each + rng.choice((-4, -1, 0, 0, 1, 4, 1 << 20, 1 << 62))) for each in numbers]
            rng.random() < 0.3 and numbers.append(1)
            value = json.dumps(numbers)
        fields[at] = (key, value)


def _extra_field(rng, texts):
    if fields := _entry(rng, texts):
        key, value = json.dumps(rng.choice(_FIELDS)), rng.choice(_VALUES + _NUMBERS)
        fields.insert(rng.randrange(len(fields) + 1), (key, value))


def _drop_field(rng, texts):
    if fields := _entry(rng, texts):
        fields.pop(rng.randrange(len(fields)))


def _double_field(rng, texts):
    if fields := _entry(rng, texts):
        fields.append(rng.choice(fields))


def _rename(rng, texts):
    if texts:
        at = rng.randrange(len(texts))
        name = json.dumps(rng.choice(_NAMES), ensure_ascii=rng.random() < 0.5) if rng.random() < 0.6 else None
        texts[at] = (name or rng.choice(_RAW_NAMES), texts[at][1])


def _double_name(rng, texts):
    if texts:
        texts[rng.randrange(len(texts))] = (rng.choice(texts)[0], rng.choice(texts)[1])


def _repeat(rng, texts):
    """The same name once more, as its own copy or a bare value."""
    if texts:
        name, value = rng.choice(texts)
        texts.append((name, list(value) if not isinstance(value, str) else value))


def _swap(rng, texts):
    rng.shuffle(texts)


def _drop(rng, texts):
    if texts:
        texts.pop(rng.randrange(len(texts)))


def _value(rng, texts):
    texts.insert(rng.randrange(len(texts) + 1), (json.dumps(rng.choice(_NAMES)), rng.choice(_VALUES + _NUMBERS)))


def _metadata(rng, texts):
    value = rng.choice(_VALUES) if rng.random() < 0.5 else json.dumps({rng.choice(_NAMES): rng.choice(_NAMES)})
    texts.insert(rng.randrange(len(texts) + 1), ('"__metadata__"', value))


def _empty_tensor(rng, texts):
    at = rng.choice((0, 0, 10, 36))
    shape = rng.choice(([0], [0, 5], [1 << 62, 0], [0, 1 << 62, 8]))
    entry = {"dtype": rng.choice(_DTYPES[:12]), "shape": shape, "data_offsets": [at, at]}
    texts.insert(rng.randrange(len(texts) + 1), (json.dumps(rng.choice(_NAMES)), _fields(entry)))


def _many(rng, texts):
    """A huge count of entries or of dimensions."""
    if rng.random() < 0.05:
        texts.extend(
            (f'"many.{n}"', _fields({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})) for n in range(3000)
        )
    elif fields := _entry(rng, texts):
        fields[:] = [(key, "[" + "1," * 2000 + "1]" if key == '"shape"' else value) for key, value in fields]


_MUTATIONS = (_change_field,) * 5 + (_extra_field, _drop_field, _double_field, _rename, _rename, _double_name, _repeat)
_MUTATIONS += (_swap, _swap, _drop, _value, _metadata, _empty_tensor, _empty_tensor, _many)


def _mutated_bytes(rng: random.Random, header: bytes) -> bytes:
    changed = bytearray(header)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 2:
                del changed[at : at + rng.choice((1, 1, 2, 8))]
            case 3:
                changed[at:at] = rng.choice((b" ", b"\t", b"\n", b"\0", b",", b"{", b"}", b'"', b"\\", b"\xef\xbb\xbf"))
            case 4:
                changed[at:at] = changed[at : at + rng.randrange(40)]
            case _:
                changed[at : at + 1] = str(rng.choice((0, 1, 9, 10**19, 10**25))).encode()
    return bytes(changed)


def _number(rng: random.Random, near: int) -> int:
    close = max(0, near + rng.choice((-8, -1, 1, 8, 100)))
    return rng.choice((close, close, 0, 1, 100_000_000, 100_000_001, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1))


# The two answers


def theirs(path: str, whole: bytes, size: int) -> dict[str, tuple[str, tuple[int, ...], bytes | None]] | None:
    """What the library makes of a file: name -> dtype, shape, bytes (None in a hole); None where it refuses."""
    try:
        if size == len(whole):
            views = deserialize(whole)
            return {name: (view["dtype"], tuple(view["shape"]), bytes(view["data"])) for name, view in views}
        with safe_open(path, framework="np") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {name: (each.get_dtype(), tuple(each.get_shape()), None) for name, each in slices.items()}
    except SafetensorError:
        return None


def ours(path: str, whole: bytes, size: int) -> dict[str, tuple[str, tuple[int, ...], bytes | None]] | None:
    """What we make of it, the bytes read where our map says that they are."""
    try:
        opened = open_checkpoint(path)
    except WeighbridgeError as error:
        assert str(error).endswith(".") and len(str(error)) < 80_000
        return None
    found = {}
    with Files("map") as files:
        for name, ref in opened.tensors.items():
            assert ref.offset is not None and 8 <= ref.offset <= ref.offset + ref.nbytes <= size, (
                f"{ref} leaves the file"
            )
            data = ctypes.string_at(files.address(ref, ref.nbytes), ref.nbytes) if size == len(whole) else None
            found[name] = (ref.dtype, ref.shape, data)
        files.check_unchanged()
    return found


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: a case is a file, and disks would be most of the time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


def run(first: int, count: int, seed: int, folder: Path) -> Counter[str]:
    """Run cases; returns how many were accepted and refused.

    Raises:
        AssertionError: a case on which the two differ; its file stays in the folder.
    """
    cases = Cases(seed)
    tally: Counter[str] = Counter()
    path = str(folder / "case.safetensors")
    for number in range(first, first + count):
        whole, size = cases.make(number)
        with open(path, "wb") as file:
            file.write(whole)
            if size > len(whole):
                os.ftruncate(file.fileno(), size)
        started = time.perf_counter()
        mine = ours(path, whole, size) if size else None
        assert time.perf_counter() - started < TIME_LIMIT_SECONDS, f"case {number} of seed {seed} takes too long"
        wanted = theirs(path, whole, size) if size else None
        if mine != wanted:
            raise AssertionError(f"case {number} of seed {seed}: the library {_said(wanted)}, we {_said(mine)}; {path}")
        if wanted is not None and number % 16 == 0:  # that the two ways into the library are one
            with safe_open(path, framework="np") as handle:
                assert set(handle.keys()) == set(wanted)
        tally["sparse"] += size > len(whole)
        tally["accepted" if wanted is not None else "refused"] += 1
        tally["tensors compared"] += len(wanted or ())
    return tally


def _said(answer: dict | None) -> str:
    return "refuse it" if answer is None else f"accept {[(name[:40], *each[:2]) for name, each in answer.items()][:6]}"


def main() -> None:
    """Run many cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    started = time.perf_counter()
    tally: Counter[str] = Counter()
    with quick_folder() as folder:
        for first in range(wanted.first, wanted.first + wanted.cases, 10_000):
            faulthandler.dump_traceback_later(600, exit=True)  # a hang within native code
            tally += run(first, min(10_000, wanted.first + wanted.cases - first), wanted.seed, folder)
            done = first + 10_000 - wanted.first
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{done:,} cases, {time.perf_counter() - started:,.0f} s, {peak:,.0f} MiB: {dict(tally)}", flush=True)


if __name__ == "__main__":
    main()
