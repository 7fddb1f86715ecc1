"""Do all sums of two tensors take longer than one sum over their bytes?

Timed: all eleven self and pair sums of two tensors of 2 GiB each, in the page cache. "Mapped afresh": `engine.execute`,
which opens and maps the files and lets them go again; the bare sum maps them afresh in every round as well. "Map held":
the kernel alone, over maps that the engine made before; the bare sum runs over the same one. Both have all threads.
Against: one float32 sum over the same bytes, whatever they mean.
Not timed: opening the checkpoints.

Related tensors differ by a little noise. Unrelated ones (the other, moved by some elements) need the compensated dot
product; of bit-equal ones (the two halves of the base) every difference is zero. All three are published.
"""

from pathlib import Path

import numpy as np
import pytest

from weighbridge import open_checkpoint
from weighbridge.engine.execute import execute
from weighbridge.engine.plan import Joined
from weighbridge.engine.reading import Files
from weighbridge.kernels import cpu, reference

from measuring import (
    Block,
    bare_sum,
    in_turn,
    joined_spans,
    kept_warm,
    moved,
    plainly,
    related,
    scaled,
    spans,
    warm,
    write,
)

ASKED = {"F64": "<= 1.15", "F32": "<= 1.15", "F16": "<= 1.5", "BF16": "<= 1.5"} | dict.fromkeys(
    ("F8_E4M3", "F8_E5M2", "I8"), "<= 2.5"
)
MOVED = 12_345  # elements; the vectors are unrelated then
SAMPLE = 70_000  # elements that are checked in exact arithmetic: a chunk, a tail and what lies between
PAIRS = [(1, 0)]


@pytest.fixture(scope="module", params=ASKED)
def stored(request, files):
    """Two checkpoints of one tensor, made for one dtype at a time and deleted again: together they would take 30 GB."""
    code = request.param
    block = related(code)
    repeats = scaled(2 << 30, 2 * block.base.size) // block.base.size
    shape = {"weight": (repeats * (block.base.size // cpu.DECODERS[code].itemsize),)}
    paths = [
        write(files / "one-pass" / f"{code}-{repeats}-{side}.safetensors", shape, code, (data for _ in range(repeats)))
        for side, data in zip(("base", "other"), block, strict=True)
    ]
    if not warm(*paths):
        pytest.skip("the page cache does not hold the two files")
    yield code, block, repeats, *(open_checkpoint(path).tensors["weight"] for path in paths)
    for path in paths:
        path.unlink()


def subject(relation, block, repeats, base, other):
    """The tensor of that relation, and its sums by other means: (base, other) and the pair."""
    code = base.dtype
    whole = base.elements
    period = whole // repeats
    if relation == "related":
        return Joined(0, (base, other), whole), plainly(*block, code, repeats)
    if relation == "equal":
        halves = moved(base, 0, whole // 2), moved(base, whole // 2, whole // 2)
        return Joined(0, halves, whole // 2), plainly(block.base, block.base, code, repeats // 2)
    size = cpu.DECODERS[code].itemsize
    apart = Block(block.base, np.roll(block.other, -MOVED * size))
    length = whole - period
    return Joined(0, (moved(base, 0, length), moved(other, MOVED, length)), length), plainly(*apart, code, repeats - 1)


@pytest.mark.parametrize(
    ("relation", "how"),
    [("related", "mapped afresh"), ("related", "map held"), ("unrelated", "map held"), ("equal", "map held")],
)
def test_all_sums(benchmark, recorder, stored, relation, how):
    code, block, repeats, base, other = stored
    tensor, (selfs, pair) = subject(relation, block, repeats, base, other)
    files = Files("map")  # not used as a context: the maps stay for as long as it does
    maps = {ref.file: files.file(ref.file).mapped for ref in tensor.operands}
    operands = [maps[ref.file][ref.offset : ref.offset + ref.nbytes] for ref in tensor.operands]
    addresses = np.array([[operand.ctypes.data for operand in operands]])

    def held(elements=tensor.elements):
        return cpu.tile_sums(addresses, [code, code], np.array([elements]), np.array(PAIRS))

    def afresh():
        done = execute([tensor], 2, PAIRS)
        return done.selfs, done.pairs

    run, parts = (held, operands) if how == "map held" else (afresh, joined_spans(spans([tensor])))
    found_selfs, found_pair = run()
    np.testing.assert_allclose(found_selfs[0], selfs, rtol=1e-12)
    np.testing.assert_allclose(found_pair[0], pair, rtol=1e-12)
    sample = min(SAMPLE, tensor.elements)
    exact = reference.tile_sums(
        [operand[: sample * cpu.DECODERS[code].itemsize] for operand in operands], [code, code], np.array(PAIRS)
    )
    for found, wanted in zip(held(sample), exact, strict=True):
        np.testing.assert_allclose(found[0], wanted, rtol=1e-12)

    name = f"all sums, {code}, {relation}, {how}"
    times = in_turn(
        benchmark,
        {name: run, "bare sum of the same bytes": bare_sum(*parts)},
        before=kept_warm(*map(Path, maps)),
    )
    recorder(
        times,
        against="bare sum of the same bytes",
        asked=ASKED[code],
        ceiling="bare sum of the same bytes",
        bytes=tensor.nbytes,
    )
