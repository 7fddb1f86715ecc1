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
from typing import Any

from .errors import ClusterError, OptionError, WeighbridgeError
from .store import Store
from .sweep_record import keep
from .sweep_task import Outcome, Settings, Task, run_task
from .workers import Done, given_up, singly

__all__ = ["arithmetic_on", "run_ray", "slots_of"]

_RETRIES = 2  # of a task whose process or node died
_CONNECT_SECONDS = 10
_NO_GPU = ("auto", "cpu", "portable:cpu")


def arithmetic_on(address: str, device: str, threads: int | None = None) -> str:
    """What the last bits follow from where the cluster computes, see `devices.arithmetic`; this machine may lack a GPU.

    A node that has the device free is asked, the processor is not. Every task looks again, on its own node.

    Raises:
        OptionError, ClusterError: as for `run_ray`.
        DeviceError: the node cannot use the device; says why.
    """
    from .devices import arithmetic

    if device == "cpu":
        return arithmetic([])
    with _connected(address) as ray:
        wanted = _resources(ray, device, threads)
        _slots(ray, address, wanted)
        try:
            return str(ray.get(ray.remote(**wanted)(_arithmetic_here).remote(device, threads)))
        except ray.exceptions.RayTaskError as error:
            raise _cause_of(error) from error
        except ray.exceptions.RayError as error:
            raise ClusterError(f"the Ray cluster at {address} was lost ({_first_line(error)}).") from error


def _arithmetic_here(device: str, threads: int | None) -> str:
    from .devices import arithmetic, choose

    return arithmetic(choose(device, (), 0, threads, None))


def slots_of(address: str, settings: Settings) -> int:
    """How many tasks the cluster can run at a time.

    Raises:
        OptionError: Ray is not installed.
        ClusterError: there is no cluster at the address, or no node of it can run a task.
    """
    with _connected(address) as ray:
        return _slots(ray, address, _resources(ray, settings.device, settings.threads))


def _slots(ray: Any, address: str, wanted: dict[str, int]) -> int:
    slots = [
        min(int(node["Resources"].get(name, 0) // amount) for name, amount in _named(wanted).items())
        for node in _nodes(ray)
    ]
    if not any(slots):
        needs = " and ".join(f"{amount:g} {name}" for name, amount in _named(wanted).items())
        raise ClusterError(
            f"no node of the Ray cluster at {address} has {needs}, which a task needs; give fewer --threads, or "
            "another --device."
        )
    return sum(slots)


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
        ClusterError: there is no cluster at the address, it is lost, or its nodes lack weighbridge.
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
                outcomes = ray.get(ready)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
                if len(task.others) > 1:
                    running |= {remote.remote(each, there, os.getcwd(), writer.mark): each for each in singly(task)}
                else:
                    yield task, given_up(task, settings, f"its process ended {_RETRIES + 1} times on the cluster")
                continue
            except ray.exceptions.RayTaskError as error:
                raise _cause_of(error) from error
            except ray.exceptions.RayError as error:
                raise ClusterError(
                    f"the Ray cluster at {address} was lost ({_first_line(error)}); what is finished is kept: run the "
                    "same command again."
                ) from error
            yield task, keep(outcomes, settings) if any(each.table is not None for each in outcomes) else outcomes


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
    if isinstance(cause, ImportError):
        return ClusterError(
            f"a node of the Ray cluster lacks weighbridge ({cause}); install this version on each node."
        )
    return error  # a mistake of our own


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
