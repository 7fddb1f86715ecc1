"""The fused kernels compiled for GPUs that are not there: no register is spilled, loads are 16 bytes wide, and what a
warp adds up by tensor cores is of one sum.

`make test` compiles a choice; with `WEIGHBRIDGE_COMPILE=all`, as in CI, every kernel for three sorts of GPUs. These are
fast at float64 and take the kernels in float32 only beside one that is not; some of those are compiled for such, too.
"""

import functools
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from weighbridge.kernels.gpu.constants import FAN, STRIPS, THREADS, VECTOR_BYTES
from weighbridge.kernels.gpu.programs import sums_of, tile_constants, tile_options
from weighbridge.kernels.sums import CHUNK
from weighbridge.kernels.wanted import Wanted

from support.compiled import (
    MAIN,
    SINGLE,
    compiled,
    compiled_again,
    compiled_gather,
    elements_of,
    every_kernel,
    kernel_of,
    launch_of,
    steps_of,
)

pytest.importorskip("triton")

ARCHS = (80, 90, 100)

# What other tests here look at, and of every sort of cell some.
VARIANTS = {
    **{f"{code} pair sm_{arch}": (launch_of(code, code), arch) for code in MAIN for arch in ARCHS},
    **{f"{code} star": (launch_of(code, code, (4, 1)), 90) for code in MAIN},
    **{f"{code} square": (launch_of(code, code, (2, 2)), 90) for code in MAIN},
    "BF16 operand": (launch_of("BF16"), 90),
    "F16 pair sm_90": (launch_of("F16", "F16"), 90),
    "F16 star sm_80": (launch_of("F16", "F16", (4, 1)), 80),
    "F64 square sm_100": (launch_of("F64", "F64", (2, 2)), 100),
    "F8_E5M2 pair sm_90": (launch_of("F8_E5M2", "F8_E5M2"), 90),
    "F8_E5M2 operand sm_100": (launch_of("F8_E5M2"), 100),
    "I8 square sm_80": (launch_of("I8", "I8", (2, 2)), 80),
    "two of F32 and any of 2 bytes": (launch_of("F32", "BF16", (2, 1)), 90),
    "two of any of 1 byte and F32": (launch_of("F8_E4M3", "F32", (2, 1)), 90),
    "two of any of 1 byte and of 8": (launch_of("F8_E5M2", "I64", (2, 1)), 90),
    "two of any of 2 bytes and of 4 sm_80": (launch_of("BF16", "I32", (2, 1)), 80),
    "any of 1 byte": (launch_of("U8", "BOOL"), 90),
    "any of 2 bytes sm_100": (launch_of("U16", "U16"), 100),
}

in_float32 = functools.partial(launch_of, compensated=True)

# GPUs that are slow at float64: each dtype of `MAIN` on one, a pair, a star and a square, and what tells dtypes apart.
IN_FLOAT32 = {
    "F32 pair sm_80": (in_float32("F32", "F32"), 80),
    "BF16 pair sm_90": (in_float32("BF16", "BF16"), 90),
    "F8_E4M3 pair sm_100": (in_float32("F8_E4M3", "F8_E4M3"), 100),
    "F32 pair sm_86": (in_float32("F32", "F32"), 86),
    "BF16 pair sm_120": (in_float32("BF16", "BF16"), 120),
    "F8_E4M3 pair sm_89": (in_float32("F8_E4M3", "F8_E4M3"), 89),
    "F32 star sm_89": (in_float32("F32", "F32", (2, 1)), 89),
    "BF16 star sm_86": (in_float32("BF16", "BF16", (2, 1)), 86),
    "F32 square sm_120": (in_float32("F32", "F32", (2, 2)), 120),
    "F8_E4M3 square sm_89": (in_float32("F8_E4M3", "F8_E4M3", (2, 2)), 89),
    "F16 star sm_100": (in_float32("F16", "F16", (2, 1)), 100),
    "two of F32 and any of 2 bytes sm_103": (in_float32("F32", "BF16", (2, 1)), 103),
    "two of any of 1 byte and of 2 sm_89": (in_float32("U8", "I16", (2, 1)), 89),
}
VARIANTS |= {f"{name} in float32": variant for name, variant in IN_FLOAT32.items()}


def test_what_is_compiled_here_is_what_tiles_launch():
    assert {kernel_of(launch) for launch, _ in VARIANTS.values()} <= {kernel_of(*each) for each in every_kernel()}


def name_of(launch, wanted):
    compensated, x, y, self_x, self_y, pairs, shape, sums = kernel_of(launch, wanted)
    of_pairs = f" and pairs ({sums.name})" if pairs else ""
    return f"{x} {y} {shape[0]}x{shape[1]}:{' x' * self_x}{' y' * self_y}{of_pairs}{' in float32' * compensated}"


# What is left of all kernels.
ASKED = os.environ.get("WEIGHBRIDGE_COMPILE", "")
assert ASKED in ("", "all"), f"WEIGHBRIDGE_COMPILE is {ASKED!r}, and may be all"
KNOWN = {(kernel_of(launch), arch) for launch, arch in VARIANTS.values()}
EVERY = {
    f"{name_of(launch, wanted)} sm_{arch}": (launch, arch, wanted)
    for arch in ARCHS  # one after the other: what the first has made of Python serves the others
    for launch, wanted in (every_kernel() if ASKED else [])
    if (kernel_of(launch, wanted), arch) not in KNOWN
}


def all_compiled(variants, folder, **options):
    """By two processes: a kernel takes some two seconds."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = {name: pool.submit(compiled, *variant, folder=folder, **options) for name, variant in variants.items()}
        return {name: each.result() for name, each in found.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return all_compiled(VARIANTS, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def all_made(tmp_path_factory):
    return all_compiled(EVERY, tmp_path_factory.mktemp("every"), listed=False)


def loads_of(launch):
    """How many of 16 bytes a thread has in a step."""
    (a, b), (x, y) = launch.shape, (elements_of(launch) * size // 16 for size in launch.sizes)
    return x * a + (y * b if launch.pairs else 0)


def require_what_kernels_promise(made, launch, arch, wanted=Wanted.ALL):
    assert made.stack == 0, f"{made.registers} registers a thread are not enough"
    # In float64, behind the fast walk comes what is left of its steps where it takes two at a time, the walk of what it
    # has no room for, and at last the walk with care, of a few elements at a time.
    assert (VECTOR_BYTES,) * (loads_of(launch) * steps_of(launch)) in made.loads
    with_care = [loop for loop in made.loads if set(loop) != {VECTOR_BYTES}]
    assert len(with_care) == (0 if launch.compensated else 1), made.loads
    # Tensor cores add up what the threads of a warp hold at a time, so that must be of one sum.
    narrow = launch.x == launch.y and launch.x in ("F8_E4M3", "F8_E5M2")
    added = Wanted.ABS_DIFF in sums_of(launch, wanted)
    assert bool(made.warps) == (narrow and arch >= 90 and added and not launch.compensated)
    assert all(warp[-1] == 32 for warp in made.warps)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_kernels_promise(made, name):
    require_what_kernels_promise(made[name], *VARIANTS[name])
    assert made[name].machine.spilled == 0


@pytest.mark.parametrize("name", EVERY)
def test_every_kernel(all_made, name):
    require_what_kernels_promise(all_made[name], *EVERY[name])


def test_what_spills_is_seen(tmp_path):
    spilt = compiled(in_float32("F32", "F32"), 90, folder=tmp_path, registers=64)
    assert spilt.stack > 0 and spilt.machine.spilled > 0


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("x", "y"), SINGLE)
def test_what_has_no_room_in_float32_is_taken_again_without_spills(x, y, arch, tmp_path):
    assert compiled_again(x, y, arch, tmp_path).stack == 0


@pytest.mark.parametrize("name", [name for name in IN_FLOAT32 if "any" not in name])
def test_slow_float64_is_left_alone(made, name):
    """Where float64 has 1/64 of the rate, the walk has none of it, and no conversions, which are as slow."""
    fast = [op.split(".")[0] for op in made[f"{name} in float32"].machine.fast]
    assert not {"DADD", "DMUL", "DFMA", "DSETP", "DMNMX", "F2F", "I2F"} & set(fast)


def test_enough_loads_are_under_way_and_have_room():
    """12 KiB of each pair or more; and 163 KiB of shared memory for all programs that registers let run (sm_80)."""
    for launch, wanted in every_kernel():
        if launch.pairs:
            stages, step = tile_constants(launch, wanted, False)["STAGES"], loads_of(launch) * VECTOR_BYTES * THREADS
            registers = tile_options(launch, wanted, 80)["maxnreg"] or 128
            assert (stages - 1) * step >= 12 << 10
            assert stages * step * (65536 // (registers * THREADS)) <= 163 << 10


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("strips", [STRIPS, 1])
def test_the_second_step_spills_nothing(arch, strips, tmp_path):
    assert compiled_gather(strips, arch, tmp_path).stack == 0


@pytest.mark.parametrize(
    ("name", "most", "wide"),
    [
        ("F32 pair sm_90", 41, 19),
        ("BF16 pair sm_90", 24, 11),
        ("F8_E4M3 pair sm_90", 15, 4),
        ("F8_E4M3 pair sm_80", 24, 8),
        ("F8_E5M2 pair sm_90", 14, 4),
        ("F16 pair sm_90", 32, 18),
    ],
)
def test_instructions_of_a_pair(made, name, most, wide):
    """What a Hopper GPU has time for while memory brings a pair, and of them in float64; see the kernels' docstring."""
    machine, (launch, *_) = made[name].machine, VARIANTS[name]
    pairs = elements_of(launch) * steps_of(launch)
    assert len(machine.fast) <= most * pairs
    doubles = sum(op.split(".")[0] in ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX") for op in machine.fast)
    assert doubles <= wide * pairs
    # Each element is converted once, and on sm_80 a run of them.
    assert sum(op.startswith("F2F.") for op in machine.fast) <= 2 * pairs + steps_of(launch)


@pytest.mark.parametrize(
    ("name", "most"), [("F32 square", 0.4), ("F32 square sm_120 in float32", 0.5)], ids=["float64", "float32"]
)
def test_sums_that_are_not_wanted_are_taken_out_of_the_walk(made, tmp_path, name, most):
    alone = compiled(*VARIANTS[name], Wanted.SQ_DIFF, folder=tmp_path)
    assert alone.stack == 0
    assert len(alone.machine.fast) < most * len(made[name].machine.fast)


class Hopper:
    """What Triton asks of a driver before it compiles."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize(
    ("codes", "pairs"),
    [
        (["F32", "F32"], [(1, 0)]),
        (["BF16", "F32", "BF16", "BF16"], [(n, 0) for n in range(1, 4)]),
        (["BF16"] * 5, list(itertools.combinations(range(5), 2))),
        (["F8_E4M3"], []),
        (["I32", "U8", "F64", "I32", "F32"], [(n, 0) for n in range(1, 5)]),
        (["U8", "F32", "I16", "F32"], [(n, 0) for n in range(1, 4)]),
    ],
    ids=["pair", "star", "squares", "alone", "wide among shared", "shared"],
)
def test_all_that_a_tile_launches_is_compiled_ahead(monkeypatch, codes, pairs, float64):
    """Triton is told to leave out compiling and launching; what it would have compiled it is asked for by its key."""
    import torch
    import triton

    from weighbridge.kernels.gpu import Tile, compile_ahead
    from weighbridge.kernels.gpu.again import again_kernel
    from weighbridge.kernels.gpu.compensated import compensated_kernel
    from weighbridge.kernels.gpu.fused import tile_kernel
    from weighbridge.kernels.gpu.gather import gather_kernel

    asked = []
    monkeypatch.setattr(triton.runtime.driver, "_active", Hopper())
    for module in ("tile", "compiling"):
        monkeypatch.setattr(f"weighbridge.kernels.gpu.{module}.capability", lambda device: 90)
        monkeypatch.setattr(f"weighbridge.kernels.gpu.{module}.packs_halves", lambda device: True)
    monkeypatch.setattr(
        triton.knobs.runtime, "jit_cache_hook", lambda *, key, fn, **_: asked.append((fn.name, key)) or True
    )
    for kernel in (tile_kernel, compensated_kernel, again_kernel, gather_kernel):
        monkeypatch.setattr(kernel, "device_caches", type(kernel.device_caches)(kernel.create_binder))
    pairs = np.array(pairs, np.int64).reshape(-1, 2)
    compile_ahead(codes, pairs, "cpu", float64=float64)
    ahead, asked[:] = set(asked), []
    assert len(ahead) >= 2
    tile = Tile(codes, np.array([FAN * CHUNK + 1, 3]), pairs, "cpu", float64=float64)
    arena = torch.zeros(64, dtype=torch.uint8)
    tile.run(tile.items, np.full((2, len(codes)), arena.data_ptr()), arena)
    tile.added()
    assert set(asked) == ahead
