"""A pipeline without a GPU: devices that are the CPU, and a tile that computes on arenas as fast as on maps."""

from types import SimpleNamespace

import numpy as np
import torch

from weighbridge.engine.devices import PORTABLE, Device
from weighbridge.engine.pipeline import Limits, Pipeline
from weighbridge.engine.plan import Joined, batches
from weighbridge.engine.reading import Files
from weighbridge.engine.together import Way
from weighbridge.kernels import cpu
from weighbridge.kernels.sums import PAIR_SUMS, SELF_SUMS
from weighbridge.kernels.wanted import Wanted

from .kernel_cases import nearby, random_tensor
from .raw_files import write

CODES = ["F32", "BF16", "F32", "I8", "F64", "F32", "BF16", "F8_E4M3", "F32", "F32"]
SIZES = [1000, 70_001, 7, 131_075, 500, 0, 1, 65_536, 200_000, 31]

CPU = Device("cpu", PORTABLE)


class ArenaTile(cpu.Tile):
    """The CPU's tile with the interface of a device's; what it has used of the arena it spoils, where it is alone."""

    alone = True
    GROUP = 5  # as good as any: the processor adds chunk by chunk

    def __init__(self, codes, elements, pairs, device, *, wanted=Wanted.ALL, held=None, force=False, **options):
        assert isinstance(device, str)
        super().__init__(codes, elements, pairs, wanted=wanted, force=force)
        self.held = range(len(self.items)) if held is None else held
        self._part = self.part(self.held.start, self.held.stop)
        self._part.__enter__()

    def run(self, items, addresses, arena):
        starts = addresses[items[:, 0]] + items[:, 1, None] * self.itemsizes - arena.data_ptr()
        assert not (starts % 16).any()
        assert (starts >= 0).all() and (starts + items[:, 2, None] * self.itemsizes <= arena.numel()).all()
        taken = super().run(items, addresses)
        if self.alone:
            arena.fill_(0xFF)
        return taken

    def slots(self, first, last):
        some = slice(first - self._first, last - self._first)
        return self._self_slots[some].copy(), self._pair_slots[some].copy()

    def fold(self, folded, slots, resolve, threads):
        folded = folded or cpu.Tile([d.code for d in self.decoders], self.elements, self.pairs, wanted=self.wanted)
        selfs, pairs = (np.concatenate(column) for column in zip(*slots, strict=True))
        with folded.part(folded.next_item, folded.next_item + len(selfs)):
            folded._self_slots[:], folded._pair_slots[:] = selfs, pairs
        return folded

    def finish(self, resolve, threads, folded=None):
        if folded is not None:
            return folded.finish(resolve, threads)
        self._part.__exit__(None, None, None)
        return super().finish(resolve, threads)


def stand_in(monkeypatch, tile=ArenaTile):
    """Make every device compute with this tile."""
    monkeypatch.setattr(Device, "kernels", property(lambda self: SimpleNamespace(Tile=tile)))


class Fails:
    """A tile that is out of memory at some of its calls, counted over all tiles and tasks.

    Args:
        where: "init" or "run".
        calls: at which of them, from 0.
    """

    def __init__(self, where, calls, error=None):
        self.count = -1
        outer = self

        def trip():
            outer.count += 1
            if outer.count in calls:
                raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        class Tile(ArenaTile):
            def __init__(self, *args, **options):
                if where == "init":
                    trip()
                super().__init__(*args, **options)

            def run(self, *args):
                if where == "run":
                    trip()
                return super().run(*args)

        self.tile = Tile


def computed(joined, operands, pairs, *, lanes=1, io="map", threads=2, report=None, devices=None, **limits):
    """(selfs, pairs) of a pipeline on so many lanes, and the pipeline."""
    selfs = np.zeros((len(joined), operands, len(SELF_SUMS)))
    between = np.zeros((len(joined), len(pairs), len(PAIR_SUMS)))
    with Files(io) as files:
        line = Pipeline(
            devices or [CPU] * lanes,
            [Way(tuple(range(operands)), np.array(pairs, np.int64).reshape(-1, 2))],
            threads,
            Limits(**limits),
            files,
            report or (lambda nbytes: None),
        )
        for part, (sums,) in line.run(list(batches(joined))):
            selfs[part.rows], between[part.rows] = sums
    return (selfs, between), line


def related_files(folder, operands, codes=CODES, sizes=SIZES):
    """Tensors of `operands` checkpoints; each file has other gaps, so alignments differ."""
    rng = np.random.default_rng(60)
    base = [(code, random_tensor(code, size, rng)) for code, size in zip(codes, sizes, strict=True)]
    columns = []
    for n in range(operands):
        tensors = base if n == 0 else [(code, nearby(raw, code, rng)) for code, raw in base]
        gaps = [(7 * k * n + n) % 23 for k in range(len(codes))]
        columns.append(write(folder / f"checkpoint-{n}", tensors, gaps=gaps, head=8 + 3 * n))
    return [Joined(k, row, size) for k, (row, size) in enumerate(zip(zip(*columns, strict=True), sizes, strict=True))]
