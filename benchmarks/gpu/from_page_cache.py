"""How near does a comparison of files in the page cache come to a pinned host-to-device copy?

Timed: `engine.execute` over two safetensors files of 8 GiB (bfloat16, tensors of 128 MiB) in the page cache, from
opening the files to the sums on the host, by the host's clock. Against: copies of as many bytes out of one pinned
buffer of 32 MiB, by the device's clock. Beside it: the same on the processor, which is what `--device auto` takes.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from weighbridge import open_checkpoint
from weighbridge.engine.execute import execute

from .rig import Rig
from measuring import Row, joined, related, scaled, warm, write

FILE_BYTES = 8 << 30
TENSOR_ELEMENTS = 64 << 20
BUFFER_BYTES = 32 << 20
PAIR = [(1, 0)]
COPY = "pinned host-to-device copy of as many bytes"


def rows(rig: Rig) -> Iterator[Callable[[], Row]]:
    yield partial(_row, rig)


def _row(rig: Rig) -> Row:
    device = rig.device if rig.backend == "gpu" else f"portable:{rig.device}"
    folder = Path(os.environ.get("WEIGHBRIDGE_BENCH_FILES") or Path(tempfile.gettempdir()) / "weighbridge-benchmarks")
    elements = min(TENSOR_ELEMENTS, scaled(FILE_BYTES // 2))
    tensors = max(scaled(FILE_BYTES) // (2 * elements), 1)
    shapes = {f"layer.{number}.weight": (elements,) for number in range(tensors)}
    block = related("BF16")
    paths = [
        write(folder / "gpu" / f"{tensors}x{elements}-{side}.safetensors", shapes, "BF16", itertools.repeat(data))
        for side, data in zip(("base", "other"), block, strict=True)
    ]
    if not warm(*paths):
        raise RuntimeError("the page cache does not hold the files")
    planned = joined(*map(open_checkpoint, paths))
    found, wanted = (execute(planned, 2, PAIR, device=each) for each in (device, "cpu"))
    np.testing.assert_allclose(found.selfs, wanted.selfs, rtol=4e-12)
    np.testing.assert_allclose(found.pairs, wanted.pairs, rtol=4e-12)

    source = torch.from_numpy(np.frombuffer(np.random.default_rng(3).bytes(BUFFER_BYTES), np.uint8).copy())
    source = source.pin_memory() if rig.is_cuda else source
    target = rig.empty(BUFFER_BYTES)

    def copies() -> None:
        for _ in range(-(-found.bytes_read // BUFFER_BYTES)):
            target.copy_(source, non_blocking=True)

    subject, processor = "two files to their sums", "the same on the processor"
    runs = {
        subject: lambda: execute(planned, 2, PAIR, device=device),
        COPY: copies,
        processor: lambda: execute(planned, 2, PAIR, device="cpu"),
    }
    seconds = rig.in_turn(runs, walls=[subject, processor], rounds=min(rig.rounds, 5))
    return rig.row("from_page_cache", seconds, against=COPY, asked=">= 0.9", ceiling=COPY, nbytes=found.bytes_read)
