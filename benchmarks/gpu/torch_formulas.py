"""How much faster than the notebook's formulas in torch on the same GPU, one by one and compiled by torch.compile?

Timed: the kernels for all eleven sums of a pair of float32 operands of 1 GiB, in float64, by the device's clock.
Against: mean|x|, mean|y|, mean|x-y| and the cosine of the same two, in float32, which is less: one torch operation
after the other, and made one function by torch.compile. Results stay on the device.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from .rig import COPY, Resident, Rig, check
from measuring import ELEMENTS, Row, plainly, related, scaled

OPERAND_BYTES = 1 << 30


def formulas(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """What the notebook prints of a pair."""
    cosine = torch.nn.functional.cosine_similarity(x, y, dim=0)
    return torch.stack([x.abs().mean(), y.abs().mean(), (x - y).abs().mean(), cosine])


def rows(rig: Rig) -> Iterator[Callable[[], Row]]:
    yield partial(_row, rig, "the notebook's formulas in torch", ">= 8", lambda: formulas)
    if rig.is_cuda:
        yield partial(_row, rig, "the same by torch.compile", ">= 1.0", lambda: torch.compile(formulas))


def _row(rig: Rig, against: str, asked: str, made: Callable[[], Callable[..., torch.Tensor]]) -> Row:
    times = max(scaled(OPERAND_BYTES) // (4 * ELEMENTS), 1)
    block = related("F32")
    held = Resident(rig, "F32", block, [times * ELEMENTS], [(1, 0)])
    selfs, pairs = held.sums()
    wanted = plainly(*block, "F32", times)
    check(selfs[0], wanted[0])
    check(pairs[0], wanted[1])
    half = held.nbytes // 2
    y, x = (held.arena[n * half : (n + 1) * half].view(torch.float32) for n in range(2))
    printed = made()
    delta = wanted[1][0, 0] / (times * ELEMENTS)
    assert abs(float(printed(x, y)[2]) / delta - 1) < 1e-3
    runs = {"all eleven sums": held.run, against: lambda: printed(x, y), COPY: rig.copy_of(held.nbytes)}
    seconds = rig.in_turn(runs)
    return rig.row("torch_formulas", seconds, against=against, asked=asked, ceiling=COPY, nbytes=held.nbytes)
