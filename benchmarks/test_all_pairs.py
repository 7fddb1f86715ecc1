"""How much faster are all 120 pairs of 16 tensors in one tile than one pair after the other?

Timed: one call of the kernel for 16 float32 tensors of 16 Mi elements (64 MiB each) in memory and their 120 pairs.
Against: 120 calls of the same kernel for one pair each, which read every tensor and take its self sums 15 times.
Both come to the same number of pair-elements, so the ratio of times is that of pair-elements per second.
"""

import itertools

import numpy as np

from weighbridge.kernels import cpu, reference

from measuring import bare_sum, in_turn, scaled

N = 16
PAIRS = np.array(list(itertools.combinations(range(N), 2)))
ROUNDS = 5


def test_in_memory(benchmark, recorder):
    elements = scaled(16 << 20)
    generator = np.random.default_rng(0)
    first = generator.standard_normal(elements, dtype=np.float32)
    operands = [first]
    for number in range(1, N):
        noise = np.roll(first, 1000 * number)
        noise *= np.float32(0.01 * number)
        operands.append(noise + first)
    sizes = np.array([elements])

    def tile(members=tuple(range(N)), pairs=PAIRS, sizes=sizes):
        addresses = np.array([[operands[n].ctypes.data for n in members]])
        return cpu.tile_sums(addresses, ["F32"] * len(members), sizes, pairs)

    def one_by_one():
        return [tile((i, j), np.array([[0, 1]])) for i, j in PAIRS]

    selfs, pairs = tile()
    for p, (pair_selfs, pair) in enumerate(one_by_one()):
        np.testing.assert_allclose(selfs[0, PAIRS[p]], pair_selfs[0], rtol=1e-12)
        np.testing.assert_allclose(pairs[0, p], pair[0, 0], rtol=1e-12)
    sample = 3000
    found = tile(sizes=np.array([sample]))
    wanted = reference.tile_sums([x[:sample].view(np.uint8) for x in operands], ["F32"] * N, PAIRS)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one[0], other, rtol=1e-12)

    times = in_turn(
        benchmark,
        {
            "120 pairs of 16 in one tile": tile,
            "one pair after the other": one_by_one,
            "bare sum of the 16": bare_sum(*operands),
        },
        rounds=ROUNDS,
    )
    benchmark.extra_info["pair-elements per second"] = (
        len(PAIRS) * elements / times.median("120 pairs of 16 in one tile")
    )
    recorder(
        times,
        against="one pair after the other",
        asked=">= 2",
        ceiling="bare sum of the 16",
        bytes=4 * N * elements,
    )
