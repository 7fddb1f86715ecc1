"""`weighbridge sweep`: exit status, what it says on a terminal and elsewhere, the plan that --dry-run prints."""

import os
import pty
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.errors import DeviceError

from support.sweeps import contents, family

CLI = "import sys; from weighbridge.cli import main; main()"


@pytest.fixture
def folder(tmp_path):
    family(tmp_path, 3)
    return tmp_path


def sweep(folder, *arguments, others="o-*"):
    arguments = [
        "sweep",
        str(folder / "base.safetensors"),
        str(folder / others),
        "--out",
        str(folder / "out"),
        *arguments,
    ]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_line_per_other_and_a_line_of_totals(folder):
    result = sweep(folder)
    assert result.exit_code == 0 and result.stdout == ""
    *lines, totals = result.stderr.splitlines()
    assert [re.sub(r"in [\d.]+ s", "in T", line.replace(str(folder), "")) for line in lines] == [
        "[1/3] /o-1.safetensors: read 96.2 kB in T",  # the base's bytes are counted with the first of a pass
        "[2/3] /o-2.safetensors: read 48.1 kB in T",
        "[3/3] /o-3.safetensors: read 48.1 kB in T",
    ]
    assert re.fullmatch(r"3 done; read 192\.4 kB in [\d.]+ s, [\d.]+ GB/s", totals)
    again = sweep(folder)
    assert again.exit_code == 0 and again.stderr.startswith("3 reused; read 0 B in ")


def test_a_device_that_fails_leaves_what_is_done(folder, monkeypatch):
    assert sweep(folder, others="o-1*").exit_code == 0

    def failing(*_, **options):
        raise DeviceError("cuda:0 failed: CUDA error: unspecified launch failure; use --device cpu.")

    monkeypatch.setattr("weighbridge.engine.blocked.compare_batch", failing)
    result = sweep(folder)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        "weighbridge: error: cuda:0 failed: CUDA error: unspecified launch failure; use --device cpu; "
        f"1 of 3 others are done and kept in {folder / 'out'}."
    )
    monkeypatch.undo()
    assert sweep(folder).stderr.splitlines()[-1].startswith("2 done, 1 reused; ")


def test_failures_are_listed_at_the_end_and_exit_2(folder):
    (folder / "o-2.safetensors").write_bytes(b"x" * 60)
    (folder / "o-4.safetensors").mkdir()
    result = sweep(folder)
    assert result.exit_code == 2
    *lines, totals, one, two = result.stderr.splitlines()
    assert [" failed: " in line for line in lines] == [True, True, False, False]
    assert totals.startswith("2 done, 2 failed; ")
    assert re.match(r"weighbridge: .*o-2\.safetensors failed: .*not a safetensors file", one)
    assert re.match(r"weighbridge: .*o-4\.safetensors failed: ", two)
    assert len(weighbridge.open_results(folder / "out")) == 2


def test_strict_stops_at_the_first(folder):
    (folder / "o-2.safetensors").write_bytes(b"x" * 60)
    result = sweep(folder, "--strict")
    assert result.exit_code == 2 and result.stderr.startswith("weighbridge: error: ")
    assert len(result.stderr.splitlines()) == 1 and not (folder / "out").exists()


def test_quiet_tells_of_failures_only(folder):
    assert sweep(folder, "--quiet").stderr == ""
    (folder / "o-9.safetensors").write_bytes(b"x" * 60)
    (line,) = sweep(folder, "--quiet").stderr.splitlines()
    assert "o-9.safetensors failed: " in line


def test_dry_run_prints_the_plan_and_leaves_no_trace(folder):
    (folder / "o-9.safetensors").write_bytes(b"x" * 60)
    result = sweep(folder, "--dry-run")
    assert result.exit_code == 2 and not (folder / "out").exists()
    counted, planned = result.stdout.splitlines()
    assert counted == "4 others, 0 computed already, 1 cannot be opened"
    assert re.fullmatch(r"1 task, 192,448 bytes to read, about [\d.]+ s", planned)
    (folder / "o-9.safetensors").unlink()
    sweep(folder)
    result = sweep(folder, "--dry-run")
    assert (
        result.exit_code == 0
        and result.stdout == "3 others, 3 computed already, 0 cannot be opened\n0 tasks, 0 bytes to read\n"
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bar_on_a_terminal(tmp_path, workers):
    family(tmp_path, 4, elements=1_000_000)
    ours, theirs = pty.openpty()
    arguments = ["sweep", "base.safetensors", "o-*", "--out", "out", "--workers", str(workers)]
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    assert process.wait(60) == 0 and process.stdout.read() == b""
    process.stdout.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    total = "80.0" if workers == 1 else "96.0"  # each of the two tasks reads the base
    assert "0 done, 0 failed, 4 left" in text and re.search(
        rf"4 done, 0 failed, 0 left .*{total}/{total} MB .*GB/s", text
    )
    last = text.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith(f"4 done; read {total} MB in ") and "o-1.safetensors" not in text


def test_nothing_heavy_is_imported(folder):
    heavy = ["torch", "transformers", "huggingface_hub", "pandas", "ray", "matplotlib", "rich"]
    code = f"{CLI.replace('main()', 'app(sys.argv[1:], standalone_mode=False)').replace('import main', 'import app')}\n"
    code += f"print(sorted(set(sys.modules) & set({heavy!r})))"
    arguments = ["sweep", "base.safetensors", "o-*", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_interrupted_with_workers_it_ends_quietly(folder):
    code = (
        "import os, signal, sys, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import weighbridge.engine.workers as workers\n"
        "give = workers._Worker.give\n"
        "def interrupt(*arguments):\n"
        "    give(*arguments)\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "if __name__ == '__main__':\n"
        "    workers._Worker.give = interrupt\n"
        "    from weighbridge.cli import main\n"
        "    main()\n"
    )
    (folder / "script.py").write_text(code)
    command = [sys.executable, "script.py", "sweep", "base.safetensors", "o-*", "--out", "out", "--workers", "2", "-q"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60, start_new_session=True
    )
    assert done.returncode == 130 and done.stdout == ""
    arguments = ["sweep", "base.safetensors", "o-*", "--out", "out", "-q"]
    subprocess.run([sys.executable, "-c", CLI, *arguments], cwd=folder, check=True)
    assert len(contents(folder / "out")) == 4
