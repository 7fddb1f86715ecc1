"""Every bit pattern of every small dtype through the backends' decoders: both working types, tails and vectors."""

import numpy as np
import pytest

from weighbridge.kernels import reference
from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.layout import WIDTH

from support.kernel_cases import BACKENDS, CODES, Memory


def patterns(code):
    """Bytes of all patterns of up to 16 bits, of some of the others."""
    itemsize = DECODERS[code].itemsize
    if itemsize <= 2:
        return np.arange(256**itemsize, dtype=f"u{itemsize}").view(np.uint8)
    bits = 8 * itemsize
    one, infinity, negative = (
        (0x7F << 23, 0xFF << 23, 1 << 31) if itemsize == 4 else (0x3FF << 52, 0x7FF << 52, 1 << 63)
    )
    corners = [0, 1, negative - 1, negative, 2**bits - 1, one, infinity, negative + infinity, infinity + 1]
    drawn = np.random.default_rng(0).integers(0, 2**bits, 2000, f"u{itemsize}")
    return np.concatenate([np.array(corners, f"u{itemsize}"), drawn]).view(np.uint8)


@pytest.mark.parametrize("repeats", [1, WIDTH], ids=["tail", "vector"])
@pytest.mark.parametrize("working", ["own", "F64"])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_patterns(backend, code, working, repeats):
    """Tensors of equal elements: max|x| and Σx / elements are the element, whatever the order of addition."""
    raw = patterns(code)
    itemsize = DECODERS[code].itemsize
    count = raw.size // itemsize
    memory = Memory()
    tensors = np.repeat(raw.reshape(-1, itemsize), repeats, axis=0).reshape(-1)
    first = memory.put(tensors, shift=1) + np.arange(count) * itemsize * repeats
    codes, addresses = [code], first[:, None]
    if working == "F64":  # an operand that makes float64 the working type
        codes = [code, "F64"]
        zeros = memory.put(np.zeros(8 * repeats, np.uint8), shift=3)
        addresses = np.stack([first, np.full(count, zeros)], axis=1)
    selfs, _ = backend(addresses, codes, np.full(count, repeats), np.zeros((0, 2), np.int64))
    wanted = reference.decode(raw, code).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        totals = wanted * repeats
    np.testing.assert_array_equal(selfs[:, 0, 2], totals)
    np.testing.assert_array_equal(selfs[:, 0, 1], np.abs(totals))
    np.testing.assert_array_equal(selfs[:, 0, 4], np.abs(wanted))
    np.testing.assert_array_equal(selfs[:, 0, 5], np.where(np.isfinite(wanted), 0, repeats))
