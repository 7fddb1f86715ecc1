"""Kernels are there before the clock starts; who waits for the compiler is told, and its failure is a sentence."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import weighbridge
from weighbridge.cli import main
from weighbridge.engine import loading
from weighbridge.engine.errors import KernelError
from weighbridge.kernels import native
from weighbridge.kernels.wanted import Wanted


@pytest.fixture
def files(tmp_path):
    """Two checkpoints with tensors that are computed in float32 and in float64."""
    rng = np.random.default_rng(3)
    for name in ("base", "other"):
        tensors = {"a.weight": rng.normal(size=(3, 5)).astype(np.float32), "b.weight": rng.normal(size=7)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return [str(tmp_path / f"{name}.safetensors") for name in ("base", "other")]


@pytest.fixture
def loaded(monkeypatch):
    """A process that has loaded nothing yet; what it asks `native` for, in order."""
    asked = []
    function = native.function

    def recorded(name, wanted=Wanted.ALL):
        asked.append((name, wanted))
        return function(name, wanted)

    monkeypatch.setattr(loading, "_loaded", set())
    monkeypatch.setattr(native, "function", recorded)
    return asked


def test_all_that_tiles_call_is_loaded_before(files, loaded):
    """`loading` knows which functions tiles call: none is asked for later that was not loaded before the first."""
    weighbridge.compare(*files)
    assert [name for name, _ in loaded[:3]] == ["gather", "star_f32", "star_f64"]
    assert set(loaded[3:]) == set(loaded[:3])
    loaded.clear()
    for _ in range(2):
        weighbridge.inspect(files[0], stats=True)
    statistics = [("pairs_f32", Wanted.SQUARES | Wanted.TOTALS), ("pairs_f64", Wanted.SQUARES | Wanted.TOTALS)]
    assert loaded[:2] == statistics and set(loaded) == {*statistics, ("gather", Wanted.ALL)}
    assert loaded.count(statistics[0]) == 3  # for both, and by the tile of each
    loaded.clear()
    weighbridge.matrix(files, metrics="delta")
    assert set(loaded[:2]) == {("pairs_f32", Wanted.ABS_DIFF), ("pairs_f64", Wanted.ABS_DIFF | Wanted.MAX_DIFF)}
    assert set(loaded[2:]) == {*loaded[:2], ("gather", Wanted.ALL)}


def test_the_compiler_is_announced_once(files, loaded, monkeypatch):
    said = []
    monkeypatch.setattr(native, "is_cached", lambda name, _: name != "star_f64")
    weighbridge.compare(*files, include="a.*", say=said.append)
    assert said == []
    for _ in range(2):
        weighbridge.compare(*files, say=said.append)
    assert said == ["compiling the kernels for this processor, once"]


def test_compiling_is_not_timed(files, loaded, monkeypatch):
    now = [0.0]

    def function(name, wanted=Wanted.ALL, slow=native.function):
        now[0] += 100 if (name, wanted) not in loading._loaded else 0
        return slow(name, wanted)

    monkeypatch.setattr(native, "function", function)
    monkeypatch.setattr("weighbridge.engine.execute.time.perf_counter", lambda: now[0])
    assert weighbridge.compare(*files).seconds == 0 and now[0] == 300


def test_what_is_on_disk_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    assert not native.is_cached("gather")
    native._object_code("gather")
    assert native.is_cached("gather")


def test_a_compiler_that_fails_is_a_sentence(files, loaded, monkeypatch, capsys):
    def broken(name, wanted):
        raise TypeError("Failed in nopython mode\n\n  File tile.py, line 1")

    monkeypatch.setattr(native, "function", broken)
    with pytest.raises(
        KernelError, match=r"numba \d.* and llvmlite \d.*\(TypeError: Failed in nopython mode\)"
    ) as caught:
        weighbridge.compare(*files)
    assert isinstance(caught.value.__cause__, TypeError)
    monkeypatch.setattr(sys, "argv", ["weighbridge", "compare", *files])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert err.startswith("weighbridge: error: the kernels cannot be compiled") and err.count("\n") == 1
