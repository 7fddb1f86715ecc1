"""Names, numbers and sizes as people read them.

Names come out of files that anybody may have written, so they are data: whatever a terminal would act on is shown
escaped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

__all__ = ["count", "elide", "plain", "short_names", "size", "speed", "value"]


def plain(name: str) -> str:
    r"""The name with all that is unprintable (control characters, ESC, newlines, bidi overrides) escaped: "\x1b"."""
    if name.isprintable():
        return name
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in name
    )


def short_names(labels: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all labels stand in, and the labels without it, fit for a terminal."""
    start = os.path.commonprefix(list(labels))  # noqa: RUF071 -- hub ids are no paths; cut at a slash below
    start = start[: start.rfind("/") + 1] if len(labels) > 1 else ""
    return plain(start), [plain(label[len(start) :]) for label in labels]


def elide(name: str, width: int | None) -> str:
    """The name in at most `width` characters, the middle left out: the layer's number and the end tell tensors apart.

    None: as it is.
    """
    if width is None or len(name) <= width:
        return name
    tail = width - 1 - max(1, (width - 1) // 5)
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def value(number: float | int | None, distance: float | None = None) -> str:
    """A metric for a table: three to five significant digits, never a rounding that hides a difference.

    Args:
        number: the metric; None (not compared) is empty.
        distance: for a cosine its cosine_distance. A cosine that would round to 1 is written "1-3.2e-09".
    """
    if number is None:
        return ""
    if math.isnan(number):
        return "nan"
    if isinstance(number, int) or math.isinf(number):
        return str(number)
    if distance is not None and 0.0 < distance < 5e-6:
        return f"1-{distance:.1e}"
    if number == int(number) and abs(number) < 1e6:
        return str(int(number))
    if 1e-3 <= abs(number) < 1e6:
        digits = max(0, 4 - max(math.floor(math.log10(abs(number))), -1))
        return f"{number:.{digits}f}"
    return f"{number:.2e}"


def size(nbytes: int) -> str:
    """Bytes in decimal units: 812 B, 43.1 kB, 438.0 MB, 1.76 GB."""
    for unit, scale, digits in (("TB", 1e12, 2), ("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 1)):
        if nbytes >= scale:
            return f"{nbytes / scale:.{digits}f} {unit}"
    return f"{nbytes} B"


def speed(nbytes: int, seconds: float) -> str:
    """What was read, in how long, and how fast: "read 880.0 MB in 0.41 s, 2.15 GB/s", "read 1.2 kB in 3 ms, …"."""
    took = f"read {size(nbytes)} in " + (f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms")
    return f"{took}, {size(round(nbytes / seconds))}/s" if nbytes and seconds > 0 else took


def count(number: int, noun: str) -> str:
    """ "1 tensor", "2 tensors", "109,482,240 elements"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
