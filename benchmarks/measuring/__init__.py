"""What every question of benchmarks/ shares: timing in turn, the machine's ceiling, recorded rows."""

from .ceiling import bare_sum
from .results import Row, record, recorded
from .turns import Times, command, in_turn

__all__ = ["Row", "Times", "bare_sum", "command", "in_turn", "record", "recorded"]
