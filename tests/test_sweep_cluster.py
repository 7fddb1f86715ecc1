"""Sweeps on a real Ray cluster of two nodes on this machine: the bits of a serial sweep, whatever dies."""

import fcntl
import os
import queue
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

import weighbridge
from weighbridge.cli import app
from weighbridge.engine.errors import ClusterError, DeviceError, OptionError
from weighbridge.engine.store import Store
from weighbridge.engine.sweep_plan import plan_sweep

from support.sweeps import contents, family, mapped_without_pages

pytestmark = pytest.mark.slow

STORE_BYTES = 80 << 20  # Ray's object store, of which a few kB are used
WAIT_SECONDS = 30


@pytest.fixture(scope="module")
def cluster():
    ray_cluster = pytest.importorskip("ray.cluster_utils")
    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    head["_system_config"] = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300}
    cluster = ray_cluster.Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    base, others = family(folder, 6)
    (folder / "o-7.safetensors").write_bytes(b"x" * 60)
    weighbridge.sweep(base, [folder / "o-*"], out=folder / "serial")
    return folder, base, [*others, folder / "o-7.safetensors"]


def test_the_rows_of_a_serial_sweep(cluster, checkpoints, tmp_path):
    folder, base, others = checkpoints
    plan = plan_sweep(base, [folder / "o-*"], out=tmp_path / "out", cluster=cluster.address)
    assert [len(task.others) for task in plan.tasks] == [3, 3]  # a task a node
    results = weighbridge.sweep(base, [folder / "o-*"], out=tmp_path / "out", cluster=cluster.address)
    assert contents(tmp_path / "out") == contents(folder / "serial")
    assert len(results.labels) == 6 and [each["label"] for each in results.failures] == [str(others[-1])]


def test_a_folder_that_the_nodes_do_not_see(cluster, checkpoints, tmp_path):
    """The driver reaches DIR through a descriptor of its own, which no other process has."""
    folder, base, _ = checkpoints
    opened = os.open(tmp_path, os.O_RDONLY)
    mine = fcntl.fcntl(opened, fcntl.F_DUPFD, 900)
    try:
        weighbridge.sweep(base, [folder / "o-*"], out=f"/proc/self/fd/{mine}/out", cluster=cluster.address)
    finally:
        os.close(mine)
        os.close(opened)
    assert contents(tmp_path / "out") == contents(folder / "serial")


def test_relative_paths_and_progress_of_the_command(cluster, checkpoints, tmp_path):
    folder, _, _ = checkpoints
    code = "import sys; from weighbridge.cli import main; main()"
    arguments = ["sweep", "base.safetensors", "o-*", "--out", str(tmp_path / "out"), "--cluster", cluster.address]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == ""
    assert sorted(line.split()[1] for line in lines[:7]) == [f"o-{n}.safetensors:" for n in range(1, 8)]
    assert lines[7].startswith("6 done, 1 failed; read ") and lines[8].startswith("weighbridge: o-7.safetensors failed")
    assert len(lines) == 9  # and not a word of Ray's


def test_a_node_killed_in_the_middle(cluster, checkpoints, tmp_path):
    import ray

    folder, base, _ = checkpoints
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, resources={"doomed": 1})
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    raised = []

    def sweep():
        try:
            weighbridge.sweep(base, [folder / "o-*"], out=tmp_path / "out", cluster=cluster.address)
        except Exception as error:  # noqa: BLE001 -- told by the test itself
            raised.append(error)

    try:
        sweeping = threading.Thread(target=sweep)
        sweeping.start()
        _wait_for(lambda: _busy(ray, "doomed"))
        cluster.remove_node(node, allow_graceful=False)
        assert sweeping.is_alive() and [each["status"] for each in Store(tmp_path / "out").others].count("pending") > 0
        sweeping.join(60)
        assert not sweeping.is_alive() and raised == []
        assert contents(tmp_path / "out") == contents(folder / "serial")
        assert ray.is_initialized()  # the connection was the caller's
    finally:
        ray.shutdown()


def test_an_other_that_kills_its_process_is_the_one_that_fails(cluster, checkpoints, tmp_path):
    folder, base, others = checkpoints
    with mapped_without_pages(others[0], tmp_path / "disk") as poison:
        sources = [others[0], poison, *others[1:]]
        results = weighbridge.sweep(base, sources, out=tmp_path / "out", cluster=cluster.address, io="map")
    assert results.labels == [str(other) for other in others[:-1]]
    assert [each["label"] for each in results.failures] == [str(poison), str(others[-1])]
    serial, found = contents(folder / "serial"), contents(tmp_path / "out")
    del serial["sweep.json"], found["sweep.json"]
    assert found == serial


def _busy(ray, resource):
    """Whether the node that has a resource has no processor left: it runs a task."""
    (node,) = (node for node in ray.nodes() if resource in node["Resources"])
    free = ray._private.state.available_resources_per_node()[node["NodeID"]]
    return free.get("CPU", 0) == 0


def _wait_for(happened):
    until = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


def test_a_node_is_asked_in_which_arithmetic_it_computes(cluster, checkpoints, tmp_path, monkeypatch):
    folder, base, _ = checkpoints
    options = {"device": "portable:cpu", "cluster": cluster.address}
    weighbridge.sweep(base, [folder / "o-*"], out=tmp_path / "out", **options)
    assert Store(tmp_path / "out").manifest["arithmetic"] == "portable"
    weighbridge.sweep(base, [folder / "o-*"], out=tmp_path / "serial", device="portable:cpu")
    assert contents(tmp_path / "out") == contents(tmp_path / "serial")
    monkeypatch.setattr("weighbridge.engine.cluster._asked", lambda *_: "gpu-float64")  # of a node that has left
    with pytest.raises(DeviceError, match=r'"portable" on .* and this sweep is in "gpu-float64"'):
        weighbridge.sweep(base, [folder / "o-*"], out=tmp_path / "other", **options)


def test_a_cluster_without_a_free_processor_answers(cluster, checkpoints, tmp_path):
    import ray

    folder, base, _ = checkpoints
    options = {"out": tmp_path / "out", "device": "portable:cpu", "cluster": cluster.address}
    plans = []
    planning = threading.Thread(target=lambda: plans.append(plan_sweep(base, [folder / "o-*"], **options)), daemon=True)
    ray.init(address=cluster.address, log_to_driver=False)
    busy = [ray.remote(num_cpus=1)(lambda: time.sleep(120)).remote() for _ in range(2)]
    try:
        _wait_for(lambda: ray.available_resources().get("CPU", 0) == 0)
        planning.start()
        planning.join(WAIT_SECONDS)
        assert [plan.settings.arithmetic for plan in plans] == ["portable"]
    finally:
        for each in busy:
            ray.cancel(each, force=True)
        if planning.ident is not None:
            planning.join(WAIT_SECONDS)  # shut down while somebody waits for it Ray ends the whole process
        ray.shutdown()


def test_a_cluster_without_a_free_gpu_is_waited_for_in_a_sentence(cluster, checkpoints, tmp_path, monkeypatch):
    """The node's GPU is one that Ray alone believes in."""
    import ray

    monkeypatch.setattr("weighbridge.engine.cluster._PATIENCE_SECONDS", 0.1)
    folder, base, _ = checkpoints
    said, raised = queue.SimpleQueue(), []

    def plan():
        try:
            plan_sweep(
                base, [folder / "o-*"], out=tmp_path / "out", device="cuda", cluster=cluster.address, say=said.put
            )
        except DeviceError as error:
            raised.append(str(error))

    node = cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    taken = ray.remote(num_cpus=0, num_gpus=1)(lambda: time.sleep(120)).remote()
    planning = threading.Thread(target=plan, daemon=True)
    try:
        _wait_for(lambda: ray.available_resources().get("GPU", 0) == 0)
        planning.start()
        assert said.get(timeout=WAIT_SECONDS) == (
            f"waiting for a GPU of a node to be free on the Ray cluster at {cluster.address}, to look at --device cuda"
        )
        assert planning.is_alive()
    finally:
        ray.cancel(taken, force=True)
        planning.join(WAIT_SECONDS)
        ray.shutdown()
        cluster.remove_node(node, allow_graceful=False)
    assert len(raised) == 1 and "--device cuda" in raised[0] and said.empty()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "Can't get attribute '_arithmetic_here' on"), ("raise ImportError('none: at all')", "none: at all")],
)
def test_a_node_with_an_older_weighbridge_or_none_is_one_sentence(cluster, checkpoints, tmp_path, text, reason):
    import ray

    folder, base, _ = checkpoints
    engine = tmp_path / "older" / "weighbridge" / "engine"
    engine.mkdir(parents=True)
    for path in (engine.parent / "__init__.py", engine / "__init__.py", engine / "cluster.py"):
        path.write_text(text)
    older = {"env_vars": {"PYTHONPATH": str(tmp_path / "older")}}
    ray.init(address=cluster.address, log_to_driver=False, runtime_env=older)
    try:
        options = {"out": tmp_path / "out", "device": "portable:cpu", "cluster": cluster.address}
        with pytest.raises(ClusterError) as caught:
            weighbridge.sweep(base, [folder / "o-*"], **options)
        assert str(caught.value).startswith(f"a node of the Ray cluster lacks this version of weighbridge ({reason}")
        assert str(caught.value).endswith("; install it on each node.") and "\n" not in str(caught.value)
    finally:
        ray.shutdown()


def test_what_no_node_has(cluster, checkpoints, tmp_path):
    _, base, others = checkpoints
    with pytest.raises(ClusterError, match=r"no node of the Ray cluster at .* has 64 CPU, which a task needs"):
        weighbridge.sweep(base, others, out=tmp_path / "out", cluster=cluster.address, threads=64)
    with pytest.raises(ClusterError, match="has 1 CPU and 1 GPU, which a task needs"):
        plan_sweep(base, others, out=tmp_path / "out", cluster=cluster.address, device="cuda")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "localhost:99999", "ray://127.0.0.1:1"])
def test_no_cluster_is_one_sentence(checkpoints, tmp_path, address):
    _, base, others = checkpoints
    arguments = ["sweep", str(base), str(others[0]), "--out", str(tmp_path / "out"), "--cluster", address]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 2 and f'there is no Ray cluster at "{address}"' in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_without_ray_it_is_one_sentence(checkpoints, tmp_path, monkeypatch):
    _, base, others = checkpoints
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"install weighbridge\[cluster\]"):
        weighbridge.sweep(base, others, out=tmp_path / "out", cluster="auto")
    with pytest.raises(OptionError, match="exclude each other"):
        weighbridge.sweep(base, others, out=tmp_path / "out", cluster="auto", workers=2)
