"""The portable backend on torch's CPU device, against exact arithmetic, from host memory and from an arena.

In float64, in float32 as for devices without float64, and so with subnormal numbers taken for zeros as GPUs may.
"""

import itertools
from contextlib import contextmanager, nullcontext
from importlib import resources

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from weighbridge.kernels import portable
from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.sums import CHUNK

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
    run,
    same_bits,
)

SIZES = (131_075, 5, 0, 70_000)

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def without_subnormal_numbers():
    """Within, torch takes them for zeros in this thread, which computes alone (`one_thread`)."""
    assert torch.set_flush_denormal(True)
    try:
        assert torch.tensor([1e-40]) * 1 == 0
        yield
    finally:
        torch.set_flush_denormal(False)


class Backend:
    """A kind of tile, and the contract of `kernels.sums` by it."""

    def __init__(self, float64, device=nullcontext):
        self.float64, self._device = float64, device

    def tile(self, codes, elements, pairs, **options):
        return portable.Tile(codes, np.asarray(elements), np.asarray(pairs), "cpu", float64=self.float64, **options)

    def run(self, tile, *what, **options):
        with self._device():
            return tile.run(*what, **options)

    def __call__(self, addresses, codes, elements, pairs):
        tile = self.tile(codes, elements, pairs)
        addresses = np.ascontiguousarray(addresses, np.int64)
        for task in tile.tasks():
            self.run(tile, task, addresses)
        return tile.finish(lambda tensors: addresses[tensors], 1)


BACKENDS = {
    "float64": Backend(True),
    "float32": Backend(False),
    "float32 without subnormal numbers": Backend(False, without_subnormal_numbers),
}


@pytest.fixture(params=BACKENDS)
def backend(request):
    return BACKENDS[request.param]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("related", [True, False])
def test_sizes(backend, code, related):
    rng = np.random.default_rng(50)
    stack = []
    for size in SMALL_SIZES:
        base = random_tensor(code, size, rng)
        stack.append([base, nearby(base, code, rng) if related else random_tensor(code, size, rng)])
    check_against_reference(backend, stack, [code, code])


@pytest.mark.parametrize("codes", list(itertools.permutations(["F64", "F32", "BF16", "F8_E8M0", "I64", "BOOL"], 2)))
def test_mixed_dtypes(backend, codes):
    rng = np.random.default_rng(51)
    check_against_reference(backend, [[random_tensor(code, 1500, rng) for code in codes]], codes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("code", ["F64", "F32"])
def test_specials_stay_in_their_tensor(backend, code):
    rng = np.random.default_rng(52)
    dtype = {"F64": np.float64, "F32": np.float32}[code]
    stack = [raw(*rng.normal(size=(2, 900)), dtype=dtype) for _ in range(4)]

    def sums():
        addresses = np.array([[operand.ctypes.data for operand in tensor] for tensor in stack])
        return backend(addresses, [code, code], np.array([900] * 4), np.array(TWO))

    clean = sums()
    for row, value in ((1, np.nan), (2, np.inf)):
        stack[row][0].view(dtype)[77] = value
    exponent, width = {"F64": (0x7FF, 52), "F32": (0xFF, 23)}[code]
    stack[1][1].view(f"u{stack[1][1].size // 900}")[:] = (exponent << width) + 1  # signalling
    check_against_reference(backend, stack, [code, code])
    assert same_bits([part[::3].copy() for part in clean], [part[::3].copy() for part in sums()])


@pytest.mark.parametrize("values", [[1e30, 1, -1e30], [1e-200, 3e-200], [1e200, -1e200, 1]])
def test_cancellation_and_the_ends_of_the_range(backend, values):
    """What the device's sums do not certify is computed again from the memory of the host."""
    x = np.tile(values, 700)
    check_against_reference(backend, [raw(x, x[::-1]), raw(x, np.ones(x.size))], ["F64", "F64"])


@pytest.mark.parametrize(
    "values",
    [
        [1e30, 1, -1e30],
        [2.0**100, -(2.0**100), 2.0**-102],
        [3e38, -3e38, 1, 1],
        [2.0**-102, 3 * 2.0**-102, -(2.0**-101)],
        [2.0**-126, 1.5 * 2.0**-126, 1],
        [1e-45, 3e-45, -1e-40, 0],
        [2.0**60, 2.0**-60, -(2.0**60), 2.0**-60],
        [0, 0, 0, 1e-20],
    ],
)
def test_the_ends_of_the_range_of_float32(backend, values):
    x = np.tile(values, 700)
    moved = np.nextafter(x.astype(np.float32), np.float32(np.inf))
    check_against_reference(backend, [raw(x, np.roll(x, 1), dtype=np.float32)], ["F32", "F32"])
    check_against_reference(backend, [raw(x, np.ones(x.size), dtype=np.float32)], ["F32", "F32"])
    check_against_reference(backend, [raw(x, moved, dtype=np.float32)], ["F32", "F32"])
    check_against_reference(backend, [raw(x, np.zeros(x.size), dtype=np.float32)], ["F32", "F32"])


@pytest.mark.parametrize("code", ["F32", "F64", "BF16"])
def test_a_pair_has_the_same_bits_in_every_layout(backend, code):
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


@pytest.mark.parametrize(
    ("backend", "code"),
    [
        *(("float64", code) for code in ("F32", "BF16", "F64", "F8_E4M3", "I64")),
        *(("float32", code) for code in ("F32", "BF16", "F8_E4M3", "I64")),
        ("float32 without subnormal numbers", "F32"),
    ],
    indirect=["backend"],
)
def test_same_bits_from_an_arena_in_tasks_of_any_size(backend, code):
    """The arena is overwritten after each task, as a ring of buffers is."""
    rng = np.random.default_rng(54)
    base = [random_tensor(code, size, rng) for size in SIZES]
    stack = [[tensor, nearby(tensor, code, rng)] for tensor in base]
    host = np.array([[operand.ctypes.data for operand in tensor] for tensor in stack])
    results = [backend(host, [code, code], np.array(SIZES), np.array(TWO))]
    for task_bytes in (1, 300_000, 1 << 30):
        tile = backend.tile([code, code], SIZES, TWO)
        for task in tile.tasks(task_bytes):
            arena, places = packed(task, stack, DECODERS[code].itemsize)
            renumbered = np.c_[np.arange(len(task)), task[:, 1:]]
            taken = backend.run(tile, renumbered, places + arena.data_ptr(), arena=arena)
            assert taken == task[:, 2].sum() * 2 * DECODERS[code].itemsize
            arena.fill_(0xFF)
        results.append(tile.finish(lambda tensors: host[tensors], 1))
    check(results[0], exact(stack, [code, code]))
    assert all(same_bits(results[0], result) for result in results[1:])


@pytest.mark.parametrize(
    ("backend", "code"),
    [("float64", "F64"), ("float64", "F32"), ("float32", "F32"), ("float32 without subnormal numbers", "F32")],
    indirect=["backend"],
)
def test_sums_that_cancel_are_certified_on_the_device(backend, code):
    """Σx and Σxy are a millionth of what was added: wrong in the eleventh digit unless rounding errors are kept."""
    rng = np.random.default_rng(55)
    half, partner = rng.normal(0, 1, (2, 30_000))
    x = np.r_[half, -half + 1e-6 * np.abs(rng.normal(size=half.size))]
    y = np.r_[partner, partner]
    order = rng.permutation(x.size)
    tensor = raw(x[order], y[order], dtype={"F64": np.float64, "F32": np.float32}[code])
    check(on_the_device(backend, tensor, [code, code]), exact([tensor], [code, code]))


def on_the_device(backend, tensor, codes):
    """The sums of one tensor, of which nothing is left to the processor."""
    tile = backend.tile(codes, [tensor[0].size // DECODERS[codes[0]].itemsize], TWO)
    host = np.array([[operand.ctypes.data for operand in tensor]])
    for task in tile.tasks():
        backend.run(tile, task, host)
    return tile.finish(lambda tensors: pytest.fail(f"{tensors} were looked at again"), 1)


@pytest.mark.parametrize("backend", ["float32", "float32 without subnormal numbers"], indirect=True)
@pytest.mark.parametrize("code", [code for code in CODES if DECODERS[code].wide == "f32" and code != "F8_E8M0"])
def test_float32_does_for_every_dtype_that_it_holds(backend, code):
    """But for F8_E8M0, any pattern of which is a power of two from 2**-127 to 2**127."""
    rng = np.random.default_rng(56)
    base = random_tensor(code, 70_001, rng)
    tensor = [base, nearby(base, code, rng)]
    check(on_the_device(backend, tensor, [code, code]), exact([tensor], [code, code]))


def test_temporary_tensors_are_as_large_as_they_may(monkeypatch):
    """Rows of all operands: as many as the bytes are for, and at least one."""
    taken = []
    piece = portable.Tile._run_piece
    monkeypatch.setattr(
        portable.Tile, "_run_piece", lambda self, *args: taken.append(len(args[0])) or piece(self, *args)
    )
    rng = np.random.default_rng(59)
    tensor = [random_tensor("F8_E4M3", 3 * CHUNK, rng) for _ in range(2)]
    for workspace_bytes, rows in ((None, [3]), (2 * 96 * 2 * CHUNK, [2, 1]), (1, [1, 1, 1])):
        tile = BACKENDS["float64"].tile(["F8_E4M3"] * 2, [3 * CHUNK], TWO, workspace_bytes=workspace_bytes)
        for task in tile.tasks():
            tile.run(task, np.array([[operand.ctypes.data for operand in tensor]]))
        assert taken == rows
        taken.clear()


def test_the_processor_takes_only_what_does_not_suit_float32():
    """Two operands have the same bits beside a third that is computed elsewhere, chunk by chunk."""
    rng = np.random.default_rng(57)
    backend, size = BACKENDS["float32"], CHUNK + 700
    x, y, z = (rng.normal(0, 0.05, size).astype(np.float32) for _ in range(3))
    z[CHUNK + 3] = 1e-42
    wide = z.astype(np.float64)
    alone = run(backend, [raw(x, y, dtype=np.float32)], ["F32", "F32"], [(0, 1)])
    pairs = [(0, 1), (2, 0), (1, 2)]
    for third, code in ((z, "F32"), (wide, "F64")):
        stack = [[*raw(x, y, dtype=np.float32), third.view(np.uint8)]]
        found = run(backend, stack, ["F32", "F32", code], pairs)
        assert same_bits([found[0][:, :2].copy(), found[1][:, :1].copy()], alone)
        check(found, exact(stack, ["F32", "F32", code], pairs))

    tile = backend.tile(["F32"] * 2, [size], TWO)
    host = np.array([[x.ctypes.data, z.ctypes.data]])
    for task in tile.tasks():
        tile.run(task, host)
    filled = []
    fill = tile._host.run
    tile._host.run = lambda items, addresses: filled.extend(items[:, 1].tolist()) or fill(items, addresses)
    tile.finish(lambda tensors: host[tensors], 1)
    assert filled == [CHUNK]


class Operations(TorchDispatchMode):
    """Within, the operations are noted that torch is asked for."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function._schema.name.removeprefix("aten::") + "." + function._schema.overload_name)
        return function(*args, **kwargs or {})


def test_mps_has_every_operation():
    """By torch's own list of what it has kernels of. There is no such GPU to try it on."""
    listed = yaml.safe_load(
        resources.files("torchgen").joinpath("packaged/ATen/native/native_functions.yaml").read_text()
    )
    functions = {each["func"].partition("(")[0]: each for each in listed}
    rng = np.random.default_rng(58)
    with Operations() as used:
        for code in CODES:
            sizes = [5, 1024, 3000]
            stack = [[random_tensor(code, size, rng) for _ in range(2)] for size in sizes]
            tile = BACKENDS["float32"].tile([code, code], sizes, TWO)
            for task in tile.tasks():
                tile.run(task, np.array([[operand.ctypes.data for operand in tensor] for tensor in stack]))
    assert len(used.names) > 20
    for name in used.names:
        function = functions[name.removesuffix(".")]
        function = functions[function.get("structured_delegate", name.removesuffix("."))]
        # What is made of others says so, and may be made of the variant with `out` that it has.
        parts = [function, functions.get(f"{name}_out" if not name.endswith(".") else f"{name}out", function)]
        for part in parts:
            keys = ",".join(part.get("dispatch", ["Composite"]))
            assert "MPS" in keys or "Composite" in keys, name
