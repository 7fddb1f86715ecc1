"""The questions about GPUs, tried out on the processor: they run, check their answers, and record nothing that way."""

import importlib.util
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from measuring import Row

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUESTIONS = sorted(path.stem for path in (BENCHMARKS / "gpu").glob("*.py") if "\ndef rows(" in path.read_text())


def ask(folder, *arguments, code=None):
    """`run.py` at a tiny scale with the portable backend; torch on one thread, for a busy machine's sake."""
    scale = {"WEIGHBRIDGE_BENCH_SCALE": "1e-5", "OMP_NUM_THREADS": "1"}
    scale["WEIGHBRIDGE_BENCH_FILES"] = str(folder / "files")
    line = ["-c", code] if code else [str(BENCHMARKS / "gpu" / "run.py")]
    options = ("--device", "cpu", "--backend", "portable", "--rounds", "1", "--results", str(folder / "results"))
    command = [sys.executable, *line, *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **scale}, check=False)


def test_every_question_runs(tmp_path):
    done = ask(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.split("\n\n")[-1].splitlines()
    assert "portable backend" in table[0] and "scale 1e-05" in table[0]
    assert len(table) == 2 + 10  # three dtypes of a pair, two of a star, one of each other question
    for words in (
        "a pair, F8_E4M3",
        "against 16, BF16",
        "120 pairs",
        "10,000 tensors",
        "197 pairs",
        "two files",
        "eleven",
    ):
        assert sum(words in line for line in table) == 1, words
    assert not (tmp_path / "results").exists()


def test_without_a_gpu_it_is_one_sentence(tmp_path):
    done = ask(tmp_path, "--backend", "gpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "the fused kernels cannot be measured on cpu: Triton has no kernels for cpu devices here\n"


@pytest.mark.parametrize("question", ["small_tensors", "resident_star"])
def test_a_wrong_answer_is_not_timed(tmp_path, question):
    code = (
        "import sys, numpy as np, weighbridge.kernels.portable as p\n"
        "finish = p.Tile.finish\n"
        "def wrong(self, *a):\n"
        "    selfs, pairs = finish(self, *a)\n"
        "    return selfs, pairs * (1 + 1e-10)\n"
        "p.Tile.finish = wrong\n"
        f"sys.path.insert(0, {str(BENCHMARKS / 'gpu')!r})\n"
        "import run; sys.exit(run.main())"
    )
    done = ask(tmp_path, "--only", question, code=code)
    assert done.returncode == 1
    assert f"FAILED   {question}" in done.stdout and "sum_abs_diff" in done.stdout
    assert " / " not in done.stdout.split("\n\n")[-1]  # no figure


def test_a_figure_that_fails_leaves_the_others(tmp_path):
    code = (
        "import sys, weighbridge.kernels.portable as p\n"
        "finish = p.Tile.finish\n"
        "def broken(self, *a):\n"
        "    assert self.decoders[0].code != 'F32'\n"
        "    return finish(self, *a)\n"
        "p.Tile.finish = broken\n"
        f"sys.path.insert(0, {str(BENCHMARKS / 'gpu')!r})\n"
        "import run; sys.exit(run.main())"
    )
    done = ask(tmp_path, "--only", "resident_pair", code=code)
    assert done.returncode == 1
    table = done.stdout.split("\n\n")[-1].splitlines()[2:]
    assert [line.split(" / ")[0].split(", ")[-1] for line in table] == ["BF16", "F8_E4M3", "figure 1"]
    assert table[-1].startswith("FAILED   resident_pair")


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """`run.py` beside tests that are not ours."""
    spec = importlib.util.spec_from_file_location("run", BENCHMARKS / "gpu" / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    (tmp_path / "tests").mkdir()
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "_WORKERS", 2)
    return run


@pytest.mark.parametrize(
    ("body", "seconds", "told"),
    [("pass", 300, None), ("assert False", 300, "pytest ended with 1"), ("time.sleep(600)", 5, "cut off after 5 s")],
)
def test_the_tests_that_need_a_gpu_are_run_and_cut_off(runner, tmp_path, body, seconds, told):
    test = f"import time, pytest\n@pytest.mark.gpu\ndef test_it():\n    {body}\n"
    slow = "\n@pytest.mark.gpu\n@pytest.mark.slow\ndef test_slow():\n    assert False\n"
    (tmp_path / "tests" / "test_kernels_mine.py").write_text(test + slow + "\ndef test_other():\n    assert False\n")
    (tmp_path / "tests" / "test_other.py").write_text("import what_is_not_installed_there\n")
    assert runner._test(seconds) == told


def test_the_tests_that_need_a_gpu_are_all_found(runner):
    for path in Path(__file__).parent.glob("test_*.py"):
        text = path.read_text()
        if path != Path(__file__) and ("mark.gpu" in text or "BACKENDS" in text):
            assert any(fnmatch(path.name, pattern) for pattern in runner.TESTS), path


def test_all_questions_are_asked_and_have_words():
    source = (BENCHMARKS / "gpu" / "__init__.py").read_text()
    assert len(QUESTIONS) == 7
    for question in QUESTIONS:
        assert f'"{question}"' in source
        row = Row(f"gpu_{question}", "a", "b", "<= 1", 1.0, {"a": 1.0, "b": 1.0}, "b", 1, 1, {}, {}, "", "")
        assert row.in_words.endswith("?")


def test_sizes_of_bert():
    text = (BENCHMARKS / "gpu" / "bert_pairs.py").read_text()
    start = text.index("def sizes(")
    space: dict = {}
    exec(text[start : text.index("def rows(")], space)
    sizes = space["sizes"](768)
    # bert-base-uncased without its pooler: 109,482,240 parameters less 768 * 768 + 768.
    assert len(sizes) == 197 and sum(sizes) == 109_482_240 - 768 * 769
    assert np.median(sizes) == 768
