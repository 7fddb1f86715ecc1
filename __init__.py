"""Weighbridge: compare the weights of neural-network checkpoints, tensor by tensor, at the speed of memory."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.checkpoint import Checkpoint, TensorRef
    from .engine.compare import compare, inspect, match
    from .engine.errors import WeighbridgeError
    from .engine.formats import open_checkpoint
    from .engine.lineage.acts import lineage
    from .engine.lineage.tree import Tree
    from .engine.matching import Ledger, LedgerRow
    from .engine.matrix import matrix, open_matrix
    from .engine.matrix_table import Matrix
    from .engine.results import Results, open_results
    from .engine.sweep import sweep
    from .engine.table import Comparison, Inspection, Row

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "Comparison",
    "Inspection",
    "Ledger",
    "LedgerRow",
    "Matrix",
    "Results",
    "Row",
    "TensorRef",
    "Tree",
    "WeighbridgeError",
    "compare",
    "inspect",
    "lineage",
    "match",
    "matrix",
    "open_checkpoint",
    "open_matrix",
    "open_results",
    "sweep",
]

# Each name is imported when it is first asked for: `weighbridge --help` must not wait for numpy.
_HOMES = {
    "Checkpoint": "checkpoint",
    "Comparison": "table",
    "Inspection": "table",
    "Ledger": "matching",
    "LedgerRow": "matching",
    "Matrix": "matrix_table",
    "Results": "results",
    "Row": "table",
    "TensorRef": "checkpoint",
    "Tree": "lineage.tree",
    "WeighbridgeError": "errors",
    "compare": "compare",
    "inspect": "compare",
    "lineage": "lineage.acts",
    "match": "compare",
    "matrix": "matrix",
    "open_checkpoint": "formats",
    "open_matrix": "matrix",
    "open_results": "results",
    "sweep": "sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f".engine.{_HOMES[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
