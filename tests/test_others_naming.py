"""The others of a sweep: paths, globs in natural order, manifests of three kinds, hub ids, and what may be wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weighbridge.engine.errors import CheckpointNotFoundError, FormatError, OptionError, ReadError
from weighbridge.engine.others import Other, find_others, natural_key


def labels(*sources, manifest=None):
    return [other.label for other in find_others(sources, manifest)]


def test_globs_are_in_natural_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in (10, 2, 100, 1):
        (tmp_path / "run-b" / f"checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "run-a" / "checkpoint-3").mkdir(parents=True)
    assert labels("run-*/checkpoint-*") == [
        "run-a/checkpoint-3", *(f"run-b/checkpoint-{step}" for step in (1, 2, 10, 100))
    ]  # fmt: skip
    assert labels("run-b/checkpoint-1*", "run-b/checkpoint-2")[-1] == "run-b/checkpoint-2"  # sources as they are named
    assert labels("**/checkpoint-3") == ["run-a/checkpoint-3"]


def test_a_path_that_exists_is_no_glob(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a[1]").mkdir()
    (tmp_path / "a1").mkdir()
    assert labels("a[1]") == ["a[1]"]
    assert labels("a[1-2]") == ["a1"]


def test_hub_ids_are_left_as_they_are():
    assert labels("org/name@main", "name", "org/name@main") == ["org/name@main", "name"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, unique=True))
def test_numbers_sort_as_numbers(numbers):
    names = [f"checkpoint-{number}" for number in numbers]
    assert sorted(names, key=natural_key) == [f"checkpoint-{number}" for number in sorted(numbers)]


@settings(deadline=None)
@given(st.lists(st.text()))
def test_any_names_can_be_sorted(names):
    assert sorted(sorted(names, key=natural_key, reverse=True), key=natural_key) == sorted(names, key=natural_key)


def write(tmp_path, text, encoding="utf-8"):
    (tmp_path / "others").write_bytes(text.encode(encoding))
    return tmp_path / "others"


def test_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c-1").mkdir()
    path = write(tmp_path, "# a run\n\norg/name\n  c-*\r\na, b\n")
    assert labels(manifest=path) == ["org/name", "c-1", "a, b"]


def test_csv_with_labels_and_typed_columns(tmp_path):
    text = '\ufefflabel,path,step,loss,note,seen\none,"a,b",10,0.5,first,\n,c,2,1e-3,07x,3\n'
    assert find_others((), write(tmp_path, text)) == [
        Other("a,b", "one", {"step": 10, "loss": 0.5, "note": "first", "seen": None}),
        Other("c", "c", {"step": 2, "loss": 1e-3, "note": "07x", "seen": 3}),
    ]


def test_json_lines(tmp_path):
    lines = [{"source": "a", "label": "one", "step": 3, "good": True, "note": None}, {"checkpoint": "b", "step": 4.5}]
    path = write(tmp_path, "\n".join(map(json.dumps, lines)) + "\n\n")
    assert find_others((), path) == [
        Other("a", "one", {"step": 3, "good": True, "note": None}), Other("b", "b", {"step": 4.5})
    ]  # fmt: skip


def test_others_are_taken_as_they_are_and_share_the_labels(tmp_path):
    one = Other("a", "one", {"step": 1})
    assert find_others(["z", one, one], write(tmp_path, "b\n")) == [Other("z", "z"), one, Other("b", "b")]
    with pytest.raises(OptionError, match='the label "one" stands for "a" and for "b"'):
        find_others([one, Other("b", "one")])


def test_sources_come_before_the_manifest_and_doubles_are_one(tmp_path):
    assert labels("z", "b", manifest=write(tmp_path, "a\nb\n")) == ["z", "b", "a"]


def test_one_source_under_two_labels_is_two(tmp_path):
    path = write(tmp_path, "path,label\na,one\na,two\n")
    assert [(other.source, other.label) for other in find_others((), path)] == [("a", "one"), ("a", "two")]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", FormatError, "names no checkpoint"),
        ("# nothing\n", FormatError, "names no checkpoint"),
        ("path,label\na,x\nb,x\n", OptionError, 'the label "x" stands for "a" and for "b"'),
        ("path,step\na\n", FormatError, "line 2: 1 cells and 2 columns"),
        ("path,step\na,1,2\n", FormatError, "line 2"),
        ('path,step\n"a,1\n', FormatError, "line 2"),
        ("path,step\n,1\n", FormatError, "line 2 names no checkpoint"),
        ('{"path": "a"}\n{"path": \n', FormatError, "line 2 is not JSON"),
        ('{"path": "a"}\n[1]\n', FormatError, "line 2 is list, not an object"),
        ('{"path": 3}\n', FormatError, 'line 1: "path" is 3'),
        ('{"path": "a", "step": [1]}\n', FormatError, r'line 1: "step" is \[1\]'),
        ('{"step": 1}\n', FormatError, "line 1 names no checkpoint"),
    ],
)
def test_what_is_wrong_with_a_manifest(tmp_path, text, error, words):
    with pytest.raises(error, match=words):
        find_others((), write(tmp_path, text))


def test_what_cannot_be_found(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"none-\*.* matches no file or folder"):
        find_others([f"{tmp_path}/none-*"])
    with pytest.raises(ReadError, match="cannot be read: No such file"):
        find_others((), tmp_path / "none")
    with pytest.raises(FormatError, match="byte 1 is not UTF-8"):
        find_others((), write(tmp_path, "a\xff", "latin-1"))
    with pytest.raises(OptionError, match="there is no checkpoint to compare"):
        find_others(())
