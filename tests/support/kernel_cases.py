"""One table for the tests of every kernel backend: backends, tensors, where they lie, and what is close enough."""

import itertools

import numpy as np
import pytest

from weighbridge.kernels import cpu, reference
from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.gpu.available import interpreted
from weighbridge.kernels.layout import BLOCK
from weighbridge.kernels.sums import CHUNK, PAIR_SUMS, SELF_SUMS

from support import gpu_backend

BACKENDS = {} if interpreted() else {"cpu": cpu.tile_sums}
"""name -> tile_sums(addresses, codes, elements, pairs, *, threads=None) with the contract of `kernels.sums`.

Those of the GPU are there on a machine with a CUDA device; under TRITON_INTERPRET=1 they are the only ones.
"""
if gpu_backend.usable():
    BACKENDS["gpu"] = pytest.param(gpu_backend.tile_sums, marks=pytest.mark.gpu)
    BACKENDS["gpu in float32"] = pytest.param(gpu_backend.in_float32, marks=pytest.mark.gpu)

CODES = tuple(DECODERS)
SMALL_SIZES = (0, 1, 2, 15, 16, 17, 31, 33, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5)
if interpreted():
    SMALL_SIZES = (0, 1, 17, BLOCK + 1)  # the interpreter takes 0.1 s for each
LARGE_SIZES = (CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3)
SHIFTS = (0, 1, 3, 2, 7, 5)  # bytes past an aligned address

TWO = [(1, 0)]

SELF_EXACT = [SELF_SUMS.index(name) for name in ("elements", "max_abs", "nonfinite")]
PAIR_EXACT = [PAIR_SUMS.index(name) for name in ("max_abs_diff", "differing")]
TOLERANCE = 1e-12

_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def random_tensor(code: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Finite values as bytes: floats like weights, any finite 8-bit pattern, integers from all of their range."""
    if code in _FLOATS:
        return rng.normal(0, 0.05, size).astype(_FLOATS[code]).view(np.uint8)
    if code == "BF16":
        return (rng.normal(0, 0.05, size).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    if code == "BOOL":
        return rng.integers(0, 2, size, np.uint8)
    if DECODERS[code].integer:
        dtype = np.dtype(f"{code[0].lower()}{DECODERS[code].itemsize}")
        bits = min(8 * dtype.itemsize - (code[0] == "I"), 53)
        low = -(2**bits) if code[0] == "I" else 0
        return rng.integers(low, 2**bits, size, dtype).view(np.uint8)
    finite = np.flatnonzero(np.isfinite(reference.decode(np.arange(256, dtype=np.uint8), code))).astype(np.uint8)
    return rng.choice(finite, size)


def nearby(tensor: np.ndarray, code: str, rng: np.random.Generator) -> np.ndarray:
    """A copy in which about every tenth element has another value, as in a fine-tuned checkpoint."""
    itemsize = DECODERS[code].itemsize
    rows = tensor.reshape(-1, itemsize).copy()
    fresh = random_tensor(code, len(rows), rng).reshape(-1, itemsize)
    changed = rng.random(len(rows)) < 0.1
    rows[changed] = fresh[changed]
    return rows.reshape(-1)


class Memory:
    """Tensors put at addresses of any alignment; the bytes before and after each are NaN in most dtypes."""

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []

    def put(self, tensor: np.ndarray, shift: int = 0) -> int:
        buffer = np.full(tensor.size + 256, 0xFF, np.uint8)
        start = -buffer.ctypes.data % 64 + 64 + shift
        buffer[start : start + tensor.size] = tensor
        self._held.append(buffer)
        return buffer.ctypes.data + start


def raw(*operands: object, dtype: type = np.float64) -> list[np.ndarray]:
    """Lists of numbers as bytes."""
    with np.errstate(over="ignore"):
        return [np.ascontiguousarray(operand, dtype).view(np.uint8) for operand in operands]


def run(backend, stack, codes, pairs=TWO, **options):
    """A backend on K tensors given as bytes, each operand at another alignment: (K, N, 6) and (K, P, 5)."""
    memory = Memory()
    place = iter(range(1 << 30))
    addresses = [[memory.put(operand, SHIFTS[next(place) % len(SHIFTS)]) for operand in tensor] for tensor in stack]
    elements = [tensor[0].size // DECODERS[codes[0]].itemsize for tensor in stack]
    pairs = np.array(pairs, np.int64).reshape(-1, 2)
    shaped = np.array(addresses, np.int64).reshape(len(stack), len(codes))
    return backend(shaped, codes, np.array(elements, np.int64), pairs, **options)


def exact(stack, codes, pairs=TWO):
    """What `run` must return, by `reference`."""
    pairs = np.array(pairs, np.int64).reshape(-1, 2)
    rows = [reference.tile_sums(tensor, codes, pairs) for tensor in stack]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def check(actual, expected):
    """Counts and maxima equal, every sum within TOLERANCE relative; NaN and infinity where they belong."""
    for found, wanted, equal in zip(actual, expected, (SELF_EXACT, PAIR_EXACT), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found[..., equal], wanted[..., equal])
        np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=0)


def check_against_reference(backend, stack, codes, pairs=TWO, **options):
    check(run(backend, stack, codes, pairs, **options), exact(stack, codes, pairs))


def same_bits(first, second):
    """Whether two results are equal to the last bit, the sign of zero included."""
    return all(np.array_equal(a.view(np.int64), b.view(np.int64)) for a, b in zip(first, second, strict=True))


def assert_same_bits_in_every_layout(backend, stack, codes):
    """Each operand's sums and each pair's are those that a tile of nothing else gives."""
    operands = len(codes)
    alone_self = {n: run(backend, [[t[n]] for t in stack], [codes[n]], [])[0][:, 0] for n in range(operands)}
    alone = {}
    for i, j in itertools.permutations(range(operands), 2):
        alone[i, j] = run(backend, [[t[j], t[i]] for t in stack], [codes[j], codes[i]])[1][:, 0]
    stars = [(n, 0) for n in range(1, operands)]
    for pairs in (stars, stars[::-1], list(itertools.permutations(range(operands), 2)), [(1, 0)], [(0, 1)]):
        selfs, between = run(backend, stack, codes, pairs)
        for n in range(operands):
            assert same_bits([selfs[:, n].copy()], [alone_self[n]]), f"operand {n} of {pairs}"
        for p, pair in enumerate(pairs):
            assert same_bits([between[:, p].copy()], [alone[pair]]), f"{pair} of {pairs}"
