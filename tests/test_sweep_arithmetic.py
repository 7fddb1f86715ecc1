"""Rows that were summed in one kind of arithmetic are not mixed with those of another, however the device is called."""

import json
import platform
from dataclasses import replace
from types import SimpleNamespace

import pytest

import weighbridge
from weighbridge.engine import (
    cluster,
    devices,
    execute,
    matrix,
    sweep_plan,
)  # all before `choose` is replaced, which they take over
from weighbridge.engine.devices import ARITHMETICS, FUSED, PORTABLE, Device, arithmetic, arithmetics_of
from weighbridge.engine.errors import ClusterError, DeviceError, OptionError
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
        ([Device("cuda:0", PORTABLE, True)], "portable"),
        ([Device("cpu", PORTABLE)], "portable"),
        ([Device("mps", PORTABLE, False)], "portable-float32"),
    ],
)
def test_what_last_bits_follow_from(monkeypatch, chosen, name):
    monkeypatch.setattr(devices, "_fast_float64", lambda name: name != "cuda:2")
    assert arithmetic(chosen) == name


def test_what_a_device_may_turn_out_to_compute_in():
    assert arithmetics_of("cpu") == ("cpu",)
    assert arithmetics_of("portable:cuda:1") == arithmetics_of("portable:cpu") == ("portable",)
    assert arithmetics_of("portable") == arithmetics_of("xpu:1") == ("portable", "portable-float32")
    assert arithmetics_of("cuda") == arithmetics_of("cuda:3") == ("gpu-float64", "gpu-float32", "portable")
    assert set(ARITHMETICS) == {"cpu", *arithmetics_of("cuda"), *arithmetics_of("mps")}


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
        '"gpu-float64", and their last digits differ; let only GPUs of one kind take part, or begin it anew '
        "with --device cpu and --force."
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


def test_a_matrix_of_others_on_another_device_is_not_told_to_go_on_there(folder, card):
    paths, out = sorted(folder.glob("*.safetensors")), folder / "out"
    card(fast=True)
    weighbridge.matrix(paths, out=out, device="cuda:0")
    card(fast=False)
    for sources, options in ((paths[:2], {}), (paths, {"exclude": ["layer.0"]})):
        with pytest.raises(OptionError, match="holds the matrix of other checkpoints, of other options"):
            weighbridge.matrix(sources, out=out, device="cuda:0", **options)


def test_a_matrix_begun_on_a_gpu_before_its_arithmetic_was_kept(folder, card, monkeypatch):
    paths, out = sorted(folder.glob("*.safetensors")), folder / "out"
    card(fast=True)
    with monkeypatch.context() as before:
        before.setattr(matrix, "arithmetic_here", lambda _: "cuda")  # the kind of the device, as it was then
        weighbridge.matrix(paths, out=out, device="cuda:0")
    with pytest.raises(OptionError) as caught:
        weighbridge.matrix(paths, out=out, device="cuda:0")
    assert str(caught.value) == (
        f'"{out}" holds a matrix that was begun on a GPU by a version that did not keep its arithmetic; give another '
        "folder, or --force to compute it anew."
    )


def as_before_arithmetic_was_kept(folder, kind):
    """Have the manifest say what an older version wrote on a device of a kind."""
    path = folder / "out" / "sweep.json"
    manifest = json.loads(path.read_text())
    del manifest["arithmetic"]
    manifest["computation"] = sweep_plan._computation(manifest["options"], kind)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("where", [None, "127.0.0.1:1"])
def test_a_sweep_begun_on_a_gpu_before_its_arithmetic_was_kept(folder, card, where):
    card(fast=True)
    run(folder)
    as_before_arithmetic_was_kept(folder, "cuda")
    with pytest.raises(OptionError) as caught:
        run(folder, cluster=where)
    assert str(caught.value) == (
        f'"{folder / "out"}" holds a sweep that was begun on a GPU by a version that did not keep its arithmetic; '
        "choose another --out, or --force to begin it anew."
    )
    with pytest.raises(OptionError, match="holds a sweep with other matching options"):
        run(folder, cluster=where, exclude=["layer.0"])
    assert run(folder, force=True) == ["done", "done"]


def test_a_sweep_begun_on_the_processor_before_its_arithmetic_was_kept(folder, card):
    assert run(folder, "cpu") == ["done", "done"]
    as_before_arithmetic_was_kept(folder, "cpu")
    card(fast=True)
    with pytest.raises(OptionError, match='in the arithmetic "cpu" and --device cuda:0 computes in "gpu-float64" here'):
        run(folder)


def test_a_sweep_with_other_options_on_another_device_is_not_told_to_go_on_there(folder, card):
    card(fast=True)
    run(folder)
    card(fast=False)
    with pytest.raises(OptionError, match="holds a sweep with other matching options"):
        run(folder, exclude=["layer.0"])


# On a cluster

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def ray(monkeypatch):
    """A cluster of one node with four processors and a GPU that answers with `answer`, raised where it is an error."""
    exceptions = pytest.importorskip("ray.exceptions")
    asked = []

    def remote(**resources):
        asked.append(resources)
        return lambda _: SimpleNamespace(remote=lambda *_: None)

    def get(_):
        if isinstance(fake.answer, Exception):
            raise fake.answer
        return fake.answer

    class Connection:
        def __enter__(self):
            fake.connections += 1
            return fake

        def __exit__(self, *_):
            pass

    node = {"Alive": True, "NodeID": "ab" * 28, "Resources": {"CPU": 4, "GPU": 1}}
    fake = SimpleNamespace(nodes=lambda: [node], remote=remote, get=get, exceptions=exceptions)
    fake.asked, fake.connections, fake.answer = asked, 0, "gpu-float64"
    monkeypatch.setattr(cluster, "_connected", lambda _: Connection())
    return fake


def planned(folder, **options):
    return plan_sweep(folder / "base.safetensors", [folder / "o-*"], out=folder / "out", **options)


@pytest.mark.parametrize("device", ["cuda:0", "portable:cpu", "cpu"])
def test_a_finished_sweep_needs_no_cluster(folder, card, device):
    if device == "cuda:0":
        card(fast=True)
    run(folder, device)
    assert run(folder, device, cluster=NOWHERE) == ["reused", "reused"]
    (folder / "o-1.safetensors").unlink()
    (folder / "o-2.safetensors").write_bytes(b"x")  # neither can be computed
    plan = planned(folder, device=device, cluster=NOWHERE)
    assert (plan.tasks, plan.settings.arithmetic) == (
        (),
        json.loads((folder / "out/sweep.json").read_text())["arithmetic"],
    )


def test_other_bases_and_options_are_found_out_without_a_cluster(folder, card):
    card(fast=True)
    run(folder)
    with pytest.raises(OptionError, match="holds a sweep with other matching options"):
        planned(folder, device="cuda", cluster=NOWHERE, exclude=["layer.0"])
    with pytest.raises(OptionError, match="holds a sweep of the base"):
        plan_sweep(folder / "o-1.safetensors", [folder / "o-2*"], out=folder / "out", device="cuda", cluster=NOWHERE)


@pytest.mark.parametrize(
    ("device", "arithmetics"),
    [("cpu", '"cpu"'), ("portable:cpu", '"portable"'), ("cuda", '"gpu-float64", "gpu-float32" or "portable"')],
)
def test_what_no_node_computes_in_is_found_out_without_a_cluster(folder, card, device, arithmetics):
    if device == "cuda":
        begun = "cpu"
        run(folder, "cpu")
    else:
        begun = "gpu-float64"
        card(fast=True)
        run(folder)
    with pytest.raises(OptionError) as caught:
        planned(folder, device=device, cluster=NOWHERE)
    assert str(caught.value) == (
        f'"{folder / "out"}" holds a sweep in the arithmetic "{begun}" and --device {device} computes in {arithmetics} '
        "on the cluster, whose last digits are others; go on where it began, on a device of its kind, choose another "
        "--out, or --force to begin it anew."
    )


def test_the_cluster_is_asked_once_and_only_where_a_sweep_begins(folder, card, ray):
    plan = planned(folder, device="cuda", cluster="anywhere")
    assert (plan.settings.arithmetic, len(ray.asked), ray.connections) == ("gpu-float64", 1, 1)
    card(fast=True)
    run(folder)
    ray.answer = "gpu-float32"  # of a node that every task finds out for itself
    (folder / "o-1.safetensors").touch()
    again = planned(folder, device="cuda", cluster="anywhere")
    assert (len(again.tasks), ray.connections, len(ray.asked)) == (1, 2, 1)
    assert again.settings.computation == plan.settings.computation and again.settings.arithmetic == "gpu-float64"
    assert planned(folder, device="cuda", cluster="anywhere", force=True).settings.arithmetic == "gpu-float32"


def test_a_sweep_in_which_nothing_can_be_computed_leaves_the_arithmetic_open(folder, card):
    """What the cluster would say is not known, and is not to be made up: the next run may compute."""
    whole = (folder / "o-1.safetensors").read_bytes()
    for other in folder.glob("o-*"):
        other.write_bytes(b"x")
    assert run(folder, cluster=NOWHERE) == ["failed", "failed"]
    (folder / "o-1.safetensors").write_bytes(whole)
    card(fast=False)
    assert run(folder) == ["done", "failed"]
    assert json.loads((folder / "out" / "sweep.json").read_text())["arithmetic"] == "gpu-float32"


def test_a_busy_cluster_has_room_for_the_question(ray):
    assert cluster.survey("anywhere", "cuda", None) == ("gpu-float64", 1)
    assert ray.asked[0]["num_cpus"] == 0 and 0 < ray.asked[0]["num_gpus"] <= 0.01
    cluster.survey("anywhere", "portable:cpu", 2)
    assert ray.asked[1]["num_cpus"] == 0 and not ray.asked[1].get("num_gpus")
    assert ray.asked[1]["scheduling_strategy"].node_id == "ab" * 28  # one that has processors
    assert cluster.survey("anywhere", "cpu", 2) == ("cpu", 2) and len(ray.asked) == 2


@pytest.mark.parametrize("name", ["WorkerCrashedError", "OutOfMemoryError", "NodeDiedError"])
def test_a_question_that_ends_its_process_is_no_lost_cluster(ray, name):
    ray.answer = getattr(ray.exceptions, name)(*(["it was full"] if name != "WorkerCrashedError" else []))
    with pytest.raises(ClusterError) as caught:
        cluster.survey("10.0.0.1:6379", "cuda", None)
    assert str(caught.value).startswith(
        "the process that was to look at --device cuda ended 3 times on the Ray cluster at 10.0.0.1:6379 ("
    )
    assert str(caught.value).endswith("); see to its nodes, or use --device cpu.") and "\n" not in str(caught.value)


def test_a_cluster_that_is_lost_is_told_so(ray):
    ray.answer = ray.exceptions.RaySystemError("it went\nand more")
    with pytest.raises(ClusterError, match=r"^the Ray cluster at anywhere was lost \(.*it went\)\.$"):
        cluster.survey("anywhere", "cuda", None)


OLDER = "Can't get attribute '_arithmetic_here' on <module 'weighbridge.engine.cluster' from '/x/cluster.py'>"


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (AttributeError(OLDER), OLDER),
        (
            RuntimeError(
                f"The remote function failed to import on the worker. Why:\n\nFile x\nAttributeError: {OLDER}\n"
            ),
            OLDER,
        ),
        (RuntimeError("The remote function failed to import on the worker.\nImportError: no x: y\n"), "no x: y"),
        (ImportError("no weighbridge"), "no weighbridge"),
    ],
)
def test_a_node_with_another_weighbridge_is_one_sentence(ray, cause, reason):
    ray.answer = ray.exceptions.RayTaskError("f", "traceback", cause, "worker", 1, "10.0.0.2")
    with pytest.raises(ClusterError) as caught:
        cluster.survey("anywhere", "cuda", None)
    assert str(caught.value) == (
        f"a node of the Ray cluster lacks this version of weighbridge ({reason}); install it on each node."
    )


@pytest.mark.parametrize("cause", [AttributeError("'NoneType' object has no attribute 'x'"), RuntimeError("a mistake")])
def test_a_mistake_of_our_own_on_a_node_keeps_its_traceback(ray, cause):
    ray.answer = ray.exceptions.RayTaskError("f", "traceback", cause, "worker", 1, "10.0.0.2")
    with pytest.raises(ray.exceptions.RayTaskError):
        cluster.survey("anywhere", "cuda", None)
