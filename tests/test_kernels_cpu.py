"""Every backend against exact arithmetic: dtypes, sizes around blocks and chunks, alignments, layouts, specials."""

import itertools
import math
import signal
import subprocess
import sys

import numpy as np
import pytest

from weighbridge.kernels import cpu
from weighbridge.kernels.layout import BLOCK
from weighbridge.kernels.sums import CHUNK

from support.kernel_cases import (
    BACKENDS,
    CODES,
    LARGE_SIZES,
    SHIFTS,
    SMALL_SIZES,
    TWO,
    Memory,
    assert_same_bits_in_every_layout,
    check_against_reference,
    exact,
    nearby,
    random_tensor,
    raw,
    run,
    same_bits,
)

SUBNORMAL = {"F64": 5e-324, "F32": 1e-45, "F16": 6e-8}
FLOAT = {"F64": np.float64, "F32": np.float32, "F16": np.float16}

MIXED = list(itertools.permutations(["F64", "F32", "F16", "BF16", "F8_E5M2", "I64", "U8", "BOOL"], 2))

LAYOUTS = {
    "one": (1, []),
    "two": (2, [(1, 0)]),
    "two swapped": (2, [(0, 1)]),
    "itself": (2, [(1, 1), (0, 0)]),
    "star": (4, [(1, 0), (2, 0), (3, 0)]),
    "star out of order": (4, [(3, 0), (1, 0), (2, 0)]),
    "star around the last": (4, [(0, 3), (1, 3), (2, 3)]),
    "star twice": (3, [(1, 0), (2, 0), (1, 0)]),
    "all": (4, list(itertools.combinations(range(4), 2))),
    "all backwards": (4, [(j, i) for i, j in itertools.combinations(range(4), 2)][::-1]),
    "no pairs": (3, []),
}


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Whatever the CPU backend allocates without clearing begins as NaN."""

    class Poisoned:
        def __getattr__(self, name):
            return getattr(np, name)

        def empty(self, shape, dtype=np.float64):
            return np.full(shape, np.nan, dtype)

    monkeypatch.setattr(cpu, "np", Poisoned())


def family(code, size, operands, rng):
    """A base, a near copy, an equal copy, then unrelated tensors."""
    base = random_tensor(code, size, rng)
    others = [nearby(base, code, rng), base.copy(), random_tensor(code, size, rng), random_tensor(code, size, rng)]
    return [base, *others][:operands]


@pytest.mark.interpreted
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("relation", ["near", "unrelated"])
def test_sizes_of_one_stack(backend, code, relation):
    rng = np.random.default_rng(1)
    stack = []
    for size in SMALL_SIZES:
        base = random_tensor(code, size, rng)
        stack.append([base, nearby(base, code, rng) if relation == "near" else random_tensor(code, size, rng)])
    check_against_reference(backend, stack, [code, code])


@pytest.mark.parametrize("code", ["F64", "F32", "F16", "BF16", "F8_E4M3", "I32"])
def test_sizes_around_chunks(backend, code):
    rng = np.random.default_rng(2)
    stack = [family(code, size, 2, rng) for size in LARGE_SIZES]
    check_against_reference(backend, stack, [code, code], threads=2)


@pytest.mark.parametrize("codes", MIXED)
def test_mixed_dtypes(backend, codes):
    rng = np.random.default_rng(3)
    stack = [[random_tensor(code, size, rng) for code in codes] for size in (0, 1, 17, BLOCK + 3)]
    check_against_reference(backend, stack, codes)


@pytest.mark.interpreted
def test_a_precise_copy_against_a_rounded_one(backend):
    x = np.random.default_rng(4).normal(0, 0.05, 5000)
    halves = [x.astype(np.float16).view(np.uint8), (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)]
    stack = [[x.view(np.uint8), x.astype(np.float32).view(np.uint8), halves[0], halves[1].view(np.uint8)]]
    check_against_reference(backend, stack, ["F64", "F32", "F16", "BF16"], LAYOUTS["all"][1])


@pytest.mark.parametrize("code", ["F64", "F32", "F16", "I8"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_unaligned_addresses(backend, code, shift):
    base, other = family(code, 2 * BLOCK + 21, 2, np.random.default_rng(shift))
    memory = Memory()
    aligned, moved = (
        backend(
            np.array([[memory.put(base, at), memory.put(other, 2 * at)]]),
            [code, code],
            np.array([2 * BLOCK + 21]),
            np.array(TWO),
        )
        for at in (0, shift)
    )
    assert same_bits(aligned, moved)


@pytest.mark.interpreted
@pytest.mark.parametrize("code", ["F64", "F32", "BF16", "U8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(backend, code, layout):
    operands, pairs = LAYOUTS[layout]
    rng = np.random.default_rng(6)
    stack = [family(code, size, operands, rng) for size in (1, 40, BLOCK + 1)]
    check_against_reference(backend, stack, [code] * operands, pairs)


@pytest.mark.parametrize("code", ["F64", "F32", "F16", "I64", "F8_E4M3FNUZ"])
def test_a_pair_has_the_same_bits_in_every_layout(backend, code):
    rng = np.random.default_rng(7)
    stack = [family(code, size, 4, rng) for size in (0, 1, 100, 3 * BLOCK + 7)]
    assert_same_bits_in_every_layout(backend, stack, [code] * 4)


def test_a_pair_has_the_same_bits_beside_wider_operands(backend):
    rng = np.random.default_rng(8)
    codes = ["F32", "F32", "BF16", "F64", "I64"]
    base = random_tensor("F32", 2500, rng)
    stack = [[base, nearby(base, "F32", rng), *(random_tensor(code, 2500, rng) for code in codes[2:])]]
    assert_same_bits_in_every_layout(backend, stack, codes)


@pytest.mark.parametrize("code", ["F64", "F32"])
def test_a_pair_has_the_same_bits_beside_adversarial_operands(backend, code):
    """Others whose sums cancel, overflow or hold NaN must not send a harmless pair down another path."""
    rng = np.random.default_rng(9)
    x = rng.normal(0, 0.05, 3000)
    near = x * (1 + 1e-3 * rng.normal(size=3000))
    orthogonal = np.concatenate([-x[1500:], x[:1500]])
    zero_sum = np.concatenate([x[:1500], -x[:1500]])
    huge = np.full(3000, 1e200 if code == "F64" else 1e38)
    nan = np.where(np.arange(3000) == 77, np.nan, x)
    stack = [raw(x, near, orthogonal, zero_sum, huge, nan, dtype=FLOAT[code])]
    assert_same_bits_in_every_layout(backend, stack, [code] * 6)


@pytest.mark.interpreted
def test_no_tensors_and_empty_tensors(backend):
    selfs, between = backend(np.zeros((0, 2), np.int64), ["F32", "F64"], np.zeros(0, np.int64), np.array(TWO))
    assert selfs.shape == (0, 2, 6) and between.shape == (0, 1, 5)
    selfs, between = backend(np.zeros((3, 2), np.int64), ["F32", "F64"], np.zeros(3, np.int64), np.array(TWO))
    assert not selfs.any() and not between.any()


@pytest.mark.interpreted
@pytest.mark.parametrize("code", CODES)
def test_all_zero_and_equal(backend, code):
    if code == "F8_E8M0":  # has no zero
        ones = np.full(600, 127, np.uint8)
        assert run(backend, [[ones, ones]], [code, code])[1].ravel().tolist() == [0, 0, 600, 0, 0]
        return
    zeros = np.zeros(600 * 8, np.uint8)
    selfs, between = run(backend, [[zeros, zeros]], [code, code])
    assert not selfs[..., 1:].any() and not between.any()


@pytest.mark.interpreted
@pytest.mark.parametrize("code", FLOAT)
@pytest.mark.parametrize("size", [1, 16, 50, BLOCK + 1])
def test_negative_zero_equals_zero(backend, code, size):
    zeros = np.zeros(size, FLOAT[code])
    stack = [[zeros.view(np.uint8), (-zeros).view(np.uint8)]]
    selfs, between = run(backend, stack, [code, code])
    assert not selfs[..., 1:].any() and not between.any()
    assert not np.signbit(between).any() and not np.signbit(selfs[..., [1, 3, 4]]).any()


@pytest.mark.interpreted
@pytest.mark.parametrize("code", FLOAT)
def test_subnormals(backend, code):
    rng = np.random.default_rng(10)
    tiny = SUBNORMAL[code]
    x, y = (rng.integers(-50, 50, 1500) * tiny for _ in range(2))
    ones = np.full(1500, tiny)
    stack = [raw(*pair, dtype=FLOAT[code]) for pair in ((x, y), (x, x), (ones, -ones))]
    selfs, _ = run(backend, stack, [code, code])
    assert selfs[2, 0, 4] == FLOAT[code](tiny) > 0
    check_against_reference(backend, stack, [code, code])


@pytest.mark.interpreted
def test_subnormals_beside_large_values(backend):
    x = np.where(np.arange(2000) % 7 == 0, 1.5, np.arange(2000) * 5e-324)
    check_against_reference(backend, [raw(x, x[::-1])], ["F64", "F64"])


SPECIALS = {"nan": [math.nan], "inf": [math.inf], "-inf": [-math.inf], "inf - inf": [math.inf, -math.inf]}
SIZES_OF_SPECIALS = (1, 16, 37, BLOCK, 2 * BLOCK + 9)


@pytest.mark.parametrize("code", ["F64", "F32", "F16"])
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("side", ["x", "y", "both"])
def test_specials_at_every_kind_of_position(backend, code, special, side):
    """One stack: a tensor for each place, and ordinary tensors between them, which must not notice."""
    rng = np.random.default_rng(11)
    stack = []
    for size in SIZES_OF_SPECIALS:
        for place in sorted({0, size // 2, size - 1, 15, 16, BLOCK - 1, BLOCK} & set(range(size))):
            y, x = rng.normal(size=(2, size))
            for step, value in enumerate(SPECIALS[special]):
                if side != "x":
                    y[(place + 3 * step) % size] = value
                if side != "y":
                    x[(place + 3 * step) % size] = value
            stack += [raw(y, x, dtype=FLOAT[code]), family(code, size, 2, rng)]
    check_against_reference(backend, stack, [code, code], threads=2)
    clean = stack[1::2]
    among = run(backend, stack, [code, code])
    assert same_bits([part[1::2].copy() for part in among], run(backend, clean, [code, code]))
    assert np.isfinite(among[0][1::2]).all() and np.isfinite(among[1][1::2]).all()


@pytest.mark.parametrize("code", ["BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_specials_of_narrow_floats(backend, code):
    rng = np.random.default_rng(12)
    size = 2 * BLOCK + 9
    patterns = rng.integers(0, 256, (4, size * (2 if code == "BF16" else 1)), np.uint8)
    check_against_reference(backend, [list(patterns[:2]), list(patterns[2:])], [code, code])


def test_nan_payloads_are_one_nan(backend):
    """Quiet, signalling, negative, with payload: each counts once, differs from itself, and makes the maximum NaN."""
    bits = np.array([0x7FC00000, 0x7F800001, 0xFFC00000, 0xFFFFFFFF, 0x7FFFFFFF, 0xFF800001], np.uint32).view(np.uint8)
    wide = np.array([0x7FF8, 0xFFF8, 0xFFFF, 0x7FFF], np.uint64) << 48
    wide = np.concatenate([wide | 1, (wide & (0xFFF0 << 48)) | 1]).view(np.uint8)
    for code, tensor, count in (("F32", bits, 6), ("F64", wide, 8)):
        selfs, between = run(backend, [[tensor, tensor]], [code, code])
        assert (selfs[..., 5] == count).all() and (between[..., 4] == count).all()
        assert np.isnan(selfs[..., 1:5]).all() and np.isnan(between[..., :4]).all()


def test_infinity_in_one_chunk_leaves_nan_in_another_alone(backend):
    """Over chunks: infinities of one sign stay infinite, those of both make NaN; the maximum tells inf from NaN."""
    x = np.zeros((3, CHUNK + 40), np.float32)
    x[0, [3, CHUNK + 3]] = np.inf
    x[1, [3, CHUNK + 3]] = np.inf, -np.inf
    x[2, [3, CHUNK + 3]] = np.inf, np.nan
    selfs, _ = run(backend, [[row.view(np.uint8)] for row in x], ["F32"], [])
    np.testing.assert_array_equal(selfs[:, 0, 2], [np.inf, np.nan, np.nan])
    np.testing.assert_array_equal(selfs[:, 0, 4], [np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(selfs[:, 0, 5], [2, 2, 2])


@pytest.mark.parametrize("code", ["F64", "F32", "BF16", "I8"])
def test_one_wrong_value_is_seen(backend, code):
    """A flipped bit in a tensor of three chunks changes every sum it can change: this check can fail."""
    rng = np.random.default_rng(13)
    base = random_tensor(code, 2 * CHUNK + 100, rng)
    other = nearby(base, code, rng)
    before = run(backend, [[base, other]], [code, code])
    for position in (0, CHUNK + 4321, 2 * CHUNK + 99):
        planted = other.copy()
        itemsize = planted.size // (2 * CHUNK + 100)
        planted[(position + 1) * itemsize - 1] ^= 0x40  # the highest bit but the sign: from small to huge or back
        after = run(backend, [[base, planted]], [code, code])
        assert same_bits([before[0][:, 0].copy()], [after[0][:, 0].copy()])
        changed = before[0][0, 1] != after[0][0, 1]
        assert changed[[1, 2, 3]].all(), changed
        different = before[1][0, 0] != after[1][0, 0]
        assert different[[0, 1, 2]].all(), different
        with pytest.raises(AssertionError):
            check_result(after, before)


def check_result(actual, expected):
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-12)


GUARDED = """
import ctypes, itertools, mmap, sys
import numpy as np
from weighbridge.kernels import cpu
from weighbridge.kernels.decoders import DECODERS
past = int(sys.argv[1])
page = mmap.PAGESIZE
held = 20 * page  # room for 2 * BLOCK + 5 elements of 8 bytes
spaces = []
for _ in range(2):
    space = mmap.mmap(-1, held + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(space))
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (start, start + page + held):
        assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    spaces.append((space, start + page, start + page + held))
codes = [(code, code) for code in DECODERS] + [("F32", "F64"), ("F64", "BF16"), ("I8", "I64")]
for pair, size in itertools.product(codes, map(int, sys.argv[2].split(","))):
    for end in (True, False):  # right before what must not be read, and right behind it
        sizes = [size * DECODERS[code].itemsize for code in pair]
        addresses = [last - n if end else first for (_, first, last), n in zip(spaces, sizes)]
        for pairs in ([(1, 0)], [(0, 1)], [(1, 0), (1, 1)]):
            cpu.tile_sums(np.array([addresses]), pair, np.array([size + past]), np.array(pairs), threads=1)
print("alive")
"""


@pytest.mark.parametrize("past", [0, 1])
def test_nothing_is_read_outside_the_tensor(past):
    """Between two pages that may not be read; with one element too many, the process dies, so the guards are real."""
    sizes = ",".join(map(str, SMALL_SIZES))
    command = [sys.executable, "-c", GUARDED, str(past), sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if past:
        assert done.returncode == -signal.SIGSEGV
    else:
        assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_neighbouring_memory_does_not_matter(backend):
    """`Memory` puts NaN around tensors; zeros there give the same bits."""
    tensor, other = family("F32", 1001, 2, np.random.default_rng(14))
    among_nan = run(backend, [[tensor, other]], ["F32", "F32"])
    held = np.zeros((2, 16 * 1024), np.uint8)
    held[0, 64 : 64 + tensor.size], held[1, 64 : 64 + other.size] = tensor, other
    addresses = np.array([[row.ctypes.data + 64 for row in held]])
    assert same_bits(among_nan, backend(addresses, ["F32", "F32"], np.array([1001]), np.array(TWO)))


def test_the_operands_are_not_written_to(backend):
    tensor, other = family("F32", 3001, 2, np.random.default_rng(15))
    copies = tensor.copy(), other.copy()
    memory = np.concatenate([tensor, other])
    addresses = np.array([[memory.ctypes.data, memory.ctypes.data + tensor.size]])
    backend(addresses, ["F32", "F32"], np.array([3001]), np.array(TWO))
    np.testing.assert_array_equal(memory, np.concatenate(copies))
    assert exact([[tensor, other]], ["F32", "F32"])[0][0, 0, 0] == 3001


def test_an_unknown_dtype_is_named(backend):
    with pytest.raises(KeyError, match="F4"):
        backend(np.zeros((1, 1), np.int64), ["F4"], np.zeros(1, np.int64), np.zeros((0, 2), np.int64))


def test_progress_counts_every_byte_once(backend):
    tensor, other = family("F32", 3 * CHUNK, 2, np.random.default_rng(16))
    seen = []
    run(backend, [[tensor, other]] * 3, ["F32", "F32"], threads=2, progress=seen.append)
    assert sum(seen) == 3 * 2 * 3 * CHUNK * 4 and min(seen) > 0
