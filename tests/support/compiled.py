"""Kernels compiled for a GPU that is not there, and what their machine code says.

`python -m support.compiled` (in tests/) prints, for the dtypes that matter, instructions per element of the fast walk.
"""

import itertools
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.wanted import Wanted

TOOLS = "backends/nvidia/bin"
MAIN = ("F32", "BF16", "F8_E4M3")
WALKS = (
    *((code, code, shape) for code in MAIN for shape in ((1, 1), (4, 1), (2, 2))),
    ("F8_E5M2", "F8_E5M2", (1, 1)),
    ("F16", "F16", (1, 1)),
    ("U8", "BOOL", (1, 1)),
    ("U16", "I16", (1, 1)),
    ("I32", "U32", (1, 1)),
    ("I64", "U64", (1, 1)),
    ("F32", "U8", (1, 1)),
    ("F32", "BF16", (1, 1)),
    ("F32", "F8_E4M3", (1, 1)),
    ("BF16", "F8_E4M3", (1, 1)),
)


@dataclass(frozen=True)
class Machine:
    """What a kernel became.

    Attributes:
        registers: of a thread.
        spilled: how many instructions store or load a word that ptxas spills; in the loops, and outside of them.
        loops: the instructions of each innermost loop, in the order of the code.
        straight: how many instructions stand outside of loops.
        warps: how the threads of a warp lie along the axes of each tensor that tensor cores add up.
    """

    registers: int
    spilled: tuple[int, int]
    loops: tuple[tuple[str, ...], ...]
    straight: int
    warps: frozenset[tuple[int, ...]]

    @property
    def fast(self) -> tuple[str, ...]:
        """The loop of the fast walk, the first."""
        return self.loops[0]

    def loads(self) -> list[list[str]]:
        """The loads from global memory of each loop, asynchronous copies into shared memory among them."""
        return [[op for op in loop if op.startswith(("LDG.", "LDGSTS."))] for loop in self.loops]


def every_kernel():
    """A launch and the sums that are wanted for every kernel of tiles in float64, whatever their operands and pairs."""
    from weighbridge.kernels.gpu.cells import launches

    def star(others):
        return [(n, 0) for n in range(1, others + 1)]

    layouts = [(1, []), *((n + 1, star(n)) for n in (1, 2, 4, 8)), (4, list(itertools.combinations(range(4), 2)))]
    same = [([code] * operands, pairs) for code in DECODERS for operands, pairs in layouts]
    two = [([y] + [x] * n, star(n)) for x, y in itertools.permutations(DECODERS, 2) for n in (1, 2)]
    found = {}
    for codes, pairs in same + two:
        for launch in launches(codes, np.array(pairs, np.int64).reshape(-1, 2), True):
            for wanted in (Wanted.ALL, Wanted.SQ_DIFF, Wanted.DOT):
                found.setdefault(kernel_of(launch, wanted), (launch, wanted))
    return list(found.values())


def kernel_of(launch, wanted=Wanted.ALL):
    """What its kernel in float64 is compiled for."""
    from weighbridge.kernels.gpu.tile import sums_of

    sums = sums_of(launch, wanted, True)
    return *launch.formats, launch.self_x, launch.self_y, launch.pairs, launch.shape, sums


def launch_of(x, y=None, shape=(1, 1)):
    """A launch as `cells.launches` makes them in float64."""
    from weighbridge.kernels.gpu.cells import TAKES_SELF_SUMS, Launch

    self_x, self_y = TAKES_SELF_SUMS[shape] if y else (True, False)
    return Launch(x, y or x, self_x, self_y, y is not None, np.zeros((1, 1), np.int64), shape)


def elements_of(launch):
    """Elements of an operand that a thread takes in one step."""
    return 16 // min(launch.sizes)


def steps_of(launch, float64=True):
    """How many steps the loop of the fast walk takes at a time."""
    from weighbridge.kernels.gpu.tile import tile_constants

    return tile_constants(launch, Wanted.ALL, float64, True)["UNROLL"]


def compiled(launch, arch, float64, wanted=Wanted.ALL, *, folder):
    """The kernel of `launch` compiled for sm_<arch>; `folder` is Triton's cache and takes the machine code."""
    from weighbridge.kernels.gpu.tile import dtypes_of, tile_constants, tile_kernel, tile_options

    pointers = {"arena": "*i32", "items": "*i64", "cells": "*i64", "slots": "*fp64"}
    integers = dict.fromkeys(("operands", "cell_count", "log2_strips", "columns", *dtypes_of(launch, float64)), "i32")
    options = tile_options(launch, wanted, float64, arch)
    constants = tile_constants(launch, wanted, float64, arch >= 90)
    return _compiled(tile_kernel(launch, float64), pointers, integers, constants, options, arch, folder)


def compiled_gather(strips, arch, folder):
    """The second step, likewise."""
    from weighbridge.kernels.gpu.gather import gather_kernel
    from weighbridge.kernels.gpu.tile import options

    pointers = {"slots": "*fp64", "table": "*i64", "sums": "*fp64"}
    integers = dict.fromkeys(("first_row", "rows", "columns"), "i32")
    return _compiled(gather_kernel, pointers, integers, {"STRIPS": strips}, options(), arch, folder)


def _compiled(kernel, pointers, integers, constants, options, arch, folder):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=kernel,
        signature=pointers | integers | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(at,): [["tt.divisibility", 16]] for at in range(len(pointers))},  # as torch's allocations are
    )
    triton.knobs.cache.dir = str(folder)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    tools = Path(triton.__file__).parent / TOOLS
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".cubin") as cubin:
        cubin.write(made.asm["cubin"])
        cubin.flush()
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", cubin.name)
        listing = _output(tools / "nvdisasm", "-ndf", "-c", cubin.name)  # without dataflow: the same code, sooner
        return _machine(listing, int(re.search(r"REG:(\d+)", usage)[1]), _warps(made.asm["ttgir"]))


def _output(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def _warps(text):
    blocked = re.findall(r"^(#\w+) = #ttg\.blocked<\{.*threadsPerWarp = \[([\d, ]+)\]", text, re.MULTILINE)
    layouts = {name: tuple(map(int, threads.split(", "))) for name, threads in blocked}
    for name, lanes in re.findall(r"^(#\w+) = #ttg\.linear<\{.* lane = \[(.*?\])\], warp", text, re.MULTILINE):
        steps = [tuple(map(int, step.split(", "))) for step in re.findall(r"\[([\d, ]+)\]", lanes)]
        layouts[name] = tuple(
            2 ** sum(map(bool, along)) for along in zip(*steps, strict=True)
        )  # a bit of the lane each
    added = re.findall(r'elementwise_inline_asm "mma.*-> tensor<\w+, (#\w+)>', text)
    return frozenset(layouts[name] for name in added)


def _machine(listing, registers, warps):
    code, labels = [], {}
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(code)
        elif found := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", line):
            code.append(found[1])
    spans = []
    for at, instruction in enumerate(code):
        target = re.match(r"BRA.*`\((\.L_\w+)\)", instruction)
        if target and labels[target[1]] < at:  # a jump to itself is the padding at the end
            spans.append((labels[target[1]], at + 1))
    ops = [instruction.split()[0] for instruction in code]
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    loops = tuple(tuple(ops[begin:end]) for begin, end in inner)
    spills, inside = (sum(op.startswith(("LDL", "STL")) for op in each) for each in (ops, itertools.chain(*loops)))
    return Machine(registers, (inside, spills - inside), loops, len(ops) - sum(map(len, loops)), warps)


def _table(folder):
    print("dtypes              cell   sm  registers   a pair: all  float64  conversions  16-byte loads   closing")
    for x, y, shape in WALKS:
        launch = launch_of(x, y, shape)
        machine = compiled(launch, 90, True, folder=folder)
        pairs = elements_of(launch) * shape[0] * shape[1] * steps_of(launch)
        count = Counter(op.split(".")[0] for op in machine.fast)
        double = sum(count[op] for op in ("DADD", "DMUL", "DFMA"))
        print(
            f"{x:8}  {y:8}  {shape}  90  {machine.registers:9}  {len(machine.fast) / pairs:12.1f}"
            f"  {double / pairs:7.1f}  {count['F2F'] / pairs:11.2f}  {len(machine.loads()[0]) / pairs:13.3f}"
            f"  {machine.straight:8}"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(_table(folder))
