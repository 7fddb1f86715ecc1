"""Machine code: its cache is bounded and never in the way, and its vectors lie in one cache line each."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from weighbridge.kernels import native


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE_DIR", str(tmp_path / "cache"))
    return native.cache_folder() / "kernels"


def test_old_code_is_taken_away(folder):
    folder.mkdir(parents=True, mode=0o700)
    for age in range(native._KEPT + 16):
        path = folder / f"gather-{age:032x}.o"
        path.write_bytes(b"old")
        os.utime(path, (1e9 - age, 1e9 - age))
    (folder / "kept.txt").write_text("not ours")
    native._write(folder / "gather-new.o", b"code")
    left = sorted(path.name for path in folder.glob("*.o"))
    assert left == sorted(["gather-new.o", *(f"gather-{age:032x}.o" for age in range(native._KEPT - 1))])
    assert native._read(folder / "gather-new.o") == b"code"
    assert (folder / "kept.txt").exists()


def test_code_is_compiled_again_where_the_source_of_it_has_changed_and_only_there():
    """The modules that go into its fingerprint are those that the walks import."""
    code = "import sys, weighbridge.kernels.tile; print(*[name for name in sys.modules if '.kernels.' in name])"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    hashed = {path.stem for path in Path(native.__file__).parent.glob("*.py") if path.name not in native._NOT_COMPILED}
    assert {name.removeprefix("weighbridge.kernels.") for name in imported if "numba" not in name} == hashed


def test_a_cache_that_cannot_be_written_is_no_trouble(folder):
    folder.parent.mkdir(mode=0o700)
    folder.write_text("a file where the folder should be")
    native._write(folder / "gather-new.o", b"code")
    assert native._read(folder / "gather-new.o") is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="looks for an instruction of x86-64")
def test_vectors_on_the_stack_do_not_cross_cache_lines():
    align_the_stack = bytes.fromhex("4883e4c0")  # and rsp, -64
    assert align_the_stack in native._object_code("star_f32")
