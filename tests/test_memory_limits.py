"""Under a hard limit of memory: what does not fit into the address space is read in pieces, or refused in words."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest

from support.raw_files import sparse_checkpoint

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is kept on Linux")

LIMIT_BYTES = 1_000_000_000
ELEMENTS = 5 << 26  # 1.3 GB of float32
CLI = "from weighbridge.cli import main; main()"


def limited(*arguments, limit_bytes=LIMIT_BYTES):
    return subprocess.run(
        [sys.executable, "-c", CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes)),
    )


def with_values(path, values):
    """Values at the end of a sparse file of zeros."""
    source = sparse_checkpoint(path, ELEMENTS)
    raw = np.asarray(values, np.float32).tobytes()
    with open(source, "r+b") as file:
        file.seek(-len(raw), 2)
        file.write(raw)
    return source


@pytest.mark.parametrize("io", ["map", "auto"])
def test_files_larger_than_the_address_space(tmp_path, io):
    base, other = with_values(tmp_path / "base", [1, 2]), with_values(tmp_path / "other", [1, 4])
    done = limited("compare", base, other, "--io", io, "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(done.stdout)["tensors"]
    assert (row["elements"], row["max_delta"], row["l2_delta"], row["mean_abs"]) == (ELEMENTS, 2.0, 2.0, 5 / ELEMENTS)


def test_a_tensor_that_must_be_mapped_as_a_whole_and_does_not_fit(tmp_path):
    """Σx cancels so far that it is computed again, from a map of the tensor."""
    base, other = with_values(tmp_path / "base", [1]), with_values(tmp_path / "other", [3e30, 1, -3e30])
    done = limited("compare", base, other, "--format", "json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "for which there is no room in the address space; raise the limit (ulimit -v)." in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_memory_that_does_not_suffice_is_a_sentence(tmp_path):
    """Room to start, and none for the tasks of 16 MB: found by trying, as it depends on the libraries' own size.

    With the least of these limits the libraries themselves cannot be imported (NumPy, llvmlite and safetensors are
    together some 370 MB of address space), which is not for this package to put into words.
    """
    base, other = (sparse_checkpoint(tmp_path / name, 1 << 25) for name in ("base", "other"))
    seen = set()
    for limit_mb in range(300, 800, 50):
        done = limited("compare", base, other, "--threads", 2, "--format", "json", limit_bytes=limit_mb << 20)
        if "memory does not suffice" in done.stderr:
            assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
            seen.add("sentence")
        if done.returncode == 0:
            seen.add("done")
            break
    assert seen == {"sentence", "done"}


def test_a_header_that_would_fill_memory(tmp_path):
    """The library would end the process where it cannot allocate; it is not asked."""
    header = b'{"a":{"dtype":"U8","data_offsets":[0,0],"shape":[' + b"0," * (24 << 20) + b"0]}}"
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    done = limited("inspect", tmp_path / "a.safetensors")
    assert (done.returncode, done.stdout) == (2, "")
    assert "announces a header of 50,331," in done.stderr and len(done.stderr.splitlines()) == 1


def test_no_room_for_the_compiler_is_an_error():
    """LLVM, of which the handler of missing pages is made, ends the process where it gets no memory."""
    code = (
        "import mmap, pathlib, resource, llvmlite.binding\n"
        "from weighbridge.engine import faults\n"
        "used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * mmap.PAGESIZE\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 10), resource.RLIM_INFINITY))\n"
        "try:\n"
        "    faults.guard(0, 1)\n"
        "except MemoryError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    said = "LLVM needs 8,388,608 bytes, for which there is no room\n"
    assert (done.returncode, done.stderr, done.stdout) == (0, "", said)
