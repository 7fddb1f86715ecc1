"""The folder of a sweep: one Parquet file per other, and a manifest, each whole or not there at all.

    DIR/sweep.json                       what was compared with what and how, and the status of every other
    DIR/rows/<label>-<hash>.parquet      the rows of one other; the hash is that of its label
    DIR/.lock, DIR/.writers/             who is writing: locks that the system gives back when their holder dies

A file is written under a temporary name, synced and renamed. The temporary name holds the token of its writer, so that
`writers` knows whose half-written files nobody will finish.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..kernels.threads import thread_pool
from .errors import FormatError
from .others import Other
from .writers import PARTIAL, Writers, as_output_error, mark_of, partial_name

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FORMAT", "MANIFEST", "Store", "Writer", "entry_of", "merge_entries", "row_file"]

FORMAT = 1
MANIFEST = "sweep.json"
_ROWS = "rows"
_SYNCS = 16  # at a time: a journal commits those that wait for it together


def row_file(label: str) -> str:
    """The path of an other's rows within the folder."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip("._-")[-80:] or "other"
    return (
        f"{_ROWS}/{safe}-{hashlib.blake2b(label.encode('utf-8', 'surrogatepass'), digest_size=6).hexdigest()}.parquet"
    )


class Store:
    """A folder of results; reading it needs no lock.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._writers = Writers(self.path)

    def exists(self) -> bool:
        """Whether there is a sweep in the folder."""
        return (self.path / MANIFEST).is_file()

    @property
    def manifest(self) -> dict[str, Any]:
        """`format`, `base`, `base_identity`, `computation`, `options`, `extra` (name -> type) and `others`.

        Each of `others` has label, source, extra, identity, status ("pending", "done", "failed"), reason and file.

        Raises:
            FormatError: there is none, or it is none of this version.
        """
        path = self.path / MANIFEST
        try:
            found = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
        except FileNotFoundError as error:
            raise FormatError(f'"{self.path}" holds no sweep (no {MANIFEST}); give the folder of --out.') from error
        except (OSError, ValueError) as error:
            raise FormatError(
                f'"{path}" cannot be read ({error}); run the sweep with --force into a new folder.'
            ) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            what = found.get("format") if isinstance(found, dict) else type(found).__name__
            raise FormatError(f'"{path}" has format {what!r} and this is {FORMAT}; use the version that wrote it.')
        return found

    @property
    def others(self) -> list[dict[str, Any]]:
        """The entries of the manifest, in order."""
        return list(self.manifest["others"])

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The entries of the others that failed, each with its reason."""
        return [entry for entry in self.others if entry["status"] == "failed"]

    def file(self, label: str) -> Path:
        """Where the rows of an other are, or would be."""
        return self.path / row_file(label)

    def read(self, label: str, columns: list[str] | None = None) -> pyarrow.Table:
        """The rows of one other.

        Raises:
            FormatError: there are none, or the file is damaged.
        """
        from .row_table import read_parquet

        path = self.file(label)
        try:
            table, _ = read_parquet(str(path), columns)
        except FileNotFoundError as error:
            raise FormatError(
                f'"{self.path}" has no rows of "{label}"; run the sweep again to compute them.'
            ) from error
        except (OSError, ValueError) as error:
            raise FormatError(f'"{path}" is damaged ({error}); delete it and run the sweep again.') from error
        return table

    def table(self, columns: list[str] | None = None) -> pyarrow.Table:
        """The rows of all others that are done, in the order of the manifest."""
        import pyarrow as pa

        from .row_table import schema_of

        manifest = self.manifest
        parts = [self.read(entry["label"], columns) for entry in manifest["others"] if entry["status"] == "done"]
        if parts:
            return pa.concat_tables(parts)
        empty = schema_of(manifest["extra"]).empty_table()
        return empty.select(columns) if columns is not None else empty

    def key(self, label: str) -> dict[str, Any] | None:
        """What the rows of an other follow from, or None where there are no whole rows of it."""
        from .row_table import read_parquet

        try:
            return read_parquet(str(self.file(label)), [])[1]
        except (OSError, ValueError):
            return None

    # Writing

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            OutputError: they cannot be made.
        """
        with as_output_error(self.path):
            (self.path / _ROWS).mkdir(parents=True, exist_ok=True)
            self._writers.prepare()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the manifest; others wait."""
        with as_output_error(self.path), self._writers.alone():
            yield

    def update(self, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Change the manifest, alone with it; what two sweeps change at once is merged because each changes its own.

        Args:
            change: given the manifest as it is ({} where there is none), changes it in place.
        Returns:
            The manifest as it is now.
        """
        with self.locked():
            manifest = self.manifest if self.exists() else {}
            before = _text(manifest)
            change(manifest)
            if (text := _text(manifest)) != before:
                temporary = self.path / f".{MANIFEST}{PARTIAL}"  # under the lock there is one writer
                _write(temporary, text)
                _sync(temporary)
                os.replace(temporary, self.path / MANIFEST)
                _sync(self.path)
            return manifest

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """A writer of row files; on leaving, what was not published is taken away."""
        with ExitStack() as stack:
            with as_output_error(self.path):
                token = stack.enter_context(self._writers.writing())
            writer = Writer(self, token)
            stack.callback(writer.discard)
            yield writer

    @contextmanager
    def writer_under_lock(self) -> Iterator[Writer]:
        """A writer for who holds the manifest's lock: `clean` cannot run meanwhile, so it needs no lock of its own."""
        writer = Writer(self, uuid.uuid4().hex[:16])
        try:
            yield writer
        finally:
            writer.discard()

    def clean(self) -> None:
        """Take away the half-written files of writers that are dead."""
        with as_output_error(self.path):
            self._writers.sweep(f"{_ROWS}/.*{PARTIAL}")


class Writer:
    """Row files under temporary names, published together.

    Attributes:
        token: its name, like no other's.
        mark: the path within the folder of its lock, which is there as long as it is.
    """

    def __init__(self, store: Store, token: str) -> None:
        self.store, self.token, self.mark = store, token, mark_of(token)
        self._waiting: dict[Path, Path] = {}

    def add(self, label: str, data: bytes) -> None:
        """Write the rows of an other under a temporary name.

        Raises:
            OutputError: the disk is full, or cannot be written to.
        """
        target = self.store.file(label)
        temporary = target.with_name(partial_name(target.stem, self.token))
        self._waiting[temporary] = target
        with as_output_error(self.store.path):
            _write(temporary, data)

    def sync(self) -> None:
        """Have what was added on the disk.

        Raises:
            OutputError: it could not be written out.
        """
        with as_output_error(self.store.path):
            if len(self._waiting) < 2:
                list(map(_sync, self._waiting))
            else:
                with thread_pool(min(_SYNCS, len(self._waiting))) as pool:
                    list(pool.map(_sync, self._waiting))

    def publish(self) -> None:
        """Give what was added, and synced, its name: from now on it is there, whatever happens.

        Raises:
            OutputError: it could not be named.
        """
        if not self._waiting:
            return
        with as_output_error(self.store.path):
            for temporary, target in list(self._waiting.items()):
                os.replace(temporary, target)
                del self._waiting[temporary]
            _sync(self.store.path / _ROWS)

    def discard(self) -> None:
        """Take away what was not published."""
        for temporary in self._waiting:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._waiting.clear()


def merge_entries(manifest: dict[str, Any], entries: Iterable[Mapping[str, Any]]) -> None:
    """Put entries into `others` in the place of those with their labels; new ones come last."""
    merged = {entry["label"]: entry for entry in manifest.setdefault("others", [])}
    for entry in entries:
        merged[entry["label"]] = dict(entry)
    manifest["others"] = list(merged.values())


def entry_of(other: Other, status: str, identity: str = "", reason: str = "") -> dict[str, Any]:
    """The manifest's entry of an other."""
    return {
        "label": other.label,
        "source": other.source,
        "extra": dict(other.extra),
        "identity": identity,
        "status": status,
        "reason": reason,
        "file": row_file(other.label) if status == "done" else None,
    }


def _text(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as JSON, a line for each other; `json` with indent= is in Python and ten times as slow."""

    def dumped(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    lines = [f"{dumped(name)}: {dumped(value)}" for name, value in manifest.items() if name != "others"]
    others = ",\n  ".join(map(dumped, manifest.get("others", ())))
    return ("{" + ",\n ".join([*lines, f'"others": [\n  {others}\n ]']) + "}\n").encode("utf-8", "surrogatepass")


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a folder, and what is in it is safe
            raise
    finally:
        os.close(descriptor)
