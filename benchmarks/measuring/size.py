"""How large the questions are asked."""

import os

SCALE = float(os.environ.get("WEIGHBRIDGE_BENCH_SCALE", "1"))
"""1 for a measurement; 0.01, say, to try a benchmark out in seconds, whose rows are then shown but not recorded."""


def scaled(count: int, multiple: int = 1) -> int:
    """`count` at this scale, rounded to a multiple, and at least one of it."""
    return max(int(count * SCALE) // multiple, 1) * multiple
