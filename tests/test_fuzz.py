"""Files that nobody would write: safetensors against the library's own opinion, and every text file that is read."""

import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import weighbridge
from weighbridge.engine.errors import WeighbridgeError
from weighbridge.engine.formats import open_checkpoint, safetensors
from weighbridge.engine.others import find_others
from weighbridge.engine.rules.custom import read_rules_file

from support import fuzz_safetensors

CASES = 3000
few = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def test_safetensors_are_taken_as_the_library_takes_them():
    """A slice of what docs/reliability.md records a million of."""
    with fuzz_safetensors.quick_folder() as folder:
        tally = fuzz_safetensors.run(0, CASES, seed=2, folder=folder)
    assert tally["accepted"] + tally["refused"] == CASES
    assert tally["accepted"] > CASES // 10 and tally["sparse"] > 10


@pytest.mark.parametrize(
    "fault",
    [
        lambda patch: patch.setitem(safetensors.BITS, "F16", 8),
        lambda patch: patch.setattr(safetensors, "_NOT_COVERED", ""),
        lambda patch: patch.setattr(safetensors, "MAX_HEADER_BYTES", 100),
    ],
    ids=["a wrong size", "whatever the library refuses", "a limit of our own"],
)
def test_the_fuzzer_finds_planted_faults(tmp_path, monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises((AssertionError, ValueError, KeyError, TypeError, AttributeError)):
        fuzz_safetensors.run(0, 2000, seed=2, folder=tmp_path)


def test_empty_tensors_have_an_order(tmp_path):
    """All of them begin at byte 0: the header's order it is, in every process."""
    names = [f"t{number * 7 % 40}" for number in range(40)]
    entries = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    header = json.dumps(entries).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert open_checkpoint(tmp_path / "a.safetensors").names == names


# Text files. Keys and values that mean something, among others that do not.

SCALARS = st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.floats() | st.text(max_size=8)
NAMES = st.sampled_from(
    ["a", "b", "weight_map", "metadata", "one.safetensors", "../one.safetensors", "two.safetensors"]
)
JSON = st.recursive(
    SCALARS | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def survives(act):
    """The result, or None where it is refused with a sentence; any other exception is a failure."""
    try:
        return act()
    except WeighbridgeError as error:
        assert str(error).endswith((".", ")")) and len(str(error)) < 2000, str(error)
        return None


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for name, tensor in (("one", "a"), ("two", "b")):
        save_file({tensor: np.ones(2, np.float32)}, folder / f"{name}.safetensors")
    return folder


@few
@given(value=JSON | st.fixed_dictionaries({"weight_map": st.dictionaries(NAMES | st.text(max_size=5), NAMES | JSON)}))
@example(value={"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
def test_indices(shards, value):
    (shards / "model.safetensors.index.json").write_text(json.dumps(value))
    found = survives(lambda: open_checkpoint(shards))
    if found is not None:
        assert set(found.names) <= {"a", "b"} and all(str(shards) in file for file in found.files)


@few
@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(raw=b'{"weight_map": {"a": "\\ud800.safetensors"}}')
@example(raw=b'{"weight_map": {"\\ud800": "one.safetensors"}}')
@example(raw=b'{"weight_map": {"a": 1e999}}')
@example(raw=b'{"weight_map": ' + b"9" * 5000 + b"}")
@example(raw=b"\xff\xfe{\0}\0")
def test_indices_of_any_bytes(shards, raw):
    (shards / "model.safetensors.index.json").write_bytes(raw)
    survives(lambda: open_checkpoint(shards))


@few
@given(value=JSON)
def test_configs(shards, tmp_path_factory, value):
    folder = shards / "config"
    folder.mkdir(exist_ok=True)
    shutil.copy(shards / "one.safetensors", folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(value))
    found = survives(lambda: open_checkpoint(folder))
    if found is not None:
        survives(lambda: weighbridge.compare(found, folder))


KEYS = st.sampled_from(["rename", "pattern", "replacement", "side", "include", "exclude", "other", "x"])
PATTERNS = st.sampled_from(["a", "(", "a(b)", r"\1", r"\g<x>", "(?P<x>a)", "[", "*", "", "(a+)+$", "é"])
TOML = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | (PATTERNS | NAMES).map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: "[" + ", ".join(map(_toml, each)) + "]")
        | st.dictionaries(KEYS, inner, max_size=3).map(
            lambda each: "{" + ", ".join(f"{key} = {_toml(value)}" for key, value in each.items()) + "}"
        )
    ),
    max_leaves=8,
)


def _toml(value):
    return value if isinstance(value, str) else {True: "true", False: "false"}.get(value) or repr(value)


@few
@given(
    entries=st.lists(st.tuples(KEYS, TOML), max_size=4), renames=st.lists(st.lists(st.tuples(KEYS, TOML)), max_size=2)
)
@example(entries=[], renames=[[("pattern", '"a"'), ("replacement", '"b"')]])
def test_rules_files(tmp_path_factory, shards, entries, renames):
    lines = [f"{key} = {_toml(value)}" for key, value in entries]
    for fields in renames:
        lines += ["[[rename]]", *(f"{key} = {_toml(value)}" for key, value in fields)]
    path = shards / "rules.toml"
    path.write_text("\n".join(lines))
    if survives(lambda: read_rules_file(path)) is not None:
        one = str(shards / "one.safetensors")
        survives(lambda: weighbridge.match(one, one, rules_file=path))


@few
@given(raw=st.binary(max_size=80))
def test_rules_files_of_any_bytes(shards, raw):
    (shards / "rules.toml").write_bytes(raw)
    survives(lambda: read_rules_file(shards / "rules.toml"))


LINES = st.sampled_from(
    [
        "source,label,step",
        "path",
        '"a","b',
        "one.safetensors,x,1",
        "# a",
        "*.safetensors",
        "[",
        '{"source": "a"}',
        "\0",
        "\ufeff",
    ]
)


@few
@given(
    lines=st.lists(
        LINES
        | st.text(max_size=20)
        | st.dictionaries(st.sampled_from(["source", "path", "label", "step"]), JSON, max_size=4).map(json.dumps),
        max_size=5,
    ),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_manifests(shards, lines, ending):
    (shards / "others.txt").write_bytes(ending.join(lines).encode("utf-8", "surrogatepass"))
    found = survives(lambda: find_others([], shards / "others.txt"))
    if found is not None:
        assert len({other.label for other in found}) == len(found)


# Folders of results: what a stranger hands on, or a disk has damaged


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    for number in range(3):
        save_file({"a.weight": np.full(20, number, np.float32)}, folder / f"{number}.safetensors")
    weighbridge.sweep(folder / "0.safetensors", [folder / f"{n}.safetensors" for n in (1, 2)], out=folder / "out")
    return folder / "out"


def read_all(folder):
    results = weighbridge.open_results(folder)
    return results.table().to_pylist(), list(results.others), [results[each["label"]] for each in results.others]


def numbers(folder):
    """The rows, as texts (in which NaN equals itself), and which files are damaged: they are told of and left out."""
    results = weighbridge.open_results(folder)
    return list(map(repr, results.table(["delta", "cosine", "max_delta"]).to_pylist())), results.damaged


@few
@given(data=st.data())
def test_manifests_of_stores(store, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(store, folder / "out")
    manifest = json.loads((store / "sweep.json").read_text())
    place = data.draw(st.sampled_from(["top", "other", "text"]))
    if place == "text":
        raw = bytearray((store / "sweep.json").read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=6))
        (folder / "out/sweep.json").write_bytes(raw)
    else:
        entry = manifest if place == "top" else manifest["others"][0]
        key = data.draw(st.sampled_from(sorted(entry)))
        if data.draw(st.booleans()):
            del entry[key]
        else:
            entry[key] = data.draw(JSON)
        (folder / "out/sweep.json").write_text(json.dumps(manifest))
    survives(lambda: read_all(folder / "out"))
    shutil.rmtree(folder)


def test_no_bit_of_a_number_flips_unseen(store, tmp_path):
    """Every byte of a column of sums, one after the other."""
    shutil.copytree(store, tmp_path / "out")
    path = sorted((tmp_path / "out/rows").iterdir())[0]
    raw = path.read_bytes()
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(0)
    column = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "delta")
    whole, _ = numbers(store)
    for at in range(column.data_page_offset, column.data_page_offset + column.total_compressed_size):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        left, damaged = survives(lambda: numbers(tmp_path / "out")) or (whole, ())
        assert left == whole or (left == whole[1:] and damaged), f"byte {at:,} flipped unseen"


@few
@given(data=st.data())
def test_rows_of_stores(store, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(store, folder / "out")
    path = sorted((folder / "out/rows").iterdir())[0]
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if raw:
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    found = survives(lambda: numbers(folder / "out"))
    if found is not None:
        left, damaged = found
        whole, _ = numbers(store)
        assert left == whole or (left == whole[1:] and damaged), "a number that lies, or is gone without a word"
    survives(lambda: read_all(folder / "out"))
    shutil.rmtree(folder)
