"""The fused kernels without a GPU: their tests in a process in which Triton interprets kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_the_kernels_under_the_interpreter():
    """Triton reads TRITON_INTERPRET when kernels are defined, so this process cannot do both."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu", str(TESTS / "test_kernels_gpu.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=TESTS.parent, env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout, done.stdout
