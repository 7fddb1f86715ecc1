"""The machine code that a plan needs: loaded, or compiled once for this processor, before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..kernels import native
from ..kernels.decoders import DECODERS
from .errors import KernelError

__all__ = ["Say", "load_kernels"]

Say = Callable[[str], object]

_loaded: set[str] = set()  # what this process has, also where nothing can be kept on disk


def load_kernels(dtypes: Iterable[tuple[str, ...]], say: Say | None = None) -> None:
    """Makes sure that every function that tiles of these dtypes call is there.

    Args:
        dtypes: the operands' dtypes, one tuple for each tile.
        say: told in a sentence when something must be compiled, which takes seconds.
    Raises:
        KernelError: the compiler failed; says which versions of it, and what it said.
    """
    runs = {"run_f32" if all(DECODERS[code].wide == "f32" for code in codes) else "run_f64" for codes in dtypes}
    names = sorted({*runs, "gather"} - _loaded) if runs else []
    try:
        if say is not None and not all(map(native.is_cached, names)):
            say("compiling the kernels for this processor, once")
        for name in names:
            native.function(name)
            _loaded.add(name)
    except Exception as error:  # numba and llvmlite raise whatever they like
        from importlib.metadata import version

        what = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(".: ")
        raise KernelError(
            f"the kernels cannot be compiled for this processor with numba {version('numba')} and llvmlite "
            f"{version('llvmlite')} ({what}); install weighbridge into a fresh environment."
        ) from error
