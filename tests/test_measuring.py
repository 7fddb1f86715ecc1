"""The benchmarks' own instruments: things are timed in turn, rows replace what they measure again, losses are shown."""

import ast
import itertools
import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from render import BEGIN, END, accuracy_table, replaced, table

from weighbridge import open_checkpoint
from weighbridge.kernels import reference

from measuring import (
    Row,
    Seconds,
    Span,
    Times,
    bare_sum,
    ceiling,
    command,
    drop,
    in_turn,
    joined,
    joined_spans,
    moved,
    plainly,
    record,
    recorded,
    related,
    resident,
    row_of,
    size,
    spans,
    torch_dtype,
    warm,
    write,
    write_pair,
)
from measuring.accuracy import Errors, largest_error, record_errors, recorded_errors, relative_error

ROOT = Path(__file__).parent.parent


class Benchmark:
    """pytest-benchmark's fixture as far as `in_turn` uses it."""

    def pedantic(self, target, setup, rounds, iterations):
        data = []
        for _ in range(rounds):
            setup()
            started = time.perf_counter()
            target()
            data.append(time.perf_counter() - started)
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=data))


@pytest.fixture
def row():
    return Row(
        question="some_question",
        subject="ours",
        against="theirs",
        asked="<= 0.5",
        ratio=0.4,
        seconds={"ours": 0.2, "theirs": 0.5, "cat": 0.1},
        ceiling="cat",
        bytes=10**9,
        rounds=7,
    )


def test_runs_alternate_after_one_untimed_each():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = in_turn(Benchmark(), runs, rounds=2)
    assert "".join(order) == "abc" + "bca" * 2
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_run_may_time_a_part_of_itself():
    times = in_turn(Benchmark(), {"a": lambda: None, "b": lambda: Seconds(0.25), "c": lambda: 0.25}, rounds=3)
    assert times.seconds["b"] == [0.25] * 3
    assert all(seconds < 0.25 for seconds in times.seconds["c"])  # there it is an answer


def test_ratio_is_of_medians():
    times = Times({"ours": [1, 9, 2], "theirs": [4, 4, 100]})
    assert times.ratio("theirs") == 0.5


def test_a_failing_command_is_not_timed():
    with pytest.raises(Exception, match="non-zero exit status 3"):
        command("sh", "-c", "exit 3")()


def test_what_comes_before_comes_before_every_run():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    in_turn(Benchmark(), runs, rounds=2, before=lambda: order.append("-"))
    assert "".join(order) == "-a-b" + "-b-a" * 2


def test_the_first_run_can_be_left_out():
    order = []
    in_turn(Benchmark(), {name: lambda name=name: order.append(name) for name in "ab"}, rounds=1, untimed=False)
    assert "".join(order) == "ba"


def test_ceiling_reads_any_file(tmp_path):
    (tmp_path / "odd").write_bytes(bytes(4099))
    bare_sum(tmp_path / "odd")()
    bare_sum(Span(tmp_path / "odd", 3, 4098), np.zeros(7, np.uint8))()


def test_ceiling_sums_every_byte_once(monkeypatch):
    seen = []
    monkeypatch.setattr(ceiling, "_sum", lambda values: seen.append(values.copy()))
    data = np.arange(3 * (1 << 20), dtype=np.float32)
    bare_sum(data, threads=1)()
    assert len(seen) == 8
    np.testing.assert_array_equal(np.concatenate(seen), data)


def test_spans_that_touch_become_one():
    a, b = Path("a"), Path("b")
    found = joined_spans([Span(b, 0, 4), Span(a, 8, 12), Span(a, 0, 8), Span(a, 13, 20)])
    assert found == [Span(a, 0, 12), Span(a, 13, 20), Span(b, 0, 4)]


def test_a_dropped_file_is_cold_and_a_read_one_warm(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    try:
        drop(path)
    except RuntimeError as error:
        pytest.skip(str(error))  # a temporary folder that is memory itself
    assert resident(path) == 0
    assert warm(path) and resident(path) == 1


@pytest.mark.parametrize("code", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8"])
def test_made_up_weights_have_the_sums_that_are_said(tmp_path, code):
    block = related(code, 500)
    size = block.base.size // 500
    shapes = {"a": (25, 40), "b": (500,)}
    paths = [write(tmp_path / f"{n}.safetensors", shapes, code, itertools.repeat(side)) for n, side in enumerate(block)]
    tensors = joined(*map(open_checkpoint, paths))
    for tensor, times in zip(tensors, (2, 1), strict=True):
        raw = [
            np.fromfile(ref.file, np.uint8, count=tensor.elements * size, offset=ref.offset) for ref in tensor.operands
        ]
        exact = reference.tile_sums(raw, [code, code], np.array([[1, 0]]))
        for found, wanted in zip(plainly(*block, code, times), exact, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-13)
    assert sum(span.stop - span.start for span in joined_spans(spans(tensors))) == 2 * 1500 * size
    part = moved(tensors[1].operands[0], 100, 50)
    assert part.elements == 50
    assert np.fromfile(part.file, np.uint8, count=part.nbytes, offset=part.offset).tobytes() == (
        block.base[100 * size : 150 * size].tobytes()
    )


def test_a_pair_of_files_has_the_block_over_and_over(tmp_path, monkeypatch):
    monkeypatch.setattr(size, "SCALE", 0.5)
    block = related("F32", 2048)
    base, other = write_pair(tmp_path, block, 3, 200_000)
    assert (base.name, other.name) == ("8192-base.safetensors", "8192-other.safetensors")
    for path, side in ((base, block.base), (other, block.other)):
        tensors = open_checkpoint(path).tensors
        assert [(ref.name, ref.shape, ref.dtype) for ref in tensors.values()] == [
            (f"layer.{n}.weight", (8, 1024), "F32") for n in range(3)
        ]
        assert path.read_bytes().endswith(side.tobytes() * 12)
        assert torch_dtype("F32").itemsize * 8192 == tensors["layer.0.weight"].nbytes


@pytest.mark.parametrize(("asked", "ratio"), [("<= 0.5", 0.25), (">= 2", 4.0)])
def test_a_row_of_what_was_timed_in_turn(asked, ratio):
    times = Times({"ours": [1.0, 1.5, 1.0], "theirs": [4.0, 4.0, 6.0]})
    row = row_of("why", times, against="theirs", asked=asked, ceiling="theirs", nbytes=7, machine={"cpu": "abacus"})
    assert (row.subject, row.ratio, row.seconds, row.rounds) == ("ours", ratio, {"ours": 1.0, "theirs": 4.0}, 3)
    assert (row.question, row.bytes, row.machine) == ("why", 7, {"cpu": "abacus"}) and row.met


def test_speed_is_the_other_way_round():
    times = Times({"ours": [1], "theirs": [4]})
    assert times.ratio("theirs") == 0.25
    assert times.speed("theirs") == 4


@pytest.mark.parametrize(("asked", "met"), [("<= 0.5", True), ("<= 0.3", False), (">= 0.3", True), (">= 2", False)])
def test_met(row, asked, met):
    assert Row(**{**vars(row), "asked": asked}).met is met


def test_a_row_replaces_the_one_it_measures_again(row, tmp_path):
    record(row, tmp_path)
    record(Row(**{**vars(row), "machine": {**row.machine, "cores": 128}}), tmp_path)
    record(Row(**{**vars(row), "ratio": 0.45}), tmp_path)
    assert sorted((each.machine["cores"], each.ratio) for each in recorded(tmp_path)) == sorted(
        [(row.machine["cores"], 0.45), (128, 0.4)]
    )
    assert {"cpu", "cores", "memory_gib", "kernel"} == set(row.machine)
    assert {"python", "weighbridge", "numpy"} <= set(row.versions)


def test_table_shows_losses(row):
    lost = Row(**{**vars(row), "against": "cat", "ratio": 2.0})
    won = Row(**{**vars(row), "asked": ">= 2", "ratio": 2.5})
    found = table([row, lost, won])
    ours, cat = "ours: 0.200 s", "cat: 0.100 s"
    assert f"| some question | {ours} | theirs: 0.500 s | ≤ 0.5 × its time | **0.4 ×** | met | {cat} |" in found
    assert f"|  | {ours} | {cat} | ≤ 0.5 × its time | **2 ×** | **missed** | {cat} |" in found
    assert f"|  | {ours} | theirs: 0.500 s | ≥ 2 × its speed | **2.5 ×** | met | {cat} |" in found
    assert found.count("Medians of 7 rounds in turn") == 1


def test_question_is_asked_in_the_words_of_its_file(row):
    asked = Row(**{**vars(row), "question": "bert_pair"}).in_words
    assert asked.startswith("How long does it take") and asked.endswith("?")


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/test_*.py")), ids=lambda path: path.stem)
def test_every_benchmark_begins_with_a_question(path):
    first, blank, *rest = ast.get_docstring(ast.parse(path.read_text())).splitlines()
    assert first.endswith("?") and not blank and rest


@pytest.mark.parametrize(
    ("found", "exact", "error"),
    [
        (1.0, 1.0, 0),
        (0.0, 0.0, 0),
        (math.nan, math.nan, 0),
        (math.inf, math.inf, 0),
        (1.5, 1.0, 0.5),
        (1e-300, 0.0, math.inf),
        (math.inf, 1.0, math.inf),
        (math.nan, 1.0, math.inf),
        (1.0, math.inf, math.inf),
    ],
)
def test_relative_error(found, exact, error):
    assert relative_error(found, exact) == error


def test_errors_are_recorded_and_shown(tmp_path):
    assert largest_error("ab", [1.0, 2.5], [1.0, 2.0]) == (0.25, "b")
    row = Errors("subnormal", "F32", 1000, 1e-16, "dot", None, math.inf, "sum_sq", 0.5, "float32")
    record_errors([row], tmp_path / "accuracy.json")
    rows, stamp = recorded_errors(tmp_path / "accuracy.json")
    assert rows == [row]
    assert list(recorded(tmp_path)) == []  # they are no times
    shown = accuracy_table(rows, stamp)
    assert "| subnormal | F32 | 1,000 | 1e-16 (dot) | ∞ (sum_sq) |  | 5e-01 |" in shown
    assert stamp["date"] in shown


def test_only_what_is_between_the_markers_changes(row):
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    new = replaced(text, table([row]))
    assert new.startswith(f"before\n{BEGIN}\n") and new.endswith(f"\n{END}\nafter\n") and "old" not in new
    assert replaced(new, table([row])) == new
    with pytest.raises(SystemExit, match="once each"):
        replaced("no markers", "")
