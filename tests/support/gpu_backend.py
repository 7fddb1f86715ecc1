"""The GPU backend with the contract of `kernels.sums`, for tensors in the memory of the host.

On a CUDA device; or, in a process that was started with TRITON_INTERPRET=1, on the CPU through Triton's interpreter.
"""

import functools

import numpy as np

from weighbridge.kernels import gpu, reference
from weighbridge.kernels.decoders import DECODERS
from weighbridge.kernels.gpu.available import interpreted

from support import interpreter, ptx

if interpreted():
    interpreter.make_fast()
    ptx.install()
DEVICE = "cpu" if interpreted() else "cuda"
TASK_BYTES = 3 << 18  # small, so that tensors are cut


def usable():
    """Whether tests can run on it in this process."""
    return gpu.available(DEVICE) is None


def packed(task, addresses, codes, device=DEVICE):
    """An arena with the bytes of a task's items, each run at a multiple of 16 and 0xFF behind it; and the places.

    Places are (K', N): where each tensor's first element lies or would lie, relative to the arena's start.
    """
    import torch

    parts, used = [np.full(32, 0xFF, np.uint8)], 32
    places = np.zeros((len(task), len(codes)), np.int64)
    for row, (tensor, start, length, _) in enumerate(task.tolist()):
        for n, code in enumerate(codes):
            itemsize = DECODERS[code].itemsize
            run = reference.bytes_at(int(addresses[tensor, n]) + start * itemsize, length * itemsize)
            places[row, n] = used - start * itemsize
            parts += [run, np.full(-run.size % 16, 0xFF, np.uint8)]
            used += run.size + parts[-1].size
    arena = torch.empty(used + 16, dtype=torch.uint8, device=device)
    arena = arena[-arena.data_ptr() % 16 :][:used]
    arena.copy_(torch.from_numpy(np.concatenate(parts)))
    return arena, places


def tile_sums(addresses, codes, elements, pairs, *, threads=None, progress=None, task_bytes=TASK_BYTES, **options):
    """As `cpu.tile_sums`; `options` go to the tile."""
    tile = gpu.Tile(codes, elements, pairs, DEVICE, **options)
    for task in tile.tasks(task_bytes):
        arena, places = packed(task, addresses, codes)
        taken = tile.run(np.c_[np.arange(len(task)), task[:, 1:]], places + arena.data_ptr(), arena)
        arena.fill_(0xFF)  # as a ring of buffers is used again
        if progress is not None:
            progress(taken)
    return tile.finish(lambda tensors: addresses[tensors], threads or 1)


in_float32 = functools.partial(tile_sums, float64=False)
"""The same as on GPUs that are slow at float64."""
