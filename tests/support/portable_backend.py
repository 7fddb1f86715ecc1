"""The portable backend on torch's CPU device, with the contract of `kernels.sums`."""

import functools

import numpy as np

from weighbridge.kernels import portable


def tile_sums(addresses, codes, elements, pairs, *, float64, **options):
    """As `cpu.tile_sums`; `options` go to the tile."""
    tile = portable.Tile(codes, elements, pairs, "cpu", float64=float64, **options)
    addresses = np.ascontiguousarray(addresses, np.int64)
    for task in tile.tasks():
        tile.run(task, addresses)
    return tile.finish(lambda tensors: addresses[tensors], 1)


BACKENDS = {
    "portable": functools.partial(tile_sums, float64=True),
    "portable in float32": functools.partial(tile_sums, float64=False),
}
