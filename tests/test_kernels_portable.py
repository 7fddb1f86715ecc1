"""The portable backend on torch's CPU device, against exact arithmetic, from host memory and from an arena."""

import itertools

import numpy as np
import pytest
import torch

from weighbridge.kernels import portable
from weighbridge.kernels.decoders import DECODERS

from support.kernel_cases import (
    CODES,
    SMALL_SIZES,
    TWO,
    assert_same_bits_in_every_layout,
    check,
    check_against_reference,
    exact,
    nearby,
    random_tensor,
    raw,
    same_bits,
)

SIZES = (131_075, 5, 0, 70_000)


def backend(addresses, codes, elements, pairs):
    """The contract of `kernels.sums` by a tile whose bytes are in the memory of the host."""
    tile = portable.Tile(codes, elements, pairs, "cpu")
    addresses = np.ascontiguousarray(addresses, np.int64)
    for task in tile.tasks():
        tile.run(task, addresses)
    return tile.finish(lambda tensors: addresses[tensors], 1)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("related", [True, False])
def test_sizes(code, related):
    rng = np.random.default_rng(50)
    stack = []
    for size in SMALL_SIZES:
        base = random_tensor(code, size, rng)
        stack.append([base, nearby(base, code, rng) if related else random_tensor(code, size, rng)])
    check_against_reference(backend, stack, [code, code])


@pytest.mark.parametrize("codes", list(itertools.permutations(["F64", "F32", "BF16", "F8_E8M0", "I64", "BOOL"], 2)))
def test_mixed_dtypes(codes):
    rng = np.random.default_rng(51)
    check_against_reference(backend, [[random_tensor(code, 1500, rng) for code in codes]], codes)


def test_specials_stay_in_their_tensor():
    rng = np.random.default_rng(52)
    stack = [raw(*rng.normal(size=(2, 900))) for _ in range(4)]
    clean = backend_of(stack)
    for row, value in ((1, np.nan), (2, np.inf)):
        stack[row][0].view(np.float64)[77] = value
    check_against_reference(backend, stack, ["F64", "F64"])
    assert same_bits([part[::3].copy() for part in clean], [part[::3].copy() for part in backend_of(stack)])


def backend_of(stack):
    addresses = np.array([[operand.ctypes.data for operand in tensor] for tensor in stack])
    return backend(addresses, ["F64", "F64"], np.array([tensor[0].size // 8 for tensor in stack]), np.array(TWO))


@pytest.mark.parametrize("values", [[1e30, 1, -1e30], [1e-200, 3e-200], [1e200, -1e200, 1]])
def test_cancellation_and_the_ends_of_the_range(values):
    """What the device's sums do not certify is computed again from the memory of the host."""
    x = np.tile(values, 700)
    check_against_reference(backend, [raw(x, x[::-1]), raw(x, np.ones(x.size))], ["F64", "F64"])


@pytest.mark.parametrize("code", ["F32", "F64", "BF16"])
def test_a_pair_has_the_same_bits_in_every_layout(code):
    rng = np.random.default_rng(53)
    stack = [[random_tensor(code, size, rng) for _ in range(3)] for size in (1, 1024, 1025, 5000)]
    assert_same_bits_in_every_layout(backend, stack, [code] * 3)


def packed(task, stack, itemsize):
    """The bytes of a task, each run at a multiple of 16, and (K', N) where each first element lies or would lie."""
    parts, places, used = [], np.zeros((len(task), 2), np.int64), 0
    for row, (tensor, start, length, _) in enumerate(task.tolist()):
        for n, operand in enumerate(stack[tensor]):
            piece = operand[start * itemsize : (start + length) * itemsize]
            places[row, n] = used - start * itemsize
            parts.append(np.r_[piece, np.full(-piece.size % 16, 0xFF, np.uint8)])
            used += parts[-1].size
    return torch.from_numpy(np.concatenate(parts)), places


@pytest.mark.parametrize("code", ["F32", "BF16", "F64", "F8_E4M3", "I64"])
def test_same_bits_from_an_arena_in_tasks_of_any_size(code):
    """The arena is overwritten after each task, as a ring of buffers is."""
    rng = np.random.default_rng(54)
    base = [random_tensor(code, size, rng) for size in SIZES]
    stack = [[tensor, nearby(tensor, code, rng)] for tensor in base]
    host = np.array([[operand.ctypes.data for operand in tensor] for tensor in stack])
    results = [backend(host, [code, code], np.array(SIZES), np.array(TWO))]
    for task_bytes in (1, 300_000, 1 << 30):
        tile = portable.Tile([code, code], np.array(SIZES), np.array(TWO), "cpu")
        for task in tile.tasks(task_bytes):
            arena, places = packed(task, stack, DECODERS[code].itemsize)
            renumbered = np.c_[np.arange(len(task)), task[:, 1:]]
            taken = tile.run(renumbered, places + arena.data_ptr(), arena=arena)
            assert taken == task[:, 2].sum() * 2 * DECODERS[code].itemsize
            arena.fill_(0xFF)
        results.append(tile.finish(lambda tensors: host[tensors], 1))
    check(results[0], exact(stack, [code, code]))
    assert all(same_bits(results[0], result) for result in results[1:])


@pytest.mark.parametrize("code", ["F64", "F32"])
def test_sums_that_cancel_are_certified_on_the_device(code):
    """Σx and Σxy are a millionth of what was added: wrong in the eleventh digit unless rounding errors are kept."""
    rng = np.random.default_rng(55)
    half, partner = rng.normal(0, 1, (2, 30_000))
    x = np.r_[half, -half + 1e-6 * np.abs(rng.normal(size=half.size))]
    y = np.r_[partner, partner]
    order = rng.permutation(x.size)
    tensor = raw(x[order], y[order], dtype={"F64": np.float64, "F32": np.float32}[code])
    tile = portable.Tile([code, code], np.array([x.size]), np.array(TWO), "cpu")
    host = np.array([[operand.ctypes.data for operand in tensor]])
    for task in tile.tasks():
        tile.run(task, host)
    found = tile.finish(lambda tensors: pytest.fail(f"{tensors} were looked at again"), 1)
    check(found, exact([tensor], [code, code]))
