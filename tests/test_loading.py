"""Kernels are there before the clock starts; who waits for the compiler is told, and its failure is a sentence."""

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

import weighbridge
from weighbridge.cli import main
from weighbridge.engine import execute, loading
from weighbridge.engine.devices import FUSED, PORTABLE, Device
from weighbridge.engine.errors import KernelError
from weighbridge.engine.loading import load_gpu_kernels
from weighbridge.kernels import native
from weighbridge.kernels.wanted import Wanted

from support.lanes import ArenaTile


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


GPUS = [Device("cuda:0", FUSED), Device("cuda:1", FUSED), Device("xpu:0", PORTABLE)]
PAIR = np.array([[1, 0]])


@pytest.fixture
def gpus(monkeypatch):
    """GPUs that are not there, in a process that has compiled nothing; what is asked of them, and what they do then."""
    found = SimpleNamespace(asked=[], act=lambda: None)

    def compile_ahead(codes, pairs, device, *, wanted, float64):
        found.asked.append((device, codes, len(pairs)))
        found.act()

    kernels = SimpleNamespace(Tile=ArenaTile, compile_ahead=compile_ahead)
    monkeypatch.setattr(Device, "kernels", property(lambda self: kernels))
    monkeypatch.setattr(loading, "_compiled", set())
    monkeypatch.setattr(loading, "_announced", threading.Event())
    return found


def test_fused_kernels_of_every_gpu_and_tile_are_compiled_once(gpus):
    dtypes = [("F32", "F32"), ("BF16", "F32"), ("F32", "F32")]
    for _ in range(2):
        load_gpu_kernels(GPUS, dtypes, PAIR, Wanted.ALL)
    wanted = [(device, codes, 1) for device in ("cuda:0", "cuda:1") for codes in (("BF16", "F32"), ("F32", "F32"))]
    assert gpus.asked == wanted
    load_gpu_kernels(GPUS[:1], dtypes[:1], np.array([[1, 0], [0, 1]]), Wanted.ALL)
    assert gpus.asked[4:] == [("cuda:0", ("F32", "F32"), 2)]


def test_triton_at_work_is_announced_once(gpus, monkeypatch):
    """It is said while the compiler is at work: here it is not done before."""
    monkeypatch.setattr(loading, "_SILENT_SECONDS", 0.01)
    said, heard = [], threading.Event()
    gpus.act = lambda: heard.wait(20)
    load_gpu_kernels(GPUS, [("F32", "F32")], PAIR, Wanted.ALL, lambda text: (said.append(text), heard.set()))
    assert said == ["compiling the kernels for this GPU, once"]
    gpus.act = lambda: threading.Event().wait(0.1)
    load_gpu_kernels(GPUS, [("BF16", "F32")], PAIR, Wanted.ALL, said.append)
    assert len(said) == 1 and len(gpus.asked) == 4


def test_kernels_that_are_there_are_not_announced(gpus, monkeypatch):
    monkeypatch.setattr(loading, "_SILENT_SECONDS", 1000)
    said = []
    load_gpu_kernels(GPUS, [("F32", "F32")], PAIR, Wanted.ALL, said.append)
    assert said == []
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_compiling_for_a_gpu_is_timed_apart(gpus, files, monkeypatch):
    now = [0.0]

    def compile_slowly():
        now[0] += 100

    gpus.act = compile_slowly
    monkeypatch.setattr(execute, "choose", lambda *_: [Device("cpu", FUSED)])
    monkeypatch.setattr(execute.time, "perf_counter", lambda: now[0])
    sums = []
    run = execute.execute
    monkeypatch.setattr(execute, "execute", lambda *args, **options: sums.append(run(*args, **options)) or sums[-1])
    assert weighbridge.compare(*files).seconds == 0
    assert len(gpus.asked) == 2 and sums[0].compile_seconds == 200


def test_triton_that_fails_is_a_sentence(gpus):
    def broken():
        raise RuntimeError("PTXAS error: Internal Triton PTX codegen error\n`ptxas` stderr: ...")

    gpus.act = broken
    with pytest.raises(
        KernelError,
        match=r"^the kernels cannot be compiled for cuda:0 with Triton \d.*\(RuntimeError: PTXAS error: Internal "
        r"Triton PTX codegen error\); install another version of it, or use --device cpu\.$",
    ):
        load_gpu_kernels(GPUS, [("F32", "F32")], PAIR, Wanted.ALL)
