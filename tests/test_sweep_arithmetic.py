"""Rows that were summed in one kind of arithmetic are not mixed with those of another, however the device is called."""

import platform
from dataclasses import replace

import pytest

import weighbridge
from weighbridge.engine import devices, execute, matrix  # all before `choose` is replaced, which they take over
from weighbridge.engine.devices import FUSED, PORTABLE, Device, arithmetic
from weighbridge.engine.errors import DeviceError, OptionError
from weighbridge.engine.sweep import run_sweep
from weighbridge.engine.sweep_plan import plan_sweep
from weighbridge.engine.sweep_task import run_task

from support.sweeps import family


@pytest.fixture
def folder(tmp_path):
    family(tmp_path, 2)
    return tmp_path


@pytest.fixture
def card(monkeypatch):
    """Call it to have a GPU put in that is fast at float64 or slow; the processor computes in its place."""

    def put(fast):
        monkeypatch.setattr(devices, "choose", lambda device, *_: [Device(device, FUSED)])
        monkeypatch.setattr(matrix, "choose", devices.choose)
        monkeypatch.setattr(execute, "choose", lambda *_: [])
        monkeypatch.setattr(devices, "_fast_float64", lambda name: fast)

    return put


def run(folder, device="cuda:0", **options):
    """What became of each other."""
    plan = plan_sweep(folder / "base.safetensors", [folder / "o-*"], out=folder / "out", device=device, **options)
    return [outcome.status for outcome in run_sweep(plan)]


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ([], "cpu"),
        ([Device("cuda:0", FUSED), Device("cuda:1", FUSED)], "gpu-float64"),
        ([Device("cuda:2", FUSED)], "gpu-float32"),
        ([Device("cuda:0", FUSED, False), Device("cuda:2", FUSED, False)], "gpu-float32"),
        ([Device("cuda:2", FUSED, True)], "gpu-float64"),
        ([Device("cuda:0", PORTABLE)], "portable"),
        ([Device("cpu", PORTABLE)], "portable"),
    ],
)
def test_what_last_bits_follow_from(monkeypatch, chosen, name):
    monkeypatch.setattr(devices, "_fast_float64", lambda name: name != "cuda:2")
    assert arithmetic(chosen) == name


def test_a_sweep_goes_on_where_arithmetic_is_the_same(folder, card):
    card(fast=True)
    assert run(folder) == ["done", "done"]
    assert run(folder, "cuda:1") == ["reused", "reused"]
    card(fast=False)
    with pytest.raises(OptionError) as caught:
        run(folder)
    assert str(caught.value) == (
        f'"{folder / "out"}" holds a sweep in the arithmetic "gpu-float64" and --device cuda:0 computes in '
        '"gpu-float32" here, whose last digits are others; go on where it began, on a device of its kind, choose '
        "another --out, or --force to begin it anew."
    )
    assert run(folder, force=True) == ["done", "done"]
    card(fast=True)
    with pytest.raises(
        OptionError, match='in the arithmetic "gpu-float32" and --device cuda:0 computes in "gpu-float64"'
    ):
        run(folder)


def test_a_task_elsewhere_looks_at_its_own_device(folder, card):
    """As on a cluster: planned for one kind of GPU, run beside another."""
    card(fast=True)
    plan = plan_sweep(folder / "base.safetensors", [folder / "o-*"], out=None, device="cuda")
    assert [outcome.status for outcome in run_task(plan.tasks[0], plan.settings)] == ["done", "done"]
    card(fast=False)
    with pytest.raises(DeviceError) as caught:
        run_task(plan.tasks[0], plan.settings)
    assert str(caught.value) == (
        f'--device cuda computes in the arithmetic "gpu-float32" on {platform.node()} and this sweep is in '
        '"gpu-float64", and their last digits differ; let only GPUs of one kind take part, or use --device cpu.'
    )
    card(fast=True)
    with pytest.raises(DeviceError, match=r'"gpu-float64" on .* and this sweep is in "portable"'):
        run_task(plan.tasks[0], replace(plan.settings, arithmetic="portable"))


def test_a_matrix_goes_on_where_arithmetic_is_the_same(folder, card):
    paths, out = sorted(folder.glob("*.safetensors")), folder / "out"
    card(fast=True)
    weighbridge.matrix(paths, out=out, device="cuda:0")
    assert weighbridge.matrix(paths, out=out, device="cuda:1").bytes_read == 0
    card(fast=False)
    with pytest.raises(OptionError) as caught:
        weighbridge.matrix(paths, out=out, device="cuda:0")
    assert str(caught.value) == (
        f'"{out}" holds a matrix in the arithmetic "gpu-float64" and this one is in "gpu-float32", whose last digits '
        "are others; go on where it began, on a device of its kind, give another folder, or --force to compute it anew."
    )
    assert weighbridge.matrix(paths, out=out, device="cuda:0", force=True).bytes_read > 0
