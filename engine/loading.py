"""The machine code that a plan needs: loaded, or compiled once for this processor, before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..kernels import native
from ..kernels.cpu import functions
from ..kernels.wanted import Wanted
from .errors import KernelError

__all__ = ["Say", "load_kernels"]

Say = Callable[[str], object]

_loaded: set[tuple[str, Wanted]] = set()  # what this process has, also where nothing can be kept on disk


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

        what = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".: ")
        raise KernelError(
            f"the kernels cannot be compiled for this processor with numba {version('numba')} and llvmlite "
            f"{version('llvmlite')} ({what}); install weighbridge into a fresh environment."
        ) from error
