"""How the operands and pairs of a tile are dealt out to kernel launches: policy, and nothing of a device.

A cell is what one program holds: A operands x, B operands y, and the pairs between them that are wanted. All x have one
dtype, and all y. Three kinds serve everything: a base (B = 1) with up to four others of its dtype or two of another, so
that the base is loaded once for them; squares of 2 x 2 operands for any other list of pairs, so that a load serves two
pairs (sums of 4 x 2 would spill registers); an operand alone, where no cell takes its self sums. In float32, where
arithmetic is the limit and four others would spill registers, two share the base. A launch has cells of one kind and
runs over all items.

Each kind is a kernel for each dtype, and a kernel takes seconds to compile. So those of the 18 dtypes that weights
seldom have share kernels with all dtypes of their size, which are told at run time what they are (`decode.elements`),
and so do all pairs of two dtypes. Their cells have the self sums of both sides, wanted or not, and are no larger than
2 x 1; where x and y go by two names, no smaller.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..decoders import DECODERS
from .constants import ANY

__all__ = ["TAKES_SELF_SUMS", "Launch", "launches", "single"]

_SIDE = 4  # others of a base: five loads for four pairs

# Whose self sums cells of pairs take, by their shape. Each choice would be one more kernel to compile, for what one
# cell in many has to take: a base that four share, and operands of squares, are read alone for theirs.
TAKES_SELF_SUMS = {(1, 1): (True, True), (2, 1): (True, True), (4, 1): (True, False), (2, 2): (False, False)}

# Have kernels that know them when they are compiled, in float64 and in float32.
_OWN = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8")
_IN_FLOAT32 = ("F32", "F16", "BF16", "F8_E4M3", "I8")


@dataclass(frozen=True)
class Launch:
    """Cells of one kind.

    Attributes:
        x, y: the dtypes of the two sides.
        self_x, self_y: whether the self sums of that side are taken, wanted of this cell or not.
        pairs: whether pair sums are.
        cells: (cells, 2 * (A + B) + A * B) int64: the operands x and y of each cell, the columns of slots that their
            self sums go to, -1 for none, and those of the pairs, x by x.
        shape: (A, B), powers of two.
        compensated: whether sums are taken in float32.
    """

    x: str
    y: str
    self_x: bool
    self_y: bool
    pairs: bool
    cells: np.ndarray
    shape: tuple[int, int]
    compensated: bool

    @property
    def formats(self) -> tuple[str, str]:
        """What the kernel is compiled for: the dtypes of x and y, or what stands for them."""
        return (self.x, self.y) if _known(self.x, self.y, self.compensated) else (ANY[self.x], ANY[self.y])

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of an element of x and of y."""
        return DECODERS[self.x].itemsize, DECODERS[self.y].itemsize


def launches(codes: Sequence[str], pairs: np.ndarray, float64: bool) -> list[Launch]:
    """Every operand's self sums in one cell, and every pair's sums in one; operand n is column n, pair p is N + p.

    Where a cell has operands to spare it holds one of them twice, and what it makes of the second is nobody's.

    Args:
        codes: N dtypes.
        pairs: (P, 2) operands.
        float64: whether all sums are taken in float64, or only those with an operand that float32 does not hold.
    """
    columns: dict[tuple[int, int], list[int]] = {}
    for p, (i, j) in enumerate(pairs.tolist()):
        columns.setdefault((max(i, j), min(i, j)), []).append(len(codes) + p)
    layers: list[dict[tuple[int, int], int]] = []  # all sums are symmetric; of a pair that is listed twice, one a layer
    for pair, places in columns.items():
        for depth, column in enumerate(places):
            if depth == len(layers):
                layers.append({})
            layers[depth][pair] = column
    plan = _Plan(codes, float64)
    for layer in layers:
        if len(codes) > 1 and set(layer) == {(n, 0) for n in range(1, len(codes))}:
            plan.star(layer)
        else:
            plan.squares(layer)
    plan.alone()
    return plan.launches()


def single(found: Sequence[Launch]) -> list[Launch]:
    """All that these launches take by cells of one pair, or of one operand twice: one launch for each two dtypes.

    What is nobody's is left out. The wider dtype is x.
    """
    kinds: dict[tuple[str, str], list[np.ndarray]] = {}
    for launch in found:
        (a, b), cells = launch.shape, launch.cells
        nobody = np.full(len(cells), -1)
        for i, j in itertools.product(range(a), range(b)):
            x = launch.x, cells[:, i], cells[:, a + b + i] if j == 0 else nobody
            y = launch.y, cells[:, a + j], cells[:, 2 * a + b + j] if i == 0 else nobody
            if _rank(launch.x) < _rank(launch.y):
                x, y = y, x
            each = np.stack([x[1], y[1], x[2], y[2], cells[:, 2 * (a + b) + i * b + j]], axis=1)
            kinds.setdefault((x[0], y[0]), []).append(each[each[:, 2:].max(axis=1) >= 0])
    return [Launch(x, y, True, True, True, np.concatenate(cells), (1, 1), False) for (x, y), cells in kinds.items()]


class _Plan:
    """Cells by kind, in the order in which they were asked for, and the operands whose self sums have no cell yet."""

    def __init__(self, codes: Sequence[str], float64: bool) -> None:
        self.codes, self.float64 = codes, float64
        self.waiting = set(range(len(codes)))
        self.kinds: dict[tuple[str, str, bool, bool, bool, int, int], list[list[int]]] = {}

    def star(self, layer: dict[tuple[int, int], int]) -> None:
        for others in self._by_code(range(1, len(self.codes))):
            most = self._most(self.codes[others[0]], self.codes[0])
            # Two each of up to six are no more loads than four each, as the base is not read alone for its own sums.
            side = _SIDE if most == (2, 2) and self.float64 and len(others) > 6 else min(len(others), most[0])
            for xs in _runs(others, side):
                self._add(xs, [0], layer, side, 1)

    def squares(self, layer: dict[tuple[int, int], int]) -> None:
        groups = [run for same in self._by_code(range(len(self.codes))) for run in _runs(same, _SIDE)]
        for position, xs in enumerate(groups):
            for ys in groups[: position + 1]:
                if any((max(i, j), min(i, j)) in layer for i in xs for j in ys):
                    many, few = (xs, ys) if len(xs) >= len(ys) else (ys, xs)
                    a, b = self._most(self.codes[many[0]], self.codes[few[0]])
                    for part, half in itertools.product(_runs(many, a), _runs(few, b)):
                        if len(part) < len(half):
                            part, half = half, part
                        self._add(part, half, layer, len(part), len(half))

    def alone(self) -> None:
        for n in sorted(self.waiting):
            self._add([n], [n], None, 1, 1)

    def launches(self) -> list[Launch]:
        return [
            Launch(x, y, self_x, self_y, between, np.array(cells, np.int64), (a, b), self._compensated(x, y))
            for (x, y, self_x, self_y, between, a, b), cells in self.kinds.items()
        ]

    def _compensated(self, x: str, y: str) -> bool:
        """Whether sums of two dtypes are taken in float32; what it does not hold is computed in float64 everywhere."""
        return not self.float64 and DECODERS[x].wide == DECODERS[y].wide == "f32"

    def _most(self, x: str, y: str) -> tuple[int, int]:
        """How many operands of two dtypes a cell of any list of pairs holds at most."""
        return (2, 2) if _known(x, y, self._compensated(x, y)) else (2, 1)

    def _by_code(self, operands: Iterable[int]) -> list[list[int]]:
        same: dict[str, list[int]] = {}
        for n in operands:
            same.setdefault(self.codes[n], []).append(n)
        return list(same.values())

    def _add(self, xs: list[int], ys: list[int], layer: dict[tuple[int, int], int] | None, a: int, b: int) -> None:
        """A cell with what the layer still has of its pairs, which are taken from it; without a layer, of operands."""
        x, y = self.codes[xs[0]], self.codes[ys[0]]
        # A pair is compiled in one order. One of two names has no kernel of its own, which would save no time, as files
        # are slower than two pairs are: the narrower operand is held twice.
        named_alike = ANY[x] == ANY[y]
        if a == b and (_rank(x) < _rank(y) if named_alike else _rank(x) > _rank(y)):
            x, y, xs, ys = y, x, ys, xs
        if not named_alike:
            a = 2
        between = np.full((a, b), -1)
        for row, i in enumerate(xs):
            for column, j in enumerate(ys):
                between[row, column] = -1 if layer is None else layer.pop((max(i, j), min(i, j)), -1)
        if layer is not None and between.max() < 0:
            return
        takes = (True, False) if layer is None else TAKES_SELF_SUMS[a, b]
        # Where a pair is summed otherwise than its operands alone, self sums are other bits, and nobody's.
        same_sums = self.float64 or DECODERS[x].wide == DECODERS[y].wide
        self_x, self_y = self._claimed(xs, a, takes[0] and same_sums), self._claimed(ys, b, takes[1] and same_sums)
        kind = (x, y, *takes, layer is not None, a, b)
        operands = xs + xs[:1] * (a - len(xs)) + ys + ys[:1] * (b - len(ys))
        self.kinds.setdefault(kind, []).append([*operands, *self_x, *self_y, *between.ravel().tolist()])

    def _claimed(self, operands: list[int], side: int, here: bool) -> list[int]:
        """The columns for the self sums of those whose turn it is."""
        columns = [n if here and n in self.waiting else -1 for n in operands]
        self.waiting -= set(columns)
        return columns + [-1] * (side - len(operands))


def _known(x: str, y: str, compensated: bool) -> bool:
    """Whether the kernels of two dtypes know them when they are compiled."""
    return x == y and x in (_IN_FLOAT32 if compensated else _OWN)


def _rank(code: str) -> tuple[int, int]:
    return DECODERS[code].itemsize, DECODERS[code].index


def _runs(operands: list[int], size: int) -> list[list[int]]:
    return [operands[at : at + size] for at in range(0, len(operands), size)]
