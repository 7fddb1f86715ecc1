"""The benchmarks' own instruments: things are timed in turn, rows replace what they measure again, losses are shown."""

import time
from types import SimpleNamespace

import pytest
from render import BEGIN, END, replaced, table

from measuring import Row, Times, bare_sum, command, in_turn, record, recorded


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
    times = in_turn(Benchmark(), {"a": lambda: None, "b": lambda: 0.25}, rounds=3)
    assert times.seconds["b"] == [0.25] * 3


def test_ratio_is_of_medians():
    times = Times({"ours": [1, 9, 2], "theirs": [4, 4, 100]})
    assert times.ratio("theirs") == 0.5


def test_a_failing_command_is_not_timed():
    with pytest.raises(Exception, match="non-zero exit status 3"):
        command("sh", "-c", "exit 3")()


def test_ceiling_reads_any_file(tmp_path):
    (tmp_path / "odd").write_bytes(bytes(4099))
    bare_sum(tmp_path / "odd")()


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
    found = table([row, lost])
    assert "| ours | 0.200 | theirs | 0.500 | **0.40** | <= 0.5 | cat: 0.100 s |" in found
    assert "| ours | 0.200 | cat | 0.100 | **2.00** | <= 0.5, missed | cat: 0.100 s |" in found


def test_only_what_is_between_the_markers_changes(row):
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    new = replaced(text, [row])
    assert new.startswith(f"before\n{BEGIN}\n") and new.endswith(f"\n{END}\nafter\n") and "old" not in new
    assert replaced(new, [row]) == new
    with pytest.raises(SystemExit, match="once each"):
        replaced("no markers", [row])
