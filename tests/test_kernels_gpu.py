"""The fused kernels against exact arithmetic, on what is theirs: steps, strips, cells, doubts, arenas.

These run on a CUDA device (`pytest -m gpu`, with the tables of every backend), and in `make test` in a process of their
own under Triton's interpreter, as does what is small of those tables (`test_kernels_gpu_interpreted.py`). It takes
milliseconds for an operation that a device takes nanoseconds for, so sizes are as small as they can be.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from test_kernels_accuracy import CANCELLING, RANGES

from weighbridge.kernels import gpu, reference
from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.gpu import tile as launcher
from weighbridge.kernels.gpu.available import interpreted
from weighbridge.kernels.gpu.constants import FAN, GATHER_LANES, SLOTS, STRIP, STRIPS, THREADS
from weighbridge.kernels.sums import CHUNK
from weighbridge.kernels.wanted import Wanted

from support import gpu_backend
from support.gpu_backend import in_float32, tile_sums
from support.kernel_cases import (
    CODES,
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

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.interpreted,
    pytest.mark.skipif(not gpu_backend.usable(), reason="no CUDA device, and not under Triton's interpreter"),
]


both = pytest.mark.parametrize("backend", [tile_sums, in_float32], ids=["float64", "float32"])
IN_WORDS = ["BF16", "F16", "F8_E4M3", "F8_E5M2"]
NARROW = [code for code in CODES if DECODERS[code].wide == "f32"]


def step(code):
    """Elements that a program takes at a time."""
    return THREADS * 16 // DECODERS[code].itemsize


def certified(stack, codes, pairs=TWO, backend=tile_sums):
    """What the device makes of a stack, which must not be looked at again on the host."""

    class Tile(gpu.Tile):
        def finish(self, resolve, threads):
            return super().finish(lambda tensors: pytest.fail(f"{tensors} were looked at again"), threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "Tile", Tile)
        check_against_reference(backend, stack, codes, pairs)


@pytest.mark.parametrize(
    ("backend", "code"), [*((tile_sums, code) for code in CODES), *((in_float32, code) for code in NARROW)]
)
def test_sizes_around_a_step(backend, code):
    rng = np.random.default_rng(60)
    base = [random_tensor(code, size, rng) for size in (0, 1, step(code) - 1, step(code) + 3)]
    check_against_reference(backend, [[x, nearby(x, code, rng)] for x in base], [code, code])


@both
@pytest.mark.parametrize("code", ["F32", "F8_E4M3"])
@pytest.mark.parametrize("wanted", [Wanted.ABS_DIFF, Wanted.SQ_DIFF, Wanted.DOT, Wanted.MAX_DIFF | Wanted.DIFFERING])
def test_what_is_wanted_has_the_bits_that_it_has_among_all(backend, code, wanted):
    rng = np.random.default_rng(61)
    base = random_tensor(code, step(code) + 3, rng)
    stack = [[base, nearby(base, code, rng), random_tensor(code, step(code) + 3, rng)]]
    pairs = [(0, 1), (0, 2), (1, 2)]
    whole, found = run(backend, stack, [code] * 3, pairs), run(backend, stack, [code] * 3, pairs, wanted=wanted)
    taken = wanted.completed(wide=False).pair_columns
    assert same_bits([found[1][..., taken].copy()], [whole[1][..., taken].copy()])
    assert np.isnan(found[1][..., ~taken]).all()


@pytest.mark.parametrize(
    ("backend", "code", "size"),
    [(tile_sums, "F32", STRIP + 1), (in_float32, "F32", STRIP + 1), (tile_sums, "F8_E4M3", CHUNK + 9)],
)
def test_strips_and_chunks(backend, code, size):
    rng = np.random.default_rng(61)
    base = random_tensor(code, size, rng)
    certified([[base, nearby(base, code, rng)]], [code, code], backend=backend)


@both
@pytest.mark.parametrize(
    "codes",
    [
        *[("F32", "BF16"), ("BF16", "F32"), ("F16", "BF16"), ("F8_E4M3", "F64"), ("F8_E5M2", "F8_E4M3"), ("U8", "I64")],
        *[("F32", "I32"), ("U32", "BOOL"), ("U64", "F16"), ("F64", "U32"), ("I16", "F32"), ("F8_E8M0", "U16")],
        *[("I8", "U8"), ("F8_E4M3FNUZ", "BF16"), ("F8_E5M2FNUZ", "F32")],
    ],
)
def test_mixed_dtypes(backend, codes):
    rng = np.random.default_rng(62)
    check_against_reference(backend, [[random_tensor(code, size, rng) for code in codes] for size in (7, 2051)], codes)


LAYOUTS = {
    "alone": (6, []),
    "star": (9, [(n, 0) for n in range(1, 9)]),
    "all": (5, list(itertools.combinations(range(5), 2))),
    "itself, twice, swapped": (2, [(1, 1), (1, 0), (0, 1), (1, 0)]),
}


@both
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(backend, layout):
    operands, pairs = LAYOUTS[layout]
    rng = np.random.default_rng(63)
    codes = ["BF16", "F32", *["BF16"] * 7][:operands]
    check_against_reference(backend, [[random_tensor(code, 1027, rng) for code in codes]], codes, pairs)


@both
@pytest.mark.parametrize(
    "codes",
    [
        *[["BF16"] * 3, ["F32"] * 3, ["BF16", "F32", "BF16"], ["F8_E4M3", "F32", "F8_E4M3"], ["I16", "U16", "I16"]],
        *[["F32", "F64", "F32"], ["U8", "F32", "U8"], ["U16", "I8", "U16"]],
    ],
    ids=lambda codes: f"{codes[1]} among {codes[0]}",
)
def test_a_pair_has_the_same_bits_in_every_layout(backend, codes):
    """One operand has a value that makes every strip it is in doubtful, so the others are walked with care too.

    Of two dtypes, either is x in one layout or the other.
    """
    rng = np.random.default_rng(64)
    elements = max(step(code) for code in codes) + 77
    stack = [[random_tensor(code, elements, rng) for code in codes]]
    stack[0][-1][: DECODERS[codes[-1]].itemsize] = 0x7E  # of the order of 1e38
    assert_same_bits_in_every_layout(backend, stack, codes)


@pytest.mark.parametrize(
    "codes",
    [["F16", "I16", "F16"], ["BF16", "F16", "BF16"], ["F8_E4M3", "U8", "F8_E4M3"], ["I8", "F8_E5M2", "I8"]],
    ids=lambda codes: f"{codes[1]} among {codes[0]}",
)
def test_kernels_that_know_a_dtype_and_those_that_do_not_agree(codes):
    """In float32; what rounds lies in every part of a sum. In float64 `test_sums_that_cancel_…` tells."""
    rng = np.random.default_rng(65)
    elements = max(step(code) for code in codes) + 77
    stack = [[random_tensor(code, elements, rng) for code in codes]]
    for code, operand in zip(codes, stack[0], strict=True):
        least, most = {"F16": (0, 0x7C00), "BF16": (0x3000, 0x5000)}.get(code, (0, 0))  # what float32 has room for
        if most:
            signs = rng.integers(0, 2, elements, np.uint16) << 15
            operand.view(np.uint16)[:] = rng.integers(least, most, elements, np.uint16) | signs
    assert_same_bits_in_every_layout(in_float32, stack, codes)


def slots_of(codes, operands, pairs):
    """(columns, SLOTS) that float32 leaves of one strip."""
    elements = np.array([operands[0].size // DECODERS[codes[0]].itemsize])
    tile = gpu.Tile(codes, elements, np.array(pairs, np.int64).reshape(-1, 2), gpu_backend.DEVICE, float64=False)
    addresses = np.array([[operand.ctypes.data for operand in operands]])
    arena, places = gpu_backend.packed(tile.items, addresses, codes)
    tile.run(np.c_[np.zeros(1, np.int64), tile.items[:, 1:]], places + arena.data_ptr(), arena)
    return tile.slots(0, 1)[0].numpy()


@pytest.mark.parametrize(
    "codes",
    [("F16", "I16"), ("BF16", "F16"), ("F32", "U8"), ("BOOL", "F8_E8M0")],
    ids=lambda codes: f"{codes[1]} beside {codes[0]}",
)
def test_sums_in_float32_are_right_to_their_bounds_which_every_kernel_gives(codes):
    """Sums of which every part rounds: for float16 that takes a strip of large elements and of such with low bits.

    A bound decides what the host takes again, so it must not depend on what shares the tile.
    """
    rng = np.random.default_rng(70)
    elements = STRIP - 51 if codes[0] == "F16" else 24 * THREADS + 77
    operands = [random_tensor(code, elements, rng) for code in codes]
    for code, operand in zip(codes, operands, strict=True):
        if code == "F16":
            operand.view(np.uint16)[::2] = rng.integers(0x7800, 0x7C00, len(operand.view(np.uint16)[::2]), np.uint16)
            operand.view(np.uint16)[1::2] = rng.integers(0, 0x3C00, len(operand.view(np.uint16)[1::2]), np.uint16)
        elif code in ("F32", "BF16"):
            scaled = (rng.standard_normal(elements) * 2.0 ** -rng.integers(0, 40, elements)).astype(np.float32)
            operand[:] = scaled.view(np.uint8) if code == "F32" else bfloat16(*scaled)
    x, y = ([Fraction(float(value)) for value in reference.decode(o, c)] for o, c in zip(operands, codes, strict=True))
    together = slots_of(codes, operands, [(1, 0)])
    high, low, bound = (np.array(list(map(Fraction, together[:, slot]))) for slot in (2, 3, 4))
    exact = [sum(x), sum(y), sum(a * b for a, b in zip(x, y, strict=True))]
    assert all(abs(high + low - exact) <= bound)
    for n, code in enumerate(codes):
        assert same_bits([slots_of([code], [operands[n]], [])[0]], [together[n]]), code
    three = slots_of([codes[0], codes[1], codes[1]], [*operands, operands[1]], [(1, 0), (2, 0)])
    assert same_bits([three[3]], [together[2]]) and same_bits([three[4]], [together[2]])


def test_products_that_are_all_zero_are_certain_in_float32():
    x = np.arange(step("U8"), dtype=np.uint8) % 2
    certified([[x, 1 - x]], ["BOOL", "U8"], backend=in_float32)


@pytest.mark.parametrize("place", [3, 40_000])
def test_what_is_not_finite_in_a_chunk_that_is_one_strip(place):
    """Of F8_E4M3 a program walks a whole chunk, and what takes it again half of one."""
    rng = np.random.default_rng(69)
    x, y, z = (random_tensor("F8_E4M3", 40_077, rng) for _ in range(3))
    y[place] = 0x7F
    certified([[x, y, z]], ["F8_E4M3"] * 3, [(1, 0), (2, 0), (2, 1)], backend=in_float32)


def fine_tuned(rng, steps):
    """Two operands of bfloat16 that are much alike, of whole steps; half of their products are far below the others."""
    x = rng.normal(0, 1, steps * step("BF16"))
    x[::2] *= 2.0**-24
    return bfloat16(*x), bfloat16(*(x * (1 + 0.01 * rng.normal(0, 1, x.size))))


def test_products_that_do_not_cancel_have_the_same_bits_in_every_layout():
    """Σxy is plain where the pair is alone, and the third operand has everything walked with care."""
    rng = np.random.default_rng(77)
    x, y = fine_tuned(rng, 2)
    z = x.copy()
    z[:2] = 0x7E
    assert_same_bits_in_every_layout(tile_sums, [[x, y, z]], ["BF16"] * 3)
    values = [(v.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64) for v in (x, y)]
    lanes = (values[0] * values[1]).reshape(2, THREADS, 8).transpose(1, 0, 2).reshape(THREADS, -1)
    plain = math.fsum(np.cumsum(lanes, axis=1)[:, -1])
    assert plain != math.fsum(lanes.ravel()), "the test needs a sum that rounds"
    assert run(tile_sums, [[x, y]], ["BF16", "BF16"], [(0, 1)])[1][0, 0, 2] == plain


@pytest.mark.skipif(not interpreted(), reason="only Triton's interpreter lets calls be counted")
@pytest.mark.parametrize(("sign", "again"), [(1, False), (-1, True)])
def test_what_is_walked_again(monkeypatch, sign, again):
    """Products of lane 0 are not exact. Where they have one sign that is well, where they cancel it is done anew."""
    from weighbridge.kernels.gpu import fused

    careful = []
    walked = fused.vector
    monkeypatch.setattr(fused, "vector", lambda *args: careful.append(bool(args[-1])) or walked(*args))
    x = np.random.default_rng(72).normal(0, 1, step("BF16"))
    x[1:8:2] *= 2.0**-24
    y = np.where((np.arange(x.size) < 4), sign, 1) * x * 1.01
    certified([[bfloat16(*x), bfloat16(*y)]], ["BF16", "BF16"])
    assert careful[0] is False and any(careful) is again


@pytest.mark.parametrize(
    ("backend", "codes"),
    [
        (tile_sums, ("F32", "BF16", "F8_E5M2")),
        (in_float32, ("F8_E5M2", "BF16", "F32")),
        (tile_sums, ("F8_E4M3", "F64")),
    ],
)
def test_operands_of_several_sizes_have_the_bits_that_they_have_alone(backend, codes):
    """Lanes of an operand and the order in them are those of its own dtype, whatever size the other has."""
    rng = np.random.default_rng(69)
    operands = [random_tensor(code, step("F8_E4M3") + 77, rng) for code in codes]
    pairs = list(itertools.combinations(range(len(codes)), 2))
    selfs, between = run(backend, [operands], codes, pairs)
    assert same_bits([between], [run(backend, [operands], codes, [(j, i) for i, j in pairs])[1]])
    for n, (operand, code) in enumerate(zip(operands, codes, strict=True)):
        assert same_bits([selfs[:, n].copy()], [run(backend, [[operand]], [code], [])[0][:, 0]]), code


@pytest.mark.parametrize(("code", "largest"), [("F8_E4M3", 0x7E), ("I8", 0x80)])
def test_narrow_operands_have_the_bits_of_other_strips(code, largest):
    """Beside bfloat16 a chunk of them is two strips; alone it is one, and its sums are as large as they can be."""
    size = CHUNK + STRIP + 5
    narrow = np.full(size, largest, np.uint8)
    wide = random_tensor("BF16", size, np.random.default_rng(70))
    check_against_reference(tile_sums, [[narrow, narrow]], [code, code])
    together = run(tile_sums, [[narrow, wide]], [code, "BF16"], [(0, 1)])[0]
    assert same_bits([together[:, 0].copy()], [run(tile_sums, [[narrow]], [code], [])[0][:, 0]])


def test_operands_far_apart_in_the_arena(tmp_path):
    """The second begins behind 2**31 words of 4 bytes. Under the interpreter the arena is a file that is all gap."""
    import torch

    far = (1 << 33) + 48

    def apart(addresses, codes, elements, pairs):
        if gpu_backend.DEVICE == "cpu":
            arena = torch.from_numpy(np.memmap(tmp_path / "arena", np.uint8, "w+", shape=far + 4096))
        else:
            arena = torch.empty(far + 4096, dtype=torch.uint8, device=gpu_backend.DEVICE)
        for at, operand in zip((0, far), stack[0], strict=True):
            arena[at : at + operand.size] = torch.from_numpy(operand)
        tile = gpu.Tile(codes, elements, pairs, gpu_backend.DEVICE)
        tile.run(tile.items, np.array([[0, far]]) + arena.data_ptr(), arena)
        return tile.finish(lambda tensors: addresses[tensors], 1)

    rng = np.random.default_rng(104)
    base = random_tensor("F32", 1000, rng)
    stack = [[base, nearby(base, "F32", rng)]]
    check_against_reference(apart, stack, ["F32", "F32"])


def require_same_bits_without_words(stack, codes, pairs):
    """GPUs before Hopper have no instructions for two elements."""
    packed = run(tile_sums, stack, codes, pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "packs_halves", lambda device: False)
        assert same_bits(packed, run(tile_sums, stack, codes, pairs))


@pytest.mark.parametrize("code", IN_WORDS)
@pytest.mark.parametrize("layout", ["alone", "star", "all"])
def test_same_bits_without_instructions_for_two_elements(code, layout):
    operands, pairs = LAYOUTS[layout]
    rng = np.random.default_rng(78)
    base = random_tensor(code, step(code) + 5, rng)
    require_same_bits_without_words([[nearby(base, code, rng) for _ in range(operands)]], [code] * operands, pairs)


def small(code, size, rng):
    """Any values up to 16."""
    values = np.arange(256, dtype=np.uint8)
    return rng.choice(values[np.abs(reference.decode(values, code)) <= 16], size)


def test_8_bit_floats_as_fixed_point_numbers():
    """Two steps of F8_E5M2 up to 16; nothing but 16 and -16, beside itself and beside 16; and what does not fit later.

    That is nothing but 20 in the second step; 20, -20 or NaN in one operand or the other of it; infinity in the first.
    """
    rng = np.random.default_rng(80)
    size = 2 * step("F8_E5M2")
    x, y = small("F8_E5M2", size, rng), small("F8_E5M2", size, rng)
    most = np.full(size, 0x4C, np.uint8)
    ends = most | rng.choice(np.array([0, 0x80], np.uint8), size)
    large = np.r_[x[: size // 2], np.full(size // 2, 0x4D, np.uint8)]
    stack = [[x, y], [ends, ends], [most, ends], [most, most], [large, large]]
    for side, place, value in ((0, -1, 0x4D), (1, -300, 0xCD), (1, step("F8_E5M2"), 0x7E), (0, 7, 0x7C)):
        stack.append([x.copy(), y.copy()])
        stack[-1][side][place] = value
    check_against_reference(tile_sums, stack, ["F8_E5M2"] * 2)
    require_same_bits_without_words(stack, ["F8_E5M2"] * 2, TWO)


def test_what_fits_has_the_same_bits_beside_what_does_not():
    """Two operands of F8_E5M2 up to 16 with one that has a 20, and with one of another dtype."""
    rng = np.random.default_rng(94)
    x, y, z = (small("F8_E5M2", step("F8_E5M2"), rng) for _ in range(3))
    z[-1] = 0x4D
    assert_same_bits_in_every_layout(tile_sums, [[x, y, z]], ["F8_E5M2"] * 3)
    other = random_tensor("F8_E4M3", x.size, rng)
    assert_same_bits_in_every_layout(tile_sums, [[x, y, other]], ["F8_E5M2", "F8_E5M2", "F8_E4M3"])


@pytest.mark.skipif(not interpreted(), reason="only Triton's interpreter lets calls be counted")
@pytest.mark.parametrize(
    ("places", "behind", "fixed", "others"),
    [([], 0, 2, 0), ([5], 0, 0, 2), ([-5], 0, 2, 2), ([], 3, 0, 2)],
    ids=["up to 16", "20 in the first step", "20 in the last step", "a piece of a step"],
)
def test_where_8_bit_floats_are_fixed_point_numbers(monkeypatch, places, behind, fixed, others):
    """Where something is too large for that they are walked as others are. Calls are steps."""
    from weighbridge.kernels.gpu import fused, packed

    done = {"fixed": 0, "others": 0}
    fixed_step, step_of_others = packed._step, fused.vector

    def count(kind, steps):
        done[kind] += steps

    monkeypatch.setattr(packed, "_step", lambda *args: count("fixed", 1) or fixed_step(*args))
    monkeypatch.setattr(fused, "vector", lambda *args: count("others", not bool(args[-1])) or step_of_others(*args))
    x, y = small("F8_E5M2", (2, 2 * step("F8_E5M2") + behind), np.random.default_rng(81))
    y[places] = 0x4D
    run(tile_sums, [[x, y]], ["F8_E5M2"] * 2)
    assert done == {"fixed": fixed, "others": others}


@pytest.mark.parametrize(
    "codes",
    [
        ("F8_E4M3", "F8_E5M2"),
        ("F16", "BF16"),
        ("F8_E4M3", "BF16"),
        ("F16", "F8_E5M2"),
        ("F8_E5M2", "F32"),
        ("F32", "F8_E4M3"),
        ("F8_E4M3", "F64"),
    ],
)
def test_same_bits_of_two_dtypes_without_instructions_for_two_elements(codes):
    rng = np.random.default_rng(79)
    whole = [random_tensor(code, step("F8_E4M3"), rng) for code in codes]  # finite, and nothing behind it
    require_same_bits_without_words([whole], codes, TWO)
    check_against_reference(tile_sums, [whole], codes)


@pytest.mark.parametrize(
    ("code", "special"),
    [
        ("BF16", 0x7F80),
        ("BF16", 0xFFC0),
        ("F16", 0x7C00),
        ("F16", 0xFE00),
        ("F8_E4M3", 0x7F),
        ("F8_E4M3", 0xFF),
        ("F8_E5M2", 0x7C),
        ("F8_E5M2", 0xFD),
        ("F8_E8M0", 0xFF),
        ("F8_E5M2FNUZ", 0x80),
        ("F8_E4M3FNUZ", 0x80),
    ],
)
def test_what_is_not_finite_in_a_whole_step(code, special):
    """In one operand, the other, and both; infinity equals itself."""
    rng = np.random.default_rng(79)
    base = random_tensor(code, step(code), rng)
    stack = []
    for sides in ((0,), (1,), (0, 1)):
        pair = [base.copy(), nearby(base, code, rng)]
        for side in sides:
            pair[side].view(f"u{DECODERS[code].itemsize}")[5] = special
        stack.append(pair)
    check_against_reference(tile_sums, stack, [code, code])


@pytest.mark.parametrize(
    ("code", "special", "other"),
    [("F8_E4M3", 0x7F, "F8_E5M2"), ("F8_E8M0", 0xFF, "F64"), ("F8_E5M2", 0x7C, "I32"), ("F8_E4M3FNUZ", 0x80, "F32")],
)
def test_what_is_not_finite_beside_another_dtype(code, special, other):
    rng = np.random.default_rng(79)
    narrow, wide = (random_tensor(each, step(code), rng) for each in (code, other))
    narrow[5] = special
    check_against_reference(tile_sums, [[narrow, wide]], [code, other])


def encoded(code, values):
    values = values.ravel()
    return bfloat16(*values) if code == "BF16" else raw(values, dtype=np.float16 if code == "F16" else np.float32)[0]


@pytest.mark.parametrize(
    ("backend", "other"),
    [*((tile_sums, other) for other in ("F64", "I32", "F8_E5M2", "U16")), (in_float32, "U16")],
)
@pytest.mark.parametrize("code", ["F32", "BF16", "F16"])
def test_sums_that_cancel_are_as_certain_beside_another_dtype(backend, code, other):
    """Lanes that cancel each other but for what is far below them: whoever computes them, the bits are the same."""
    rng = np.random.default_rng(93)
    lanes = np.zeros((20, 4, THREADS, 16 // DECODERS[code].itemsize))
    lanes[:, 0, :60, 0] = rng.standard_normal((20, 60))
    lanes[:, 0, 60:120, 0] = -lanes[:, 0, :60, 0]
    scales = 2.0 ** -rng.integers(*((8, 20) if code == "F16" else (46, 76)), (20, 1, 8, 1))
    lanes[:, :, 120:] = rng.standard_normal(lanes[:, :, 120:].shape) * scales
    stack = [[encoded(code, values), random_tensor(other, values.size, rng)] for values in lanes]
    alone = run(backend, [[operand] for operand, _ in stack], [code], [])[0]
    together = run(backend, stack, [code, other], TWO)[0]
    assert same_bits([together[:, 0].copy()], [alone[:, 0].copy()])


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2"])
def test_every_pair_of_8_bit_values(code):
    """A chunk of them. All that are finite; in the place of the others stands 0."""
    values = np.arange(256, dtype=np.uint8)
    values[~np.isfinite(reference.decode(values, code))] = 0
    x, y = np.repeat(values, 256), np.tile(values, 256)
    check_against_reference(tile_sums, [[x, y]], [code, code])


@both
@pytest.mark.parametrize("code", [code for code in CODES if DECODERS[code].itemsize <= 2])
def test_every_pattern_of_a_narrow_dtype(backend, code):
    """Beside the same values in a wide dtype none differs but NaN; interpreted of 16 bits some of every exponent."""
    itemsize = DECODERS[code].itemsize
    patterns = np.arange(256**itemsize, dtype=f"u{itemsize}")[:: 31 if itemsize == 2 and interpreted() else 1].copy()
    values = reference.decode(patterns.view(np.uint8), code).astype(np.float64)
    wide, dtype = ("F32", np.float32) if backend is in_float32 else ("F64", np.float64)
    with np.errstate(invalid="ignore"):  # signalling NaN
        beside = values.astype(dtype)
    selfs, pairs = run(backend, [[patterns.view(np.uint8), beside.view(np.uint8)]], [code, wide], [(0, 1)])
    assert pairs[0, 0, 4] == np.isnan(values).sum()
    assert selfs[0, :, 5].tolist() == [(~np.isfinite(values)).sum()] * 2


def test_same_bits_in_tasks_of_any_size():
    code = "F8_E5M2"
    rng = np.random.default_rng(65)
    base = [random_tensor(code, size, rng) for size in (65_536 + 5, 700)]
    stack = [[x, nearby(x, code, rng)] for x in base]
    results = [run(tile_sums, stack, [code, code], task_bytes=size) for size in (1, 1 << 40)]
    check(results[0], exact(stack, [code, code]))
    assert same_bits(*results)


@pytest.mark.parametrize(
    ("backend", "code"),
    [*((tile_sums, code) for code in ("F32", "F16", "BF16", "F64")), (in_float32, "F32"), (in_float32, "BF16")],
)
def test_sums_that_cancel_are_certain_on_the_device(backend, code):
    """Σx and Σxy are a millionth of what was added, and half of the elements have bits far below the others'."""
    rng = np.random.default_rng(66)
    half, partner = rng.normal(0, 1, (2, 1500))
    half[::2] *= 2.0 ** (-8 if code == "F16" else -30)
    if code == "BF16":
        half, partner = ((v.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32) for v in (half, partner))
    x = np.r_[half, -half, 1e-3, 2e-9]
    y = np.r_[partner, partner, 1, 1e-9]
    order = rng.permutation(x.size)
    if code == "BF16":
        sides = [(v[order].astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8) for v in (x, y)]
    else:
        sides = raw(x[order], y[order], dtype={"F64": np.float64, "F32": np.float32, "F16": np.float16}[code])
    certified([sides], [code, code], backend=backend)


def bfloat16(*values):
    return (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


# All are outside of what three float32 hold with their squares, so that both backends take them in float64.
CANCELS = [2.0**120, -(2.0**120), 2.0**60, -(2.0**60), 2.0**-60]


def sides(code, values):
    """Elements of bfloat16 or float32, and as many ones and zeros where they are and are not zero."""
    ones = (np.asarray(values) != 0).astype(np.float32)
    return [bfloat16(*values), bfloat16(*ones)] if code == "BF16" else raw(values, ones, dtype=np.float32)


@both
@pytest.mark.parametrize("code", ["BF16", "F32"])
def test_lanes_that_cancel_each_other(backend, code):
    """Every lane of Σx and Σxy has one element and is exact; their sum is not."""
    width = 16 // DECODERS[code].itemsize
    values = np.zeros(step(code))
    values[width * np.array([0, 1, 2, 64, 66])] = CANCELS
    check_against_reference(backend, [sides(code, values)], [code, code])


@both
@pytest.mark.parametrize("code", ["BF16", "F32"])
def test_chunks_that_cancel_each_other(backend, code):
    """Every chunk of Σx and Σxy has one element and is exact; their sum is not."""
    chunks = [0, 1, 2, 3, 10]
    values = np.zeros(11 * CHUNK, np.float32)
    values[CHUNK * np.array(chunks)] = CANCELS

    def some_of(addresses, codes, elements, pairs):
        tile = gpu.Tile(codes, elements, pairs, gpu_backend.DEVICE, float64=backend is tile_sums)
        task = tile.items[chunks]
        task[:, 2] = step(code)  # all behind it is zeros
        arena, places = gpu_backend.packed(task, addresses, codes)
        tile.run(np.c_[np.arange(len(task)), task[:, 1:]], places + arena.data_ptr(), arena)
        return tile.finish(lambda tensors: addresses[tensors], 1)

    check_against_reference(some_of, [sides(code, values)], [code, code])


HUGE, TINY, NONE = 2.0**60, 2.0**-60, (0, 0)


def at_random(chunks):
    """The two parts of the strips of so many chunks [chunks, STRIPS, 2], half of which the others cancel."""
    rng = np.random.default_rng(100)
    parts = rng.normal(0, 1, (chunks, STRIPS, 2)) * 2.0 ** rng.integers(-60, 60, (chunks, STRIPS, 1)) * [1, 2.0**-54]
    parts[1::2] = -parts[::2][rng.permutation(chunks // 2), ::-1]
    return parts


def in_one_lane(*chunks, apart=GATHER_LANES):
    """Likewise, of chunks that the second step adds in its first lane, or in rows of their own."""
    parts = np.zeros((len(chunks), apart, STRIPS, 2))
    parts[:, 0] = chunks
    return parts.reshape(-1, STRIPS, 2)


def in_lanes_of_their_own():
    """Likewise, of whole parts in one strip each: only adding what `joined_lanes` cuts off them loses anything."""
    rng = np.random.default_rng(102)  # which loses in any order that is likely: by halves, eights, one after the other
    half = rng.normal(0, 1, GATHER_LANES // 2 - 1) * 2.0 ** rng.integers(-20, 20, GATHER_LANES // 2 - 1)
    parts = np.zeros((GATHER_LANES, STRIPS, 2))
    parts[:, 0, 0] = rng.permutation(np.r_[HUGE, half, -half[rng.permutation(half.size)], -HUGE])
    return parts


ADDED = {  # in all but the first 1 + TINY is rounded, and 1 taken away again
    "at random": at_random(600),
    "lanes": in_lanes_of_their_own(),
    "strips": in_one_lane([(HUGE, 1), (-HUGE, TINY)], [(HUGE, -1), (-HUGE, 0)]),
    "a strip's parts": in_one_lane([(1, 0), (TINY, 1)], [(-1, -1), NONE]),
    "low parts of chunks": in_one_lane([(0, 1), NONE], [(0, TINY), NONE], [(0, -1), NONE]),
    "errors of chunks": in_one_lane([(1, 1), NONE], [(TINY, 0), NONE], [(-1, -1), NONE]),
    "rows": in_one_lane([(HUGE, 1), NONE], [(-HUGE, TINY), NONE], [(0, -1), NONE], apart=FAN),
}


@pytest.mark.parametrize("name", ADDED)
def test_what_adding_strips_and_chunks_loses_is_in_the_bound(name):
    """Of slots that are right themselves and cancel."""
    import torch

    parts = ADDED[name]
    tile = gpu.Tile(["F32"], np.array([len(parts) * CHUNK]), np.zeros((0, 2), np.int64), gpu_backend.DEVICE)
    slots = np.zeros((len(parts) * STRIPS, 1, SLOTS))
    slots[:, 0, 2:4] = parts.reshape(-1, 2)
    tile._slots.copy_(torch.from_numpy(slots))
    high, low, bound = tile.added().cpu().numpy()[0, 0, 2:5]
    found = high + low
    exactly = sum(map(Fraction, parts.ravel().tolist()))
    lost = abs(Fraction(float(found)) - exactly)
    assert lost > abs(exactly) * Fraction(2.0**-52), "the test needs a sum that loses more than its last rounding"
    assert lost <= Fraction(float(bound)) + abs(exactly) * Fraction(2.0**-53)
    assert bound < 2.0**-50 * np.abs(parts[..., 1]).sum() + 2.0**-77 * np.abs(parts).sum()


@pytest.mark.parametrize("chunks", [[], [0], [1], [FAN], [FAN + 1], [3, 0, FAN * 2 + 5, 1, FAN * FAN + FAN + 1, 2]])
def test_slots_of_many_chunks_are_added_to_those_of_their_tensors(chunks):
    """Every slot of every level is added once, in whatever company, and the largest found."""
    import torch

    tile = gpu.Tile(["F32"] * 2, np.array(chunks, np.int64) * CHUNK, np.array([(1, 0)]), gpu_backend.DEVICE)
    rng = np.random.default_rng(102)
    slots = rng.integers(0, 1 << 20, (len(tile.items), STRIPS, 3, SLOTS)).astype(np.float64)
    tile._slots.copy_(torch.from_numpy(slots.reshape(-1, 3, SLOTS)))
    found = tile.added().cpu().numpy()
    assert found.shape == (len(chunks), 3, SLOTS)
    for k, part in enumerate(np.split(slots, np.cumsum(chunks)[:-1].astype(int))[: len(chunks)]):
        wanted = part.sum(axis=(0, 1))
        wanted[:, 5] = part[..., 5].max(axis=(0, 1), initial=0)
        assert (found[k, :, 2] + found[k, :, 3] == wanted[:, 2] + wanted[:, 3]).all()
        alike = [0, 1, 5, 6]
        assert (found[k][:, alike] == wanted[:, alike]).all()
        np.testing.assert_allclose(found[k, :, 4], wanted[:, 4], rtol=1e-9)  # what low parts may lose comes on top


@pytest.mark.parametrize(
    ("chunks", "fan"), [(1, FAN), (FAN, FAN), (FAN + 1, FAN), (2 * FAN + 5, FAN), (2, 2), (3, 2), (8, 2), (9, 2)]
)
@pytest.mark.parametrize("held", [1, 5, 200])
def test_slots_that_are_folded_come_to_the_bits_of_all_at_once(monkeypatch, chunks, fan, held):
    """Of tiles that hold few chunks, and add as many columns at a time as they have room for; so do their bounds."""
    import torch

    monkeypatch.setattr("weighbridge.kernels.gpu.levels.FAN", fan)

    def tile(held):
        made = gpu.Tile(["F32"] * 2, np.array([chunks * CHUNK]), [(1, 0)], gpu_backend.DEVICE, held=range(held))
        made._host.settle = lambda *sums: sums[:4]  # what is in doubt stays so
        return made

    whole, part, folded = tile(chunks), tile(held), None
    whole._slots.copy_(torch.from_numpy(np.random.default_rng(103).normal(size=whole._slots.shape)))
    for first in range(0, chunks, fan):
        folded = part.fold(folded, whole.slots(first, min(first + fan, chunks)).split(7), None, 1)
    assert same_bits(whole.finish(None, 1), part.finish(None, 1, folded))


def test_what_a_tensor_comes_to_does_not_depend_on_its_company():
    """Nor does the bound: whether a tensor is in doubt, and is computed in another way, must not either."""
    import torch

    def added(chunks, slots):
        tile = gpu.Tile(["F32"] * 2, np.array(chunks) * CHUNK, np.array([(1, 0)]), gpu_backend.DEVICE)
        tile._slots.copy_(torch.from_numpy(slots))
        return tile.added().cpu().numpy()

    slots = np.random.default_rng(104).normal(size=((5 + FAN) * STRIPS, 3, SLOTS))
    together, alone = added([5, FAN], slots), added([5], slots[: 5 * STRIPS])
    assert same_bits(together[:1], alone)


@pytest.mark.parametrize("code", ["BF16", "F32"])
def test_sums_of_nothing_but_opposites_are_certain_on_the_device(code):
    """Where adding the lanes loses nothing the bound is 0, so Σx = 0 is not looked at again."""
    half = np.random.default_rng(101).integers(1, 1 << 7, step(code) // 2)
    certified([[sides(code, np.r_[half, -half])[0]]], [code], [])


@both
def test_the_largest_difference_is_not_rounded(backend):
    """1 and -2**-20 differ by what float32 holds no longer beside 8 bits of 2**7; overflow of float32 is none here."""
    size = step("BF16")
    stack = []
    for value, other in ((1.9921875 * 2**7, -(2.0**-20)), (3e38, -3e38), (1, -(2.0**-25))):
        x, y = np.full(size, 2.0**-3), np.full(size, 2.0**-3)
        x[5], y[5] = value, other
        stack.append([bfloat16(*y), bfloat16(*x)])
    certified(stack, ["BF16", "BF16"], backend=backend)


@pytest.mark.parametrize("x", [0x7B, 0x50, 0x44])
def test_the_largest_difference_of_8_bit_floats_is_not_rounded(x):
    """57344, 32 and 4, less -2**-16: 32, 22 and 19 bits, and the upper half of a float64 has 21."""
    sides = np.full((2, step("F8_E5M2")), 0x30, np.uint8)
    sides[:, 5] = x, 0x81
    certified([list(sides)], ["F8_E5M2", "F8_E5M2"])


@both
def test_the_largest_difference_of_two_sizes_is_not_rounded(backend):
    """Lanes of the pair are those of bfloat16: lane 5 has 65280 and nothing small, and lane 2 of the other -2**-9."""
    x, y = bfloat16(*np.full(step("F8_E4M3"), 2.0)), np.full(step("F8_E4M3"), 0x40, np.uint8)
    x.view(np.uint16)[40], y[40] = 0x477F, 0x81
    certified([[y, x]], ["F8_E4M3", "BF16"], backend=backend)


def test_what_float32_has_no_room_for():
    """Squares that overflow or underflow it, differences below it, many elements behind one that they vanish beside.

    The last operand is right to 1e-11 in three float32 a lane: it is in doubt by what these say they have rounded.
    """
    rng = np.random.default_rng(68)
    x, y = rng.normal(0, 1, (2, 600)).astype(np.float32)
    heavy = np.r_[np.float32(1), np.float32(2.0**-24) * (1 + rng.random(599, np.float32))]
    stack = [raw(x * scale, y * scale, dtype=np.float32) for scale in (2e25, 3e-25, 1e-44)]
    stack.append(raw(x * 1e-6, np.nextafter(x * np.float32(1e-6), np.float32(0)), dtype=np.float32))
    stack.append(raw(x, x * 1e25, dtype=np.float32))
    stack.append(raw(np.sqrt(heavy), -heavy, dtype=np.float32))
    down = rng.random((4, THREADS * 4)) * [[1e15], [1e7], [1], [100]]
    stack.append(raw(np.ones(7 * THREADS * 4), np.r_[down, -down[:3]].ravel(), dtype=np.float32))
    check_against_reference(in_float32, stack, ["F32", "F32"])


@both
@pytest.mark.parametrize("code", ["F32", "BF16", "F8_E4M3", "F8_E5M2", "F64"])
def test_what_is_not_finite_is_counted_and_stays_in_its_tensor(backend, code):
    rng = np.random.default_rng(67)
    base = random_tensor(code, step(code), rng)
    itemsize = DECODERS[code].itemsize
    stack = []
    for high in (None, *((0x7F,) if code == "F8_E4M3" else (0x7F, 0xFC))):
        x = base.copy()
        if high is not None:
            x.reshape(-1, itemsize)[[3, 200]] = 0xFF
            x.reshape(-1, itemsize)[[3, 200], -1] = high
        stack.append([base, x])
    if code == "F64":  # 0xFCFF… is finite there, and its square is not
        check_against_reference(backend, stack, [code, code])
    else:
        certified(stack, [code, code], backend=backend)


ADVERSARIES = ["1e30, 1, -1e30", "heavy tails", "36 decades", "huge mean against noise", "disjoint supports"]
ENDS = ["1e-300 to 1e300", "squares overflow, product does not", "subnormal", "sums overflow on the way"]


def test_adversaries():
    """Some are certain on the device, and some are looked at again: both come out right, in one stack."""
    pairs = [CANCELLING[name] for name in ADVERSARIES] + [RANGES[name] for name in ENDS]
    stack = [raw(np.array(y)[:700], np.array(x)[:700]) for x, y in pairs]
    check_against_reference(tile_sums, stack, ["F64", "F64"])


@pytest.mark.parametrize(("code", "values"), [("I64", [2**53 + 1, -(2**60), 7]), ("U64", [2**64 - 1, 0, 2**63])])
def test_large_integers(code, values):
    x = np.resize(np.array(values, np.dtype(f"{code[0].lower()}8")), 300)
    check_against_reference(tile_sums, [raw(x[::-1], x, dtype=x.dtype)], [code, code])
