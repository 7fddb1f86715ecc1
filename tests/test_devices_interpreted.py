"""The fused kernels through the pipeline, by Triton's interpreter: the way of a GPU, on any machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("weighbridge.kernels.gpu")
pytest.importorskip("triton")

CODE = """
import sys
import threading
from pathlib import Path
import numpy as np
from triton.runtime.interpreter import InterpretedFunction
from weighbridge.engine import lane
from weighbridge.engine.devices import FUSED, Device
from weighbridge.engine.execute import execute
from weighbridge.kernels.gpu import Tile, levels
from support.kernel_cases import same_bits
from support.lanes import computed, related_files

# A GPU takes launches from any thread; the interpreter keeps the place of its program in a global.
run, alone = InterpretedFunction.run, threading.Lock()
def run_alone(*args, **options):
    with alone:
        return run(*args, **options)
InterpretedFunction.run = run_alone

STAR = [(1, 0), (2, 0)]
tensors = related_files(Path(sys.argv[1]), 3, ["F32", "BF16", "F8_E4M3", "F64", "F32"], [1000, 70, 300, 50, 0])
wanted = execute(tensors, 3, STAR, device="cpu")
usual, _ = computed(tensors, 3, STAR, devices=[Device("cpu", FUSED)])
np.testing.assert_allclose(usual[0], wanted.selfs, rtol=2e-12)
np.testing.assert_allclose(usual[1], wanted.pairs, rtol=2e-12)
found, _ = computed(tensors, 3, STAR, devices=[Device("cpu", FUSED)], io="pread", buffer_bytes=1, buffers=2)
assert same_bits(usual, found)

large = related_files(Path(sys.argv[1]), 1, ["I8"], [65_600])  # two chunks, one for each device
usual, _ = computed(large, 1, [], devices=[Device("cpu", FUSED)])
found, line = computed(large, 1, [], devices=[Device("cpu", FUSED)] * 2, buffer_bytes=1)
assert same_bits(usual, found)
copied = line.bytes_copied

# Four chunks, and room for the slots of one at a time; two are a group, and what groups come to is added after that.
Tile.GROUP = levels.FAN = 2
large = related_files(Path(sys.argv[1]), 1, ["F32"], [3 * 65_536 + 9])
usual, _ = computed(large, 1, [], devices=[Device("cpu", FUSED)])
lane._SLOTS = 5000
found, _ = computed(large, 1, [], devices=[Device("cpu", FUSED)], device_bytes=4 * 5000 * 56)
assert same_bits(usual, found)
print("as wanted", copied)
"""


def test_fused_kernels_in_the_pipeline(tmp_path):
    """Triton reads TRITON_INTERPRET when kernels are defined: a process of its own."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    line = [sys.executable, "-c", CODE, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "as wanted 65600\n", done.stderr
