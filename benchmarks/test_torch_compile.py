"""Are our sums as fast as what torch.compile makes of them?

Timed: one call of the kernel for two tensors of 64 Mi elements in memory, float32 or bfloat16: all eleven sums of the
contract, within 1e-12. Against, with as many threads, functions compiled as a whole by torch.compile's inductor:
"all sums": the same sums over float64 accumulators, which is the comparison that is fair;
"six sums": Σ|x|, Σ|y|, Σ|x-y|, Σx², Σy², Σxy, what the notebook's formulas need, over float64 accumulators;
"six sums, float32": the same over float32 accumulators, off by far more than 1e-12.
Not timed: compiling, which takes some 20 s each.
"""

import numpy as np
import pytest
import torch

from weighbridge.kernels import cpu

from measuring import bare_sum, in_turn, plainly, related, scaled, torch_dtype

ASKED = {"F32": ">= 0.9", "BF16": ">= 1.5"}
PAIRS = np.array([[0, 1]])


def all_sums(x, y):
    x, y, unequal = x.double(), y.double(), (x != y).sum()
    d = x - y
    selfs = [[v.abs().sum(), v.sum(), (v * v).sum(), v.abs().max(), (~v.isfinite()).sum()] for v in (x, y)]
    return torch.stack([*selfs[0], *selfs[1], d.abs().sum(), (d * d).sum(), (x * y).sum(), d.abs().max(), unequal])


def six_sums(x, y, dtype=torch.float64):
    x, y = x.to(dtype), y.to(dtype)
    return torch.stack([x.abs().sum(), y.abs().sum(), (x - y).abs().sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def six_sums_float32(x, y):
    return six_sums(x, y, torch.float32)


PEERS = {
    "all sums, float64": (all_sums, 1e-9),  # Σx cancels, and float64 keeps fewer digits of it
    "six sums, float64": (six_sums, 1e-11),
    "six sums, float32": (six_sums_float32, 1e-2),
}


def compiled(function, x, y):
    """The function compiled for these arguments, or the test is skipped with the compiler's own words."""
    torch._dynamo.reset()
    run = torch.compile(function, fullgraph=True, dynamic=False)
    try:
        run(x, y)
    except Exception as error:  # noqa: BLE001 - whatever the compiler dies of, it is not ours
        pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0]}")
    return run


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("code", ASKED)
def test_in_memory(benchmark, recorder, code, peer):
    torch.set_num_threads(cpu.available_threads())
    block = related(code)
    repeats = scaled(64 << 20, block.base.size) // block.base.size * (4 if code == "F32" else 2)
    x, y = (torch.from_numpy(np.tile(side, repeats)).view(torch_dtype(code)) for side in block)
    addresses = np.array([[x.data_ptr(), y.data_ptr()]])
    elements = np.array([x.numel()])

    def ours():
        return cpu.tile_sums(addresses, [code, code], elements, PAIRS)

    function, tolerance = PEERS[peer]
    run = compiled(function, x, y)

    selfs, pair = (sums[0] for sums in ours())
    wanted_selfs, wanted_pair = plainly(block.other, block.base, code, repeats)  # x, operand 0, is the block's base
    np.testing.assert_allclose(selfs[::-1], wanted_selfs, rtol=1e-12)
    np.testing.assert_allclose(pair, wanted_pair, rtol=1e-12)
    every = np.concatenate([selfs[0, 1:], selfs[1, 1:], pair[0]])
    six = [selfs[0, 1], selfs[1, 1], pair[0, 0], selfs[0, 3], selfs[1, 3], pair[0, 2]]
    wanted = every if function is all_sums else np.array(six)
    np.testing.assert_allclose(run(x, y).double().numpy(), wanted, rtol=tolerance)

    name, against = f"all sums, {code}", f"torch.compile, {peer}, {code}"
    times = in_turn(
        benchmark, {name: ours, against: lambda: run(x, y), "bare sum of both": bare_sum(*map(as_bytes, (x, y)))}
    )
    recorder(times, against=against, asked=ASKED[code], ceiling="bare sum of both", bytes=2 * x.nbytes)


def as_bytes(tensor):
    return tensor.view(torch.uint8).numpy()
