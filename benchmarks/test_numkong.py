"""Are all our sums as fast as NumKong's `angular`, which gives one of our numbers?

Timed: one call of the kernel for two float32 tensors of 64 Mi elements in memory: all eleven sums.
Against: NumKong's cosine distance of the same two, its C function called straight, so that it holds no interpreter lock
and starts as fast as C does; each thread has its part of the tensors. On one thread and on all.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numkong
import numpy as np
import pytest

from weighbridge.engine import metrics
from weighbridge.kernels import cpu

from measuring import bare_sum, in_turn, plainly, related, scaled

PAIRS = np.array([[1, 0]])

# void (float const *a, float const *b, size_t n, double *result); numkong.angular itself keeps the interpreter lock.
_angular = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_double))(
    numkong.pointer_to_angular("f32")
)


def angular(part):
    result = ctypes.c_double()
    x, y = part
    _angular(x.ctypes.data, y.ctypes.data, x.size, ctypes.byref(result))
    return result.value


@pytest.mark.parametrize("threads", sorted({1, cpu.available_threads()}))
def test_in_memory(benchmark, recorder, threads):
    block = related("F32")
    repeats = scaled(64 << 20, block.base.size) // (block.base.size // 4)
    base, other = (np.tile(side, repeats).view(np.float32) for side in block)
    addresses = np.array([[base.ctypes.data, other.ctypes.data]])
    elements = np.array([base.size])

    def ours():
        return cpu.tile_sums(addresses, ["F32", "F32"], elements, PAIRS, threads=threads)

    def theirs():
        if threads == 1:
            return angular((other, base))
        parts = zip(np.array_split(other, threads), np.array_split(base, threads), strict=True)
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(angular, parts))

    selfs, pair = (sums[0] for sums in ours())
    wanted_selfs, wanted_pair = plainly(*block, "F32", repeats)
    np.testing.assert_allclose(selfs, wanted_selfs, rtol=1e-12)
    np.testing.assert_allclose(pair, wanted_pair, rtol=1e-12)
    distance = metrics.compute(selfs[1:], selfs[:1], pair)["cosine_distance"][0]
    assert angular((other, base)) == pytest.approx(distance, rel=1e-4)
    assert angular((other, base)) == float(numkong.angular(other, base)), "the C function is the Python one"

    ways = "1 thread" if threads == 1 else f"{threads} threads"
    against = f"numkong angular, {ways}"
    times = in_turn(
        benchmark,
        {f"all sums, {ways}": ours, against: theirs, "bare sum of both": bare_sum(base, other, threads=threads)},
    )
    recorder(times, against=against, asked=">= 1", ceiling="bare sum of both", bytes=2 * base.nbytes)
