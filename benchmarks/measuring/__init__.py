"""What every question of benchmarks/ shares: timing in turn, the machine's ceiling, made-up weights, recorded rows."""

from .cache import drop, kept_warm, resident, warm
from .ceiling import Span, bare_sum, cold_read, joined_spans
from .results import Row, record, recorded, row_of
from .size import SCALE, scaled
from .turns import Seconds, Times, command, in_turn
from .weights import (
    ELEMENTS,
    TORCH_NAMES,
    Block,
    joined,
    moved,
    plainly,
    related,
    spans,
    torch_dtype,
    write,
    write_pair,
)

__all__ = [
    "ELEMENTS",
    "SCALE",
    "TORCH_NAMES",
    "Block",
    "Row",
    "Seconds",
    "Span",
    "Times",
    "bare_sum",
    "cold_read",
    "command",
    "drop",
    "in_turn",
    "joined",
    "joined_spans",
    "kept_warm",
    "moved",
    "plainly",
    "record",
    "recorded",
    "related",
    "resident",
    "row_of",
    "scaled",
    "spans",
    "torch_dtype",
    "warm",
    "write",
    "write_pair",
]
