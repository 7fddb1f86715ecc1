"""The tasks of a sweep on a Ray cluster (the extra `cluster`). Where and when each runs is Ray's business.

A task opens the checkpoints by the driver's own paths, so the nodes must see them. Each task looks for itself whether
its node sees the folder of results as well, by the lock that the driver holds there. If so it writes the rows where
they belong; if not it returns them, and the driver writes them.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ClusterError, OptionError, WeighbridgeError
from .store import Store
from .sweep_record import keep
from .sweep_task import Outcome, Settings, Task, run_task
from .workers import Done, given_up, singly

if TYPE_CHECKING:
    from .loading import Say

__all__ = ["run_ray", "survey"]

_RETRIES = 2  # of a task whose process or node died
_CONNECT_SECONDS = 10
_PATIENCE_SECONDS = 5.0  # an idle node starts a process and imports torch in less
_NO_GPU = ("auto", "cpu", "portable:cpu")
_GLANCE_GPUS = 0.01  # of a GPU, to ask a node which it is: there is room for that beside other fractions
_NOT_IMPORTED = "The remote function failed to import on the worker"  # how Ray begins what it makes of an ImportError


def survey(
    address: str, device: str, threads: int | None, begun_in: str = "", say: Say | None = None
) -> tuple[str, int]:
    """What a plan needs to know of the cluster: what the last bits follow from there, and how many tasks run at a time.

    This machine may lack a GPU, so a node that has one is asked, with a task that takes next to nothing from those that
    run there. The processor is not asked, nor is anybody where it is known. Every task looks again, on its own node.

    Args:
        address: of the cluster, or "auto".
        device: which is asked for; "auto" is none such.
        threads: of a task.
        begun_in: the arithmetic of a sweep that goes on; "" of one that begins.
        say: told in a sentence when the answer is long in coming: of a cluster whose GPUs are all taken it does not
            come before one is free.
    Returns:
        The arithmetic, see `devices.arithmetic`, and the number of tasks.
    Raises:
        OptionError: Ray is not installed.
        ClusterError: there is no cluster at the address, it is lost, no node of it can run a task, or the node that is
            asked dies or lacks this version of weighbridge.
        DeviceError: the node cannot use the device; says why.
    """
    with _connected(address) as ray:
        wanted = _resources(ray, device, threads)
        slots = _slots(ray, address, wanted)
        return begun_in or ("cpu" if device == "cpu" else _asked(ray, address, device, wanted, say)), slots


def _asked(ray: Any, address: str, device: str, wanted: dict[str, int], say: Say | None) -> str:
    """The arithmetic of a node that can run a task."""
    glance: dict[str, Any] = {"num_cpus": 0, "max_retries": _RETRIES}
    if wanted["num_gpus"]:
        glance["num_gpus"] = _GLANCE_GPUS
    else:  # which would fit everywhere: on a head node too, that has no processors for tasks and maybe no torch
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        able = next(node for node in _nodes(ray) if _fits(node, wanted))
        glance["scheduling_strategy"] = NodeAffinitySchedulingStrategy(able["NodeID"], soft=True)
    try:
        with _lost_in_a_sentence(ray, address):
            answer = ray.remote(**glance)(_arithmetic_here).remote(device)
            if say is not None and not ray.wait([answer], timeout=_PATIENCE_SECONDS)[0]:
                needs = "for a GPU of a node to be free" if wanted["num_gpus"] else "for a node"
                say(f"waiting {needs} on the Ray cluster at {address}, to look at --device {device}")
            return str(ray.get(answer))
    except _deaths(ray) as error:
        raise ClusterError(
            f"the process that was to look at --device {device} ended {_RETRIES + 1} times on the Ray cluster at "
            f"{address} ({_first_line(error)}); see to its nodes, or use --device cpu."
        ) from error


def _arithmetic_here(device: str) -> str:
    from .devices import arithmetic_here

    return arithmetic_here(device)


def _slots(ray: Any, address: str, wanted: dict[str, int]) -> int:
    slots = [_fits(node, wanted) for node in _nodes(ray)]
    if not any(slots):
        needs = " and ".join(f"{amount:g} {name}" for name, amount in _named(wanted).items())
        raise ClusterError(
            f"no node of the Ray cluster at {address} has {needs}, which a task needs; give fewer --threads, or "
            "another --device."
        )
    return sum(slots)


def _fits(node: dict[str, Any], wanted: dict[str, int]) -> int:
    """How many tasks a node can run at a time."""
    return min(int(node["Resources"].get(name, 0) // amount) for name, amount in _named(wanted).items())


def run_ray(tasks: Sequence[Task], settings: Settings, address: str) -> Iterator[Done]:
    """The tasks on the cluster, as they finish.

    A task asks for as many processors as it has threads (`settings.threads`, else all of the smallest node), and for a
    GPU where the device is one. Ray runs it again where its process or node dies. One that dies every time is cut into
    its others, and an other that dies alone has failed.

    Args:
        tasks: what is to be computed.
        settings: what the tasks have in common; `out` is the driver's folder.
        address: of the cluster, or "auto".
    Raises:
        OptionError: Ray is not installed.
        ClusterError: there is no cluster at the address, it is lost, or its nodes lack this version of weighbridge.
        WeighbridgeError: as for `sweep_task.run_task`.
    """
    assert settings.out is not None
    with _connected(address) as ray, Store(settings.out).writer() as writer:
        wanted = _resources(ray, settings.device, settings.threads)
        there = replace(settings, out=os.path.abspath(settings.out), threads=int(wanted["num_cpus"]))
        remote = ray.remote(**wanted, max_retries=_RETRIES)(_on_node)
        running = {remote.remote(task, there, os.getcwd(), writer.mark): task for task in tasks}
        while running:
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(ready)
            try:
                with _lost_in_a_sentence(ray, address, "; what is finished is kept: run the same command again"):
                    outcomes = ray.get(ready)
            except _deaths(ray):
                if len(task.others) > 1:
                    running |= {remote.remote(each, there, os.getcwd(), writer.mark): each for each in singly(task)}
                else:
                    yield task, given_up(task, settings, f"its process ended {_RETRIES + 1} times on the cluster")
                continue
            yield task, keep(outcomes, settings) if any(each.table is not None for each in outcomes) else outcomes


def _deaths(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises where a task's own process or node died, and not the cluster."""
    return ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError


@contextmanager
def _lost_in_a_sentence(ray: Any, address: str, then: str = "") -> Iterator[None]:
    """All that Ray raises becomes our own, save the `_deaths` of a task; `then` is what to do about a lost cluster."""
    try:
        yield
    except _deaths(ray):
        raise
    except ray.exceptions.RayTaskError as error:
        raise _cause_of(error) from error
    except ray.exceptions.RayError as error:
        raise ClusterError(f"the Ray cluster at {address} was lost ({_first_line(error)}){then}.") from error


def _on_node(task: Task, settings: Settings, folder: str, mark: str) -> list[Outcome]:
    """What runs on the cluster: `run_task`, with paths as they are for the driver."""
    with suppress(OSError):  # where it is not there, relative paths are told to be missing one by one
        os.chdir(folder)
    assert settings.out is not None
    shared = (Path(settings.out) / mark).is_file()
    return run_task(task, settings if shared else replace(settings, out=None))


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected; a connection that was there already stays."""
    try:
        import ray
    except ImportError as error:
        raise OptionError("--cluster needs Ray; install weighbridge[cluster] here and on the nodes.") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        _require_listener(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)  # its lines would break the bar
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        raise ClusterError(
            f'there is no Ray cluster at "{address}" ({_first_line(error)}); start one with `ray start`, or give the '
            "address of its head node as HOST:PORT."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise OSError or ValueError where nothing listens: Ray itself goes on trying for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("it is not HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


def _nodes(ray: Any) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _resources(ray: Any, device: str, threads: int | None) -> dict[str, int]:
    smallest = min((int(node["Resources"]["CPU"]) for node in _nodes(ray)), default=1)
    return {
        "num_cpus": threads or smallest,
        "num_gpus": 0 if device in _NO_GPU else 1,
    }


def _named(wanted: dict[str, int]) -> dict[str, int]:
    """The resources as the nodes call them."""
    return {name: wanted[key] for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")) if wanted[key]}


def _cause_of(error: Any) -> BaseException:
    cause = error.cause
    if isinstance(cause, WeighbridgeError):
        return cause
    if (reason := _not_imported(cause)) is not None:
        return ClusterError(
            f"a node of the Ray cluster lacks this version of weighbridge ({reason}); install it on each node."
        )
    return error  # a mistake of our own


def _not_imported(cause: object) -> str | None:
    """Why a node could not import what it was to run, from an older weighbridge or none; None where that is not it."""
    text = str(cause).strip()
    if isinstance(cause, ImportError) or (isinstance(cause, AttributeError) and text.startswith("Can't get attribute")):
        return text
    if isinstance(cause, RuntimeError) and text.startswith(_NOT_IMPORTED):
        return text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]  # of the traceback that it quotes
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
