"""What only a process of its own can show: what is imported, how long --help takes, pipes and signals."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

CLI = "import sys; from weighbridge.cli import main; main()"
HEAVY = ("torch", "triton", "transformers", "huggingface_hub", "pandas", "pyarrow")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    tensors = {f"layer.{n}.dense.weight": np.full((4, 4), n, np.float32) for n in range(2000)}
    for name in ("base", "other"):
        save_file(tensors, folder / f"{name}.safetensors")
    return [str(folder / "base.safetensors"), str(folder / "other.safetensors")]


def python(code, *arguments, **options):
    options = {"capture_output": True, "text": True, "check": False, **options}
    return subprocess.run([sys.executable, "-c", code, *arguments], **options)


def imported(*arguments, before=""):
    """The heavy modules that a command ends up with."""
    code = (
        f"import atexit, json, sys\n{before}\n"
        "atexit.register(lambda: print(json.dumps(sorted(set(sys.modules) & set(sys.argv.pop().split(',')))), "
        "file=sys.stderr))\n"
        "from weighbridge.cli import app\n"
        "app(sys.argv[1:-1])"
    )
    done = python(code, *arguments, ",".join((*HEAVY, "numpy", "numba", "rich")))
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("fmt", ["table", "json"])
def test_compare_imports_nothing_heavy(files, fmt):
    found = imported("compare", *files, "--format", fmt)
    assert not found & set(HEAVY)
    assert "numpy" in found
    assert ("rich" in found) is (fmt == "table")


@pytest.mark.parametrize("module", ["pandas"])
def test_the_check_for_imports_can_fail(files, module):
    assert module in imported("compare", *files, "--format", "json", before=f"import {module}")


def test_help_and_version_import_nothing():
    for option in ("--help", "--version"):
        assert imported(option) == set()


def test_importing_the_package_imports_nothing():
    code = "import sys, weighbridge; dir(weighbridge); print(len({'numpy', 'typer', 'numba'} & set(sys.modules)))"
    assert python(code).stdout == "0\n"


def test_public_names_are_there():
    code = "import weighbridge; print(all(getattr(weighbridge, name) for name in weighbridge.__all__))"
    assert python(code).stdout == "True\n"
    done = python("import weighbridge; weighbridge.nonsense")
    assert "AttributeError: module 'weighbridge' has no attribute 'nonsense'" in done.stderr


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_takes_about_as_long_as_typer(option):
    """At most 2.5 times; measured in turn, and the quickest of each, so that a busy machine does not decide."""
    reference, ours = [], []
    for _ in range(7):
        for times, command in ((reference, ["-c", "import typer"]), (ours, ["-c", CLI, option])):
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - started)
    assert min(ours) <= 2.5 * min(reference), (statistics.median(ours), statistics.median(reference))


def test_reader_that_has_seen_enough(files):
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, "compare", *files, "--format", "csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0
    process.stderr.close()


def test_gate_is_tested_though_nobody_reads(files):
    read, write = os.pipe()
    os.close(read)
    done = python(CLI, "compare", *files, "--fail-if", "matched > 0", stdout=write, capture_output=False, stderr=-1)
    os.close(write)
    assert done.returncode == 1 and "holds" in done.stderr


def test_full_standard_output_is_a_sentence(files):
    with open("/dev/full", "w") as full:
        done = python(CLI, "compare", *files, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 2
    assert done.stderr.startswith("weighbridge: error: standard output could not take the result: No space left")
    assert len(done.stderr.splitlines()) == 1


def test_interrupt_is_one_line():
    code = (
        "import sys, weighbridge.engine.compare as c\n"
        "def compare(*a, **k):\n    raise KeyboardInterrupt\n"
        "c.compare = compare\n"
        "import weighbridge.engine.formats as f\nf.open_checkpoint = lambda source: source\n" + CLI
    )
    done = python(code, "compare", "a", "b")
    assert (done.returncode, done.stdout) == (130, "")
    assert (
        done.stderr
        == "weighbridge: interrupted; 0 of 1 comparisons were printed; run the same command again for the rest.\n"
    )


def test_signal_during_start_is_quiet():
    # A job in the background of a shell ignores SIGINT and hands that on to its children; the handler that Python
    # installs where it is not ignored is set here in any case.
    code = (
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import weighbridge.cli as c\n"
        f"c.app = lambda **k: (print('started', flush=True), time.sleep(30))\n{CLI}"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "")
