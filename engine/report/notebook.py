"""The notebook's own table: the same lines, columns and decimals, for diffing against what it printed."""

from __future__ import annotations

from ..summary import KINDS
from ..table import Comparison
from .text import plain

__all__ = ["notebook_text"]

_COLUMNS = ("mean_abs", "base_mean_abs", "delta", "cosine")


def notebook_text(comparison: Comparison) -> str:
    """The other's path and a colon, the totals, six kinds with the means of four metrics, an empty line.

    Five decimals, fields separated by tabs. A kind without tensors has nan for its means, as the notebook would.
    """
    totals = comparison.totals
    lines = [
        f"{plain(comparison.other)}:",
        f"total_weights (tensors) {totals['other']}",
        f"total_transferred_weights (tensors) {totals['matched']}",
        "type\tn\tvolta_avg\tbert_avg\tdelta_avg\tcossim_avg",
    ]
    groups = {group["kind"]: group for group in comparison.summary("kind")}
    for kind in KINDS[:6]:
        group = groups[kind]
        lines.append("\t".join([kind, str(group["n"]), *(f"{group[name]:.5f}" for name in _COLUMNS)]))
    return "\n".join(lines) + "\n\n"
