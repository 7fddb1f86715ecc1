"""Resident memory, mapped file pages aside, is bounded however large the checkpoints are."""

import subprocess
import sys

import pytest

from support.raw_files import sparse_checkpoint

SCRIPT = """
import sys
from weighbridge import compare

def anonymous():
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024

import numpy, llvmlite.binding
seen = [anonymous()]
how = {"io": sys.argv[3], "threads": int(sys.argv[4])}
result = compare(sys.argv[1], sys.argv[2], **how, progress=lambda done, total: seen.append(anonymous()))
assert result.rows[0].metrics["delta"] == 0
print(max(seen) - seen[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("io", "threads"), [("map", 2), ("pread", 2), ("pread", 64)])
def test_anonymous_memory_stays_under_300_mb(tmp_path, io, threads):
    base, other = (sparse_checkpoint(tmp_path / name, elements=1 << 28) for name in ("base", "other"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, base, other, io, str(threads)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert int(done.stdout) < 300_000_000
