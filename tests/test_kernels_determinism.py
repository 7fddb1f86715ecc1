"""The same bits for any number of threads, any tasks in any order, any stack, and whatever ran before."""

import subprocess
import sys

import numpy as np
import pytest

from weighbridge.kernels import cpu
from weighbridge.kernels.layout import BLOCK, PAIR_SLOTS, SELF_SLOTS
from weighbridge.kernels.sums import CHUNK

from support.kernel_cases import BACKENDS, TWO, Memory, nearby, random_tensor, raw, run, same_bits

SIZES = (CHUNK + 1, 5, 0, 2 * CHUNK + 3, BLOCK, 1, 700)


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def backend(request):
    return request.param


def stack_of(code, operands=2):
    rng = np.random.default_rng(30)
    stack = []
    for size in SIZES:
        base = random_tensor(code, size, rng)
        stack.append([base, *(nearby(base, code, rng) for _ in range(operands - 1))])
    return stack


@pytest.fixture(scope="module", params=["F64", "F32", "BF16", "I8"])
def tensors(request):
    return request.param, stack_of(request.param)


@pytest.mark.parametrize("threads", [2, 5, 64])
def test_threads(backend, tensors, threads):
    code, stack = tensors
    alone = run(backend, stack, [code, code], threads=1)
    assert same_bits(alone, run(backend, stack, [code, code], threads=threads))


def test_repeated(backend, tensors):
    code, stack = tensors
    first = run(backend, stack, [code, code], threads=2)
    assert all(same_bits(first, run(backend, stack, [code, code], threads=2)) for _ in range(3))


def test_tensor_by_tensor(backend, tensors):
    code, stack = tensors
    together = run(backend, stack, [code, code])
    one_by_one = [run(backend, [tensor], [code, code]) for tensor in stack]
    assert same_bits(together, [np.concatenate(parts) for parts in zip(*one_by_one, strict=True)])


def test_order_of_tensors(backend, tensors):
    code, stack = tensors
    order = np.random.default_rng(31).permutation(len(stack))
    forwards, shuffled = (run(backend, [stack[k] for k in which], [code, code]) for which in (range(len(stack)), order))
    assert same_bits([part[order] for part in forwards], shuffled)


def tile_of(code, stack):
    memory = Memory()
    addresses = np.array([[memory.put(operand) for operand in tensor] for tensor in stack])
    tile = cpu.Tile([code, code], np.array(SIZES), np.array(TWO))
    return tile, addresses, memory


def finished(tile, addresses):
    return tile.finish(lambda tensors: addresses[tensors], 1)


@pytest.mark.parametrize("task_bytes", [2000, 100_000, 1 << 20, 1 << 40])
def test_task_bytes(tensors, task_bytes):
    code, stack = tensors
    tile, addresses, _memory = tile_of(code, stack)
    for part in tile.parts(3):
        tasks = tile.tasks(3, part, task_bytes)
        np.testing.assert_array_equal(np.concatenate(tasks), part)
        assert all(len(task) for task in tasks)
        for task in tasks:
            tile.run(task, addresses)
    assert same_bits(run(cpu.tile_sums, stack, [code, code]), finished(tile, addresses))


@pytest.mark.parametrize("chunks", [2, 3, 5])
def test_slots_used_again(tensors, chunks):
    """A tensor of three chunks or more is added up over several parts."""
    code, stack = tensors
    tile, addresses, _memory = tile_of(code, stack)
    parts = 0
    for part in tile.parts(1, slot_bytes=chunks * 8 * (2 * SELF_SLOTS + PAIR_SLOTS)):
        assert len(part) <= chunks
        tile.run(part, addresses)
        parts += 1
    assert parts == -(-len(tile.items) // chunks)
    assert same_bits(run(cpu.tile_sums, stack, [code, code]), finished(tile, addresses))


@pytest.mark.parametrize("seed", range(3))
def test_items_in_any_order(tensors, seed):
    code, stack = tensors
    tile, addresses, _memory = tile_of(code, stack)
    done = 0
    for part in tile.parts(1):
        items = np.random.default_rng(seed).permutation(part)
        done += sum(tile.run(some, addresses) for some in np.array_split(items, 4))
    assert done == sum(operand.size for tensor in stack for operand in tensor)
    assert same_bits(run(cpu.tile_sums, stack, [code, code]), finished(tile, addresses))


def test_items_cover_every_element_once():
    items = cpu.Tile(["F32"], np.array(SIZES), np.zeros((0, 2))).items
    for tensor, size in enumerate(SIZES):
        own = items[items[:, 0] == tensor]
        np.testing.assert_array_equal(own[:, 1], np.arange(0, size, CHUNK))
        assert own[:, 2].sum() == size and (own[:, 2] <= CHUNK).all()
    np.testing.assert_array_equal(items[:, 3], np.arange(len(items)))


def test_no_items_without_elements():
    for tensors in (0, 3):
        tile = cpu.Tile(["F32"], np.zeros(tensors, np.int64), np.zeros((0, 2)))
        assert list(tile.parts(4)) == [] and tile.tasks(4, tile.items) == []


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_every_thread_gets_a_task(threads):
    tile = cpu.Tile(["F32"], np.full(40, CHUNK), np.zeros((0, 2)))
    tasks = tile.tasks(threads, tile.items)
    assert len(tasks) >= threads
    lengths = [task[:, 2].sum() for task in tasks]
    assert max(lengths) <= 2 * min(lengths)


def test_one_item_more_or_less_changes_nothing_else():
    """A slot that was never filled shows: the sums of its tensor alone are other ones."""
    stack = stack_of("F32")
    tile, addresses, _memory = tile_of("F32", stack)
    for part in tile.parts(1):
        tile.run(part[1:], addresses)
    partial, whole = finished(tile, addresses), run(cpu.tile_sums, stack, ["F32", "F32"])
    assert same_bits([part[1:] for part in partial], [part[1:] for part in whole])
    assert not same_bits([part[:1] for part in partial], [part[:1] for part in whole])


def test_a_sweep_cut_up(backend):
    """A base against five others at once, and in two runs."""
    stack = stack_of("F32", operands=6)
    stars = [(n, 0) for n in range(1, 6)]
    selfs, between = run(backend, stack, ["F32"] * 6, stars)
    first = run(backend, [tensor[:3] for tensor in stack], ["F32"] * 3, stars[:2])
    second = run(backend, [[tensor[0], *tensor[3:]] for tensor in stack], ["F32"] * 4, stars[:3])
    assert same_bits([selfs[:, :3].copy(), between[:, :2].copy()], first)
    assert same_bits([selfs[:, [0, 3, 4, 5]], between[:, 2:].copy()], second)


def test_order_of_operands(backend):
    stack = stack_of("F32", operands=4)
    pairs = np.array([(1, 0), (2, 0), (3, 0), (3, 1)])
    order = np.array([2, 0, 3, 1])  # new operand n is the old order[n]
    selfs, between = run(backend, stack, ["F32"] * 4, pairs)
    moved = run(backend, [[tensor[n] for n in order] for tensor in stack], ["F32"] * 4, np.argsort(order)[pairs])
    assert same_bits([selfs[:, order], between], moved)


def test_swapping_the_sides(backend, tensors):
    """Every pair sum is symmetric, to the last bit."""
    code, stack = tensors
    there, back = (run(backend, stack, [code, code], pairs)[1] for pairs in ([(1, 0)], [(0, 1)]))
    assert same_bits([there], [back])


def test_what_is_looked_at_again_is_the_same_too(backend):
    rng = np.random.default_rng(32)
    half = rng.normal(size=CHUNK)
    stack = [
        raw(np.r_[half, half], np.r_[half, -half], dtype=np.float32),
        raw(half[:900], half[900:1800], dtype=np.float32),
        raw(np.r_[half[:500], -half[:500]], np.r_[half[:500], half[:500]], dtype=np.float32),
    ]
    alone = run(backend, stack, ["F32", "F32"], threads=1)
    assert same_bits(alone, run(backend, stack, ["F32", "F32"], threads=3))
    one_by_one = [run(backend, [tensor], ["F32", "F32"]) for tensor in stack]
    assert same_bits(alone, [np.concatenate(parts) for parts in zip(*one_by_one, strict=True)])


def test_an_error_in_a_task_reaches_the_caller():
    def work(task):
        if task[0] == 3:
            raise ValueError("task 3")
        return 1

    for threads in (1, 4):
        with pytest.raises(ValueError, match="task 3"):
            cpu.run_tasks([np.array([n]) for n in range(20)], work, threads)


DIGEST = """
import hashlib
import numpy as np
from weighbridge.kernels import cpu
x = np.random.default_rng(5).normal(size=(2, 200_001)).astype(np.float32)
addresses = np.array([[row.ctypes.data for row in x]])
sums = cpu.tile_sums(addresses, ["F32", "F32"], np.array([200_001]), np.array([[1, 0]]))
print(hashlib.sha256(b"".join(part.tobytes() for part in sums)).hexdigest())
"""


def test_another_process_gets_the_same_bits():
    digests = {
        subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1
