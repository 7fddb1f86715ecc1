"""Where the storages of a PyTorch zip lie in the file, from its directory alone.

`torch.save` writes a zip of uncompressed records: `NAME/data.pkl`, the description of the dict, and one
`NAME/data/KEY` per storage. An uncompressed record is one run of bytes of the file, so a tensor in it can be read from
the file as a safetensors one can. torch maps the whole file once and cuts the storages out of the mapping; where that
mapping begins it does not tell, but all storages' addresses and all records' offsets together do.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Set
from dataclasses import dataclass

from ..errors import FormatError
from .shard import digest, read_error

__all__ = ["ZipRecords", "locate_mapping", "read_records"]

_LOCAL_HEADER_BYTES = 30
_PAGE_BYTES = 4096

# Compressed weights shrink to a half, sparse ones to a tenth; records of less than this may be of zeros alone.
_MAX_INFLATION, _SMALL_BYTES = 100, 64 << 20
_ORDER_BYTES = 16  # "little" or "big"


@dataclass(frozen=True)
class ZipRecords:
    """The storages of a PyTorch zip.

    Attributes:
        sizes: offset of a storage's first byte in the file -> its size in bytes.
        mappable: whether the bytes in the file are the values (uncompressed, little-endian).
        directory_digest: a digest of the zip's directory: names, places, sizes and checksums of all records.
    """

    sizes: dict[int, int]
    mappable: bool
    directory_digest: str


def read_records(path: str) -> ZipRecords:
    """The storages of a PyTorch zip.

    Raises:
        FormatError: it is no complete zip, not one that torch wrote, or a TorchScript program.
        ReadError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            members = archive.infolist()
            roots = {name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("data.pkl")}
            root = next((root for root in roots if root.count("/") <= 1), None)
            if root is None:
                raise FormatError(f'"{path}" is a zip archive that torch.save did not write (it holds no data.pkl).')
            if f"{root}constants.pkl" in archive.namelist():
                raise FormatError(
                    f'"{path}" is a TorchScript program, which contains code, and code is never run; '
                    "save its state_dict() as safetensors in an environment you trust."
                )
            _refuse_bomb(path, members)
            storages = [member for member in members if member.filename.startswith(f"{root}data/")]
            order = b"little"
            if f"{root}byteorder" in archive.namelist():
                with archive.open(f"{root}byteorder") as record:
                    order = record.read(_ORDER_BYTES)
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in storages)
            sizes = {_data_offset(file.fileno(), member): member.file_size for member in storages if member.file_size}
            file_bytes = os.fstat(file.fileno()).st_size
    except zipfile.BadZipFile as error:
        raise FormatError(
            f'"{path}" is cut short or damaged: it begins as a zip archive and does not end as one ({error}); '
            "download or save it again."
        ) from error
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise FormatError(f'"{path}" is a zip archive that torch.save did not write ({error}).') from error
    except OSError as error:
        raise read_error(path, error) from error
    if stored and any(offset + size > file_bytes for offset, size in sizes.items()):
        raise FormatError(
            f'"{path}" is damaged: its zip directory names bytes past its end; download or save it again.'
        )
    listing = (f"{m.filename}:{m.header_offset}:{m.file_size}:{m.CRC}" for m in members)
    return ZipRecords(sizes, stored and order == b"little", digest(*listing))


def _refuse_bomb(path: str, members: list[zipfile.ZipInfo]) -> None:
    """Refuse an archive that unpacks to far more than weights ever do; torch itself does not compress at all.

    Raises:
        FormatError: gives the two sizes.
    """
    packed = sum(m.compress_size for m in members if m.compress_type != zipfile.ZIP_STORED)
    unpacked = sum(m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED)
    if unpacked > max(_MAX_INFLATION * packed, _SMALL_BYTES):
        raise FormatError(
            f'"{path}" is not to be trusted: {packed:,} bytes of it unpack to {unpacked:,}, as those of a zip bomb do; '
            "save it again without compression."
        )


def locate_mapping(path: str, records: ZipRecords, storages: Set[tuple[int, int]]) -> int | None:
    """The address at which torch has mapped the file, or None where the records leave more than one.

    A base is right when every storage, (address, bytes), taken relative to it, is a record of the same size. The
    largest storage leaves one base per record of its size, of those only the ones at the start of a page, and the
    other storages rule out all but the true one, unless the file is made of equal records at equal distances.

    Args:
        path: the file, for messages.
        records: the places of its storages.
        storages: (address, bytes) of every storage that was loaded and is not empty.
    Raises:
        FormatError: no base is right, so some storage is not as large as its record: its bytes would be another's.
    """
    if not storages:
        return None
    address, nbytes = max(storages, key=lambda storage: storage[1])
    bases = [
        address - offset
        for offset, size in records.sizes.items()
        if size == nbytes and (address - offset) % _PAGE_BYTES == 0
    ]
    fitting = [base for base in bases if all(records.sizes.get(at - base) == size for at, size in storages)]
    if not fitting:
        raise FormatError(
            f'"{path}" is damaged: the sizes that its pickle gives to storages are not those of the zip\'s records; '
            "download or save it again."
        )
    return fitting[0] if len(fitting) == 1 else None


def _data_offset(descriptor: int, member: zipfile.ZipInfo) -> int:
    """The first byte of a member's data: the directory gives its local header, which names its own two lengths."""
    header = os.pread(descriptor, _LOCAL_HEADER_BYTES, member.header_offset)
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no local header for {member.filename}")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return member.header_offset + _LOCAL_HEADER_BYTES + lengths
