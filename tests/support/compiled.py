"""Kernels compiled for a GPU that is not there, and what their machine code says.

`python -m support.compiled` (in tests/) prints, for the dtypes that matter, instructions per element of the fast walk.
"""

import hashlib
import itertools
import os
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
SINGLE = list(itertools.combinations_with_replacement(("F32", "U16", "U8"), 2))  # of each two sizes, the wider first
POINTERS = {"arena": "*i32", "items": "*i64", "cells": "*i64", "slots": "*fp64"}
COUNTS = ("operands", "cell_count", "log2_strips", "columns")
WALKS = (
    *((code, code, shape) for code in MAIN for shape in ((1, 1), (4, 1), (2, 2))),
    ("F8_E5M2", "F8_E5M2", (1, 1)),
    ("F16", "F16", (1, 1)),
    ("U8", "BOOL", (1, 1)),
    ("U16", "I16", (1, 1)),
    ("I32", "U32", (1, 1)),
    ("I64", "U64", (1, 1)),
    ("BF16", "F32", (2, 1)),
    ("F8_E4M3", "F32", (2, 1)),
    ("F8_E4M3", "BF16", (2, 1)),
)


@dataclass(frozen=True)
class Made:
    """What a kernel became.

    Attributes:
        registers: of a thread.
        stack: bytes of memory that a thread has for the registers that ptxas spills.
        loads: the loads from global memory of each innermost loop that has any, in the order of the code, in bytes.
        warps: how the threads of a warp lie along the axes of each tensor that tensor cores add up.
        machine: its machine code, where that was asked for.
    """

    registers: int
    stack: int
    loads: tuple[tuple[int, ...], ...]
    warps: frozenset[tuple[int, ...]]
    machine: "Machine | None"


@dataclass(frozen=True)
class Machine:
    """Machine code.

    Attributes:
        loops: the instructions of each innermost loop, in the order of the code.
        straight: how many instructions stand outside of loops.
        spilled: how many instructions store or load a word that ptxas spills.
    """

    loops: tuple[tuple[str, ...], ...]
    straight: int
    spilled: int

    @property
    def fast(self) -> tuple[str, ...]:
        """The loop of the fast walk, the first."""
        return self.loops[0]


def every_kernel():
    """A launch and the sums that are wanted for every kernel of tiles, whatever their operands and pairs."""
    from weighbridge.kernels.gpu.cells import launches

    def star(others):
        return [(n, 0) for n in range(1, others + 1)]

    layouts = [(1, []), *((n + 1, star(n)) for n in (1, 2, 4, 8)), (4, list(itertools.combinations(range(4), 2)))]
    same = [([code] * operands, pairs) for code in DECODERS for operands, pairs in layouts]
    two = [([y] + [x] * n, star(n)) for x, y in itertools.permutations(DECODERS, 2) for n in (1, 2)]
    found = {}
    for float64, (codes, pairs) in itertools.product((True, False), same + two):
        for launch in launches(codes, np.array(pairs, np.int64).reshape(-1, 2), float64):
            for wanted in (Wanted.ALL, Wanted.SQ_DIFF, Wanted.DOT):
                found.setdefault(kernel_of(launch, wanted), (launch, wanted))
    return list(found.values())


def kernel_of(launch, wanted=Wanted.ALL):
    """What its kernel is compiled for."""
    from weighbridge.kernels.gpu.programs import sums_of

    takes = launch.self_x, launch.self_y, launch.pairs
    return launch.compensated, *launch.formats, *takes, launch.shape, sums_of(launch, wanted)


def launch_of(x, y=None, shape=(1, 1), compensated=False):
    """A launch as `cells.launches` makes them."""
    from weighbridge.kernels.gpu.cells import TAKES_SELF_SUMS, Launch

    self_x, self_y = TAKES_SELF_SUMS[shape] if y else (True, False)
    return Launch(x, y or x, self_x, self_y, y is not None, np.zeros((1, 1), np.int64), shape, compensated)


def elements_of(launch):
    """Elements of an operand that a thread takes in one step."""
    return 16 // min(launch.sizes)


def steps_of(launch):
    """How many steps the loop of the fast walk takes at a time."""
    from weighbridge.kernels.gpu.programs import tile_constants

    return tile_constants(launch, Wanted.ALL, True).get("UNROLL", 1)


def compiled(launch, arch, wanted=Wanted.ALL, *, folder, listed=True, registers=None):
    """The kernel of `launch` compiled for sm_<arch>.

    Args:
        folder: Triton's cache, and takes the machine code.
        listed: whether that is disassembled, which takes 0.3 s.
        registers: how many a thread has at most, instead of what tiles choose.
    """
    from weighbridge.kernels.gpu.programs import keywords, tile_kernel

    how = keywords(launch, wanted, arch >= 90, arch)
    if registers is not None:
        how["maxnreg"] = registers
    return _compiled(tile_kernel(launch), POINTERS, COUNTS, how, arch, folder, listed)


def compiled_again(x, y, arch, folder):
    """The kernel for what has no room in float32, of two dtypes, likewise."""
    from weighbridge.kernels.gpu.programs import again_kernel, again_keywords

    return _compiled(again_kernel(), POINTERS, COUNTS, again_keywords(launch_of(x, y)), arch, folder, False)


def compiled_gather(strips, arch, folder):
    """The second step, likewise."""
    from weighbridge.kernels.gpu.gather import gather_kernel
    from weighbridge.kernels.gpu.programs import options

    pointers = {"slots": "*fp64", "table": "*i64", "sums": "*fp64"}
    how = {"STRIPS": strips, **options()}
    return _compiled(gather_kernel, pointers, ("first_row", "rows", "columns"), how, arch, folder, False)


def _compiled(kernel, pointers, counts, keywords, arch, folder, listed):
    """keywords: what a launch has, of which some are the kernel's own, and others say how it is compiled."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    fixed = {parameter.name: parameter.is_constexpr for parameter in kernel.params}
    constants = {name: value for name, value in keywords.items() if fixed.get(name)}
    options = {name: value for name, value in keywords.items() if name not in fixed}
    integers = dict.fromkeys((*counts, *(name for name in keywords if fixed.get(name) is False)), "i32")
    # What Triton makes of Python is the same for all GPUs, and takes a sixth of the time.
    known = repr((kernel.__name__, integers, constants))
    ttir = Path(folder) / f"{hashlib.sha256(known.encode()).hexdigest()}.ttir"
    source = ASTSource(
        fn=kernel,
        signature=pointers | integers | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(at,): [["tt.divisibility", 16]] for at in range(len(pointers))},  # as torch's allocations are
    )
    triton.knobs.cache.dir = str(folder)
    target = GPUTarget("cuda", arch, 32)
    made = triton.compile(str(ttir) if ttir.exists() else source, target=target, options=options)
    if not ttir.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            file.write(made.asm["ttir"])
        os.replace(file.name, ttir)
    tools = Path(triton.__file__).parent / TOOLS
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".cubin") as cubin:
        cubin.write(made.asm["cubin"])
        cubin.flush()
        usage = _output(tools / "cuobjdump", "--dump-resource-usage", cubin.name)
        registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
        # Without dataflow: the same code, sooner.
        machine = _machine(_output(tools / "nvdisasm", "-ndf", "-c", cubin.name)) if listed else None
        return Made(registers, stack, _loads(made.asm["ptx"]), _warps(made.asm["ttgir"]), machine)


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


def _loads(ptx):
    """PTX says how wide loads are; ptxas neither cuts nor joins them."""
    code, labels = [], {}
    for line in ptx.splitlines():
        if label := re.match(r"(\$L__BB\w+):", line):
            labels[label[1]] = len(code)
        elif found := re.match(
            r"\s+(?:@!?%p\d+ )?(?:bra(?:\.uni)?\s+(\$L__BB\w+);|(ld\.global|cp\.async\.c[ag]\.)(.*))", line
        ):
            code.append(found.groups())
    back = [(labels.get(target, len(code)), at) for at, (target, _, _) in enumerate(code) if target]
    loops = _innermost([span for span in back if span[0] <= span[1]])
    loads = (tuple(_bytes(kind, rest) for _, kind, rest in code[begin:end] if kind) for begin, end in loops)
    return tuple(each for each in loads if each)


def _bytes(kind, rest):
    """How many a load brings: what an asynchronous copy says, or words times their bits."""
    if kind.startswith("cp."):
        return int(re.search(r"\], (0x[0-9a-f]+)", rest)[1], 16)
    many, bits = re.match(r"(?:\.v(\d))?\.b(\d+) ", rest).groups()
    return int(many or 1) * int(bits) // 8


def _innermost(spans):
    return [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]


def _machine(listing):
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
    loops = tuple(tuple(ops[begin:end]) for begin, end in _innermost(spans))
    spilled = sum(op.startswith(("LDL", "STL")) for op in ops)
    return Machine(loops, len(ops) - sum(map(len, loops)), spilled)


def _table(folder):
    print("dtypes              cell   sm  registers   a pair: all  float64  conversions  16-byte loads   closing")
    for x, y, shape in WALKS:
        launch = launch_of(x, y, shape)
        made = compiled(launch, 90, folder=folder)
        pairs = elements_of(launch) * shape[0] * shape[1] * steps_of(launch)
        count = Counter(op.split(".")[0] for op in made.machine.fast)
        double = sum(count[op] for op in ("DADD", "DMUL", "DFMA"))
        print(
            f"{x:8}  {y:8}  {shape}  90  {made.registers:9}  {len(made.machine.fast) / pairs:12.1f}"
            f"  {double / pairs:7.1f}  {count['F2F'] / pairs:11.2f}  {len(made.loads[0]) / pairs:13.3f}"
            f"  {made.machine.straight:8}"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(_table(folder))
