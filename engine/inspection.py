"""What one checkpoint holds, and what its tensors sum to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint
from .strict import exact

__all__ = ["STATISTICS", "Inspection"]

STATISTICS = ("mean", "mean_abs", "l2", "max_abs", "nonfinite")


@dataclass(eq=False)
class Inspection:
    """One checkpoint's tensors, with their self sums where they were asked for.

    Attributes:
        checkpoint: the checkpoint; T tensors.
        self_sums: None, or (T, 6) float64 in the order of `checkpoint.tensors`: elements, Σ|x|, Σx, Σx², max|x|,
            non-finite elements. A row of NaN is a tensor whose dtype cannot be decoded.
        bytes_read: the bytes of the tensors that were read.
        seconds: how long that took.
    """

    checkpoint: Checkpoint
    self_sums: NDArray[np.float64] | None = None
    bytes_read: int = 0
    seconds: float = 0.0

    @cached_property
    def statistics(self) -> dict[str, NDArray[np.float64]]:
        """Statistic -> (T,) float64: Σx/n, Σ|x|/n, sqrt(Σx²), max|x|, non-finite elements; {} without self sums."""
        if self.self_sums is None:
            return {}
        elements, sum_abs, total, sum_sq, max_abs, nonfinite = self.self_sums.T
        with np.errstate(all="ignore"):
            columns = (total / elements, sum_abs / elements, np.sqrt(sum_sq), max_abs, nonfinite)
        return dict(zip(STATISTICS, columns, strict=True))

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A dict per tensor in file order: tensor, dtype, shape, elements, bytes, and the statistics there are."""
        out = []
        for index, (name, ref) in enumerate(self.checkpoint.tensors.items()):
            row: dict[str, Any] = {
                "tensor": name,
                "dtype": ref.dtype,
                "shape": list(ref.shape),
                "elements": ref.elements,
                "bytes": ref.nbytes,
            }
            for statistic, column in self.statistics.items():
                value = float(column[index])
                row[statistic] = int(value) if statistic == "nonfinite" and not np.isnan(value) else value
            out.append(row)
        return out

    @property
    def totals(self) -> dict[str, int]:
        """Tensors, elements and bytes of the whole checkpoint."""
        return _totals(self.rows)

    @property
    def dtypes(self) -> dict[str, dict[str, int]]:
        """dtype -> its tensors, elements and bytes, the one with most bytes first."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(row["dtype"], []).append(row)
        totals = {dtype: _totals(rows) for dtype, rows in found.items()}
        return dict(sorted(totals.items(), key=lambda item: -item[1]["bytes"]))

    def to_dict(self) -> dict[str, Any]:
        """What `weighbridge inspect --format json` writes; NaN and infinity are None."""
        checkpoint = self.checkpoint
        return {
            "checkpoint": checkpoint.label,
            "path": checkpoint.path,
            "format": checkpoint.format,
            "files": list(checkpoint.files),
            "identity": checkpoint.identity,
            "totals": self.totals,
            "dtypes": self.dtypes,
            "tied": [list(group) for group in checkpoint.tied],
            "tensors": [
                {key: exact(value) if isinstance(value, float) else value for key, value in row.items()}
                for row in self.rows
            ],
        }

    def __repr__(self) -> str:
        from .report.text import size

        totals = self.totals
        dtypes = ", ".join(f"{dtype} {counts['tensors']}" for dtype, counts in self.dtypes.items())
        return (
            f"Inspection({self.checkpoint.label!r})\n"
            f"  {totals['tensors']} tensors, {totals['elements']:,} elements, {size(totals['bytes'])} ({dtypes})"
        )

    def _repr_html_(self) -> str:
        from .report.html_table import inspection_html

        return inspection_html(self)


def _totals(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "tensors": len(rows),
        "elements": sum(row["elements"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
    }
