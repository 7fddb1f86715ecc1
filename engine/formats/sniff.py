"""What a file that is no checkpoint looks like, from its first bytes: the error says what it is, not only what not."""

from __future__ import annotations

__all__ = ["describe_head", "is_zip"]

_ZIP = b"PK\x03\x04"

_LFS_PREFIX = b"version https://git-lfs"
_HTML_PREFIXES = (b"<!doctype html", b"<html", b"<head", b"<body", b"<!doctype")
_MAGICS = (
    (b"GGUF", "is a GGUF file, which is not read here; give the safetensors or PyTorch checkpoint it was made from"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras or TensorFlow); save the model as safetensors"),
    (b"\x93NUMPY", "is a NumPy array; save it with safetensors.numpy.save_file"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first"),
    (b"\xfd7zXZ\x00", "is compressed with xz; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (_ZIP, "is a zip archive, as PyTorch writes them; give it the ending .bin, .pt or .pth"),
    (b"\x80\x02", "is a Python pickle, as PyTorch writes them; give it the ending .bin, .pt or .pth"),
)


def is_zip(head: bytes) -> bool:
    """Whether a file begins as a zip archive with at least one member does."""
    return head.startswith(_ZIP)


def describe_head(head: bytes) -> str | None:
    """How a sentence "FILE …" goes on for a file that is recognisably something else, or None."""
    if head.startswith(_LFS_PREFIX):
        return "is a git-lfs pointer, not the file it points to; fetch that with `git lfs pull`"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_HTML_PREFIXES):
        return "looks like an HTML page, probably an error page saved by a download; download the file again"
    for magic, words in _MAGICS:
        if head.startswith(magic):
            return words
    if _is_text(head):
        return "is a text file"
    return None


def _is_text(head: bytes) -> bool:
    """Whether the bytes are printable UTF-8, which no checkpoint's first bytes are."""
    if b"\x00" in head:
        return False
    for cut in range(min(4, len(head))):  # the last character may be cut in two
        try:
            text = head[: len(head) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return all(char.isprintable() or char in "\t\r\n\f" for char in text)
    return False
