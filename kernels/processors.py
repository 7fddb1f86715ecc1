"""How many processors this process may use: what it is pinned to, and what its control group lets it have."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["available_threads"]


def available_threads(root: Path = Path("/")) -> int:
    """The processors of the affinity mask, or fewer where a control group has a quota of processor time.

    A container that may use the time of two processors sees all 64 of its host, and 64 threads would take turns: with
    the quota used up, all of them stand still for the rest of each tenth of a second.

    Args:
        root: where the system's files are looked for (Linux, control groups version 2).
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota(root))))


def _quota(root: Path) -> float:
    """The least quota of the control groups that this process is in, in processors; infinite where there is none."""
    least = math.inf
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return least
    mounted = root / "sys/fs/cgroup"
    inner = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    for group in (mounted / inner, *(mounted / inner).parents):
        try:
            limit, period = (group / "cpu.max").read_text().split()[:2]
            least = min(least, int(limit) / int(period))
        except (OSError, ValueError):  # no such file at the top; "max" where there is no limit
            pass
        if group == mounted:
            break
    return least
