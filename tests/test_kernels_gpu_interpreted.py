"""The fused kernels without a GPU, by Triton's interpreter: their tests, and what is small of every backend's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernels_gpu", "kernels_cpu", "kernels_accuracy", "exact_numbers"])
def test_the_kernels_under_the_interpreter(name):
    """Triton reads TRITON_INTERPRET when kernels are defined, so this process cannot do both."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu and interpreted", str(TESTS / f"test_{name}.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=TESTS.parent, env={**os.environ, "TRITON_INTERPRET": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout, done.stdout
