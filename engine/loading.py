"""The machine code that a plan needs: loaded, or compiled once for this processor or GPU, before anything is timed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..kernels import native
from ..kernels.cpu import functions
from ..kernels.wanted import Wanted
from .devices import FUSED, Device
from .errors import KernelError

__all__ = ["Say", "load_gpu_kernels", "load_kernels"]

Say = Callable[[str], object]

_loaded: set[tuple[str, Wanted]] = set()  # what this process has, also where nothing can be kept on disk

# Triton does not tell beforehand whether it has to compile. To find a kernel in its cache takes 0.5 s for the first of
# a process and 4 ms for the others; to compile one takes 2 s or more.
_SILENT_SECONDS = 1.5
_announced = threading.Event()
_compiled: set[tuple[str, tuple[str, ...], int, Wanted]] = set()  # device, dtypes, hash of the pairs, sums


def load_kernels(dtypes: Iterable[tuple[str, ...]], pairs: np.ndarray, wanted: Wanted, say: Say | None = None) -> None:
    """Makes sure that every function that such tiles call is there.

    Args:
        dtypes: the operands' dtypes, one tuple for each tile.
        pairs: (P, 2), of all tiles.
        wanted: the sums that they take.
        say: told in a sentence when something must be compiled, which takes seconds.
    Raises:
        KernelError: the compiler failed; says which versions of it, and what it said.
    """
    walks = {functions(codes, pairs, wanted) for codes in dtypes}
    needed = sorted({*walks, ("gather", Wanted.ALL)} - _loaded) if walks else []
    try:
        if say is not None and not all(native.is_cached(*each) for each in needed):
            say("compiling the kernels for this processor, once")
        for each in needed:
            native.function(*each)
            _loaded.add(each)
    except Exception as error:  # numba and llvmlite raise whatever they like
        from importlib.metadata import version

        raise KernelError(
            f"the kernels cannot be compiled for this processor with numba {version('numba')} and llvmlite "
            f"{version('llvmlite')} ({_told(error)}); install weighbridge into a fresh environment."
        ) from error


def load_gpu_kernels(
    devices: Sequence[Device],
    dtypes: Iterable[tuple[str, ...]],
    pairs: np.ndarray,
    wanted: Wanted,
    say: Say | None = None,
) -> None:
    """Makes sure that every fused kernel that tiles of these dtypes launch is there, on every device that runs them.

    Args:
        devices: those that take part; plain torch operations are compiled already.
        dtypes: the operands' dtypes, one tuple for each tile.
        pairs: (P, 2) int64, of every tile.
        wanted: the sums that they take.
        say: told in a sentence, once in the life of a process, when kernels must be compiled, which takes seconds.
    Raises:
        KernelError: the compiler failed; says which version of it, and what it said.
    """
    tiles, pattern = sorted(set(dtypes)), hash(pairs.tobytes())
    fused = [device for device in devices if device.backend == FUSED]
    missing = {(device.name, codes, pattern, wanted): device for device in fused for codes in tiles}
    missing = {key: device for key, device in missing.items() if key not in _compiled}
    if not missing:
        return
    with _announcing(say):
        for (name, codes, *_), device in missing.items():
            try:
                device.kernels.compile_ahead(codes, pairs, name, wanted=wanted, float64=device.float64)
            except Exception as error:  # Triton, LLVM and ptxas raise whatever they like
                from importlib.metadata import version

                raise KernelError(
                    f"the kernels cannot be compiled for {name} with Triton {version('triton')} ({_told(error)}); "
                    "install another version of it, or use --device cpu."
                ) from error
    _compiled.update(missing)


@contextmanager
def _announcing(say: Say | None) -> Iterator[None]:
    """Says that kernels are compiled, as soon as what is done within has taken too long for anything else."""

    def announce() -> None:
        if say is not None and not _announced.is_set():
            _announced.set()
            say("compiling the kernels for this GPU, once")

    timer = threading.Timer(_SILENT_SECONDS, announce)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _told(error: Exception) -> str:
    """The first line of what an error says, as a clause."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".: ")
