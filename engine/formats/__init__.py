"""One module per on-disk format; `open_checkpoint` finds out which one it is."""

from .opening import open_checkpoint

__all__ = ["open_checkpoint"]
