"""The folder of a matrix: what was compared, and the raw sums as Parquet files, one for each block of parameters.

    DIR/matrix.json                        the checkpoints, the tensors that they share, the options, the sums, the key
    DIR/blocks/<first>-<last>.parquet      the sums of some tensors; `i` = `j` are self sums, `i` < `j` those of a pair
    DIR/tasks.parquet                      the products of task vectors, where there is a base and they were asked for
    DIR/.lock, DIR/.writers/               who is writing, see `writers`

Each file is whole or not there; what a killed run left half-written the next run takes away. A block carries the key of
its matrix, so that a run that was stopped goes on where it was, and nothing of other checkpoints, options or sums is
ever taken for a part of it. A folder keeps the sums that the metrics of its first run need; metrics that need no others
are computed from them.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.sums import PAIR_SUMS, SELF_SUMS
from ..kernels.wanted import Wanted
from .all_pairs import AllPairs, Block, Kept, blocks, gather
from .checkpoint import Checkpoint, TensorRef
from .devices import ARITHMETICS
from .errors import FormatError, OptionError, OutputError
from .joint import JointLedger, JointTensor, Standing, pairs_of
from .metrics import METRIC_VERSION
from .naming import kind_of, layer_of
from .row_table import read_parquet
from .task_vectors import TaskVectors, moved_tensors
from .writers import PARTIAL, Writers, as_output_error

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FORMAT", "MANIFEST", "MatrixStore"]

FORMAT = 1
MANIFEST = "matrix.json"
_TASKS = "tasks.parquet"
_PRODUCTS = ("product", "sum_sq_i", "sum_sq_j")


class MatrixStore(Kept):
    """A folder that keeps the blocks of one matrix.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._writers = Writers(self.path)
        self.ledger: JointLedger | None = None
        self.wanted = Wanted.ALL
        self.key = ""
        self.reused = 0

    # Writing

    def begin(self, ledger: JointLedger, options: dict[str, Any], wanted: Wanted, *, force: bool = False) -> Wanted:
        """Make the folder that of this family.

        Args:
            ledger: the family.
            options: the matching options, and as "device" what the last bits follow from, see `devices.arithmetic`.
            wanted: the sums that are needed.
            force: whether what is there is thrown away.
        Returns:
            The sums that the folder keeps: those that are needed, and in one that is there all that it has.
        Raises:
            OptionError: it is the folder of something else, or keeps too few sums.
            OutputError: it cannot be written to.
        """
        there = self._there()
        self.ledger, self.wanted = ledger, wanted if there is None or force else _kept_sums(there)
        described = _described(ledger) | {"options": options, "metric_version": METRIC_VERSION}
        described |= {"sums": self.wanted.names}
        self.key = _key(described)
        if there is not None and (there.get("key") != self.key or force):
            if not force:
                _require_arithmetic(self.path, there, described)
                raise OptionError(
                    f'"{self.path}" holds the matrix of other checkpoints, of other options, or of files that changed '
                    "since; give another folder, or --force to compute it anew."
                )
            for path in (*(self.path / "blocks").glob("*.parquet"), self.path / _TASKS):
                path.unlink(missing_ok=True)
        self.require(wanted)
        try:
            (self.path / "blocks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be made a folder: {error.strerror or error}; choose another."
            ) from error
        with as_output_error(self.path):
            self._writers.prepare()
            self._writers.sweep(*(f"{name}{PARTIAL}" for name in (f".{MANIFEST}.*", f".{_TASKS}.*", "blocks/.*")))
        text = json.dumps({"format": FORMAT, "key": self.key, **described}, indent=None, ensure_ascii=True)
        self._write(self.path / MANIFEST, text.encode())
        return self.wanted

    def require(self, wanted: Wanted) -> None:
        """Finds out whether the folder keeps these sums.

        Raises:
            OptionError: it does not.
        """
        if missing := wanted & ~self.wanted:
            names = ", ".join(name for name in missing.names if name not in Wanted(0).names)
            raise OptionError(
                f'"{self.path}" keeps the sums of other metrics, and not {names}; give another folder, or run the '
                "matrix with --force to compute it anew."
            )

    def save(self, block: Block) -> None:
        """Write a block, whole or not at all.

        Raises:
            OutputError: the disk is full, or cannot be written to.
        """
        assert self.ledger is not None
        table = _block_table(block, self.ledger, self.wanted)
        self._write(self._file(block.tensors), _parquet(table, {"key": self.key}))

    def save_tasks(self, tasks: TaskVectors) -> None:
        """Write the products of task vectors."""
        self._write(self.path / _TASKS, _parquet(_task_table(tasks), {"key": self.key}))

    def _write(self, path: Path, data: bytes) -> None:
        from .report.files import write_whole

        if not (path.is_file() and path.read_bytes() == data):
            with as_output_error(self.path), self._writers.writing() as token:
                write_whole(path, data, token)

    # Reading

    def load(self, tensors: range) -> Block | None:
        """A block that is there, whole, and of this matrix."""
        assert self.ledger is not None
        try:
            table, key = read_parquet(str(self._file(tensors)))
        except (OSError, ValueError):
            return None
        if table is None or key.get("key") != self.key:
            return None
        self.reused += 1
        return _block(table, tensors, len(self.ledger.checkpoints))

    def load_tasks(self, found: AllPairs) -> TaskVectors | None:
        """The products of task vectors, where they are kept."""
        try:
            table, key = read_parquet(str(self.path / _TASKS))
        except (OSError, ValueError):
            return None
        if table is None or key.get("key") != self.key or found.ledger.base is None:
            return None
        tensors = moved_tensors(found, found.ledger.base)
        products = np.full((len(tensors), len(found.pairs), 3), np.nan)
        compared = np.zeros(products.shape[:2], bool)
        at = table.column("tensor").to_numpy(), table.column("pair").to_numpy()
        products[at] = np.stack([table.column(name).to_numpy() for name in _PRODUCTS], axis=-1)
        compared[at] = True
        return TaskVectors(tensors, products, compared, 0, 0)

    def read(self) -> AllPairs:
        """The raw sums as they were, without the bytes read and the seconds.

        Raises:
            FormatError: there is no matrix in the folder, it is not finished, or it is damaged.
        """
        manifest = self._there()
        if manifest is None:
            raise FormatError(f'"{self.path}" holds no matrix (no {MANIFEST}); give the folder of its --out.')
        try:
            self.ledger, self.key, self.wanted = _ledger(manifest), manifest["key"], _kept_sums(manifest)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(
                f'"{self.path / MANIFEST}" is damaged ({error!r}); run the matrix again with --force.'
            ) from error
        parts = blocks(self.ledger)
        missing = [part for part in parts if not self._file(part).is_file()]
        if missing:
            raise FormatError(
                f'"{self.path}" holds {len(parts) - len(missing)} of {len(parts)} blocks; run the same command again '
                "to compute the others."
            )
        return gather(self.ledger, wanted=self.wanted, kept=_Finished(self))

    def _file(self, tensors: range) -> Path:
        return self.path / "blocks" / f"{tensors.start:06d}-{tensors.stop - 1:06d}.parquet"

    def _there(self) -> dict[str, Any] | None:
        path = self.path / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise OutputError(f'"{self.path}" is not a folder; give a folder for --out.') from error
        except (OSError, ValueError) as error:
            raise FormatError(f'"{path}" cannot be read ({error}); delete it, or give another folder.') from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            what = found.get("format") if isinstance(found, dict) else type(found).__name__
            raise FormatError(f'"{path}" has format {what!r} and this is {FORMAT}; use the version that wrote it.')
        return found


class _Finished(Kept):
    """Blocks that must be there: nothing is computed."""

    def __init__(self, store: MatrixStore) -> None:
        self.store = store

    def load(self, tensors: range) -> Block:
        block = self.store.load(tensors)
        if block is None:
            raise FormatError(
                f'"{self.store._file(tensors)}" is damaged, or of another matrix; delete it and run the matrix again.'
            )
        return block


def _key(described: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()


def _require_arithmetic(path: Path, manifest: dict[str, Any], described: dict[str, Any]) -> None:
    """Raise OptionError where the sums that are there are these, but for the last digits of other devices."""
    kept, options = manifest.get("options"), described["options"]
    there, here = kept.get("device") if isinstance(kept, dict) else None, options["device"]
    if there == here or _key(described | {"options": options | {"device": there}}) != manifest.get("key"):
        return
    if there not in ARITHMETICS:
        raise OptionError(
            f'"{path}" holds a matrix that was begun on a GPU by a version that did not keep its arithmetic; give '
            "another folder, or --force to compute it anew."
        )
    raise OptionError(
        f'"{path}" holds a matrix in the arithmetic "{there}" and this one is in "{here}", whose last digits are '
        "others; go on where it began, on a device of its kind, give another folder, or --force to compute it anew."
    )


def _kept_sums(manifest: dict[str, Any]) -> Wanted:
    """The sums that a folder keeps; one of before there was a choice keeps all."""
    names = manifest.get("sums")
    return Wanted.named(list(map(str, names))) if isinstance(names, list) else Wanted.ALL


def _described(ledger: JointLedger) -> dict[str, Any]:
    """The family as JSON: all that the raw sums follow from, and all that is told of it later."""
    patterns: dict[int, int] = {}
    arrays: list[list[int]] = []
    tensors = []
    for tensor in ledger.tensors:
        if id(tensor.pairs) not in patterns:
            patterns[id(tensor.pairs)] = len(arrays)
            arrays.append(tensor.pairs.tolist())
        tensors.append(
            {
                "name": tensor.name,
                "whole": tensor.whole,
                "elements": tensor.elements,
                "rows": list(tensor.rows) if tensor.rows else None,
                "refs": [[number, ref.name] for number, ref in tensor.refs.items()],
                "pairs": patterns[id(tensor.pairs)],
            }
        )
    return {
        "base": ledger.base,
        "checkpoints": [
            {
                "label": checkpoint.label,
                "path": checkpoint.path,
                "format": checkpoint.format,
                "identity": checkpoint.identity,
                "tensors": [[ref.name, ref.dtype, list(ref.shape), ref.nbytes] for ref in checkpoint.tensors.values()],
            }
            for checkpoint in ledger.checkpoints
        ],
        "tensors": tensors,
        "pairs": arrays,
        "standings": [
            [standing.checkpoint, standing.ref.name, standing.status, standing.others, standing.reason]
            for standing in ledger.standings
        ],
        "notes": list(ledger.notes),
    }


def _ledger(manifest: dict[str, Any]) -> JointLedger:
    """What `_described` described; its tensors are known by name, dtype and shape, and cannot be read."""
    checkpoints = []
    for entry in manifest["checkpoints"]:
        refs = {
            name: TensorRef(name, dtype, tuple(shape), nbytes, entry["path"], None)
            for name, dtype, shape, nbytes in entry["tensors"]
        }
        checkpoints.append(Checkpoint(entry["label"], entry["path"], entry["format"], refs, {}, (), entry["identity"]))
    arrays = [np.array(pairs, np.int64) for pairs in manifest["pairs"]]
    tensors = tuple(
        JointTensor(
            entry["name"],
            kind_of(entry["name"]),
            layer_of(entry["name"]),
            entry["whole"],
            entry["elements"],
            (entry["rows"][0], entry["rows"][1]) if entry["rows"] else None,
            {number: checkpoints[number].tensors[name] for number, name in entry["refs"]},
            arrays[entry["pairs"]],
        )
        for entry in manifest["tensors"]
    )
    standings = tuple(
        Standing(number, checkpoints[number].tensors[name], status, others, reason)
        for number, name, status, others, reason in manifest["standings"]
    )
    return JointLedger(tuple(checkpoints), manifest["base"], tensors, standings, tuple(manifest["notes"]))


def _block_table(block: Block, ledger: JointLedger, wanted: Wanted) -> pyarrow.Table:
    """A row for every checkpoint that has a tensor (i = j) and for every pair that is compared in it (i < j).

    A column for every sum that is kept; the maximum goes with others in tensors that are computed in float64.
    """
    import pyarrow as pa

    ends = pairs_of(len(ledger.checkpoints))
    number, name, i, j, homes = [], [], [], [], []
    selfs, sums = [], []
    for place, k in enumerate(block.tensors):
        tensor = ledger.tensors[k]
        members, pairs = np.array(list(tensor.refs)), tensor.pairs
        rows = len(members) + len(pairs)
        number.append(np.full(rows, k, np.int32))
        name += [tensor.name] * rows
        i.append(np.concatenate([members, ends[pairs, 0]]).astype(np.int32))
        j.append(np.concatenate([members, ends[pairs, 1]]).astype(np.int32))
        homes.append(np.concatenate([block.homes[place, members], np.zeros(len(pairs), np.int64)]).astype(np.int32))
        selfs.append(np.concatenate([block.selfs[place, members], np.zeros((len(pairs), len(SELF_SUMS)))]))
        sums.append(np.concatenate([np.zeros((len(members), len(PAIR_SUMS))), block.sums[place, pairs]]))
    columns = {"number": np.concatenate(number), "i": np.concatenate(i), "j": np.concatenate(j)}
    alone = columns["i"] == columns["j"]
    arrays: dict[str, Any] = {"number": columns["number"], "tensor": pa.array(name, pa.string())}
    arrays |= {"i": columns["i"], "j": columns["j"], "home": pa.array(np.concatenate(homes), mask=~alone)}
    columns_kept = wanted.completed(wide=True).names
    for names, parts, mask in ((SELF_SUMS, selfs, ~alone), (PAIR_SUMS, sums, alone)):
        whole = np.concatenate(parts)
        arrays |= {title: pa.array(whole[:, at], mask=mask) for at, title in enumerate(names) if title in columns_kept}
    return pa.table(arrays)


def _block(table: pyarrow.Table, tensors: range, count: int) -> Block:
    number, i, j = (table.column(name).to_numpy() for name in ("number", "i", "j"))
    place = number - tensors.start
    alone = i == j
    pair = np.full((count, count), -1)
    pair[np.triu_indices(count, 1)] = np.arange(count * (count - 1) // 2)
    selfs = np.full((len(tensors), count, len(SELF_SUMS)), np.nan)
    sums = np.full((len(tensors), count * (count - 1) // 2, len(PAIR_SUMS)), np.nan)
    homes = np.full(selfs.shape[:2], -1)
    selfs[place[alone], i[alone]] = _columns(table, SELF_SUMS)[alone]
    homes[place[alone], i[alone]] = table.column("home").to_numpy()[alone]
    sums[place[~alone], pair[i, j][~alone]] = _columns(table, PAIR_SUMS)[~alone]
    return Block(tensors, selfs, sums, homes)


def _columns(table: pyarrow.Table, names: tuple[str, ...]) -> NDArray[np.float64]:
    absent = np.full(table.num_rows, np.nan)
    there = set(table.column_names)
    return np.stack([table.column(name).to_numpy() if name in there else absent for name in names], axis=1)


def _task_table(tasks: TaskVectors) -> pyarrow.Table:
    import pyarrow as pa

    tensor, pair = np.nonzero(tasks.compared)
    arrays: dict[str, Any] = {"tensor": tensor, "pair": pair}
    arrays |= {name: tasks.products[tensor, pair, at] for at, name in enumerate(_PRODUCTS)}
    return pa.table(arrays)


def _parquet(table: pyarrow.Table, key: dict[str, Any]) -> bytes:
    from .row_table import parquet_bytes

    return parquet_bytes(table, key)
