"""A tree to the screen, to a file, to a picture: what `weighbridge lineage` does with it."""

from __future__ import annotations

from pathlib import Path

from ..report.sink import Output
from .tree import Tree

__all__ = ["draw_tree", "print_tree"]


def print_tree(tree: Tree, output: Output, fmt: str) -> None:
    """Prints the tree as "table", "json" or "dot".

    Raises:
        OutputError: it could not be written.
    """
    if fmt == "json":
        from ..report.json_text import dump

        output.write(dump(tree.to_dict()))
    elif fmt == "dot":
        from .dot import tree_dot

        output.write(tree_dot(tree))
    else:
        from .lines import tree_text

        output.write(tree_text(tree))
    output.close()


def draw_tree(tree: Tree, path: Path) -> None:
    """Draws the tree into a .png, .svg or .html file.

    Raises:
        OutputError: the file could not be written.
    """
    from html import escape

    from ..plots.lineage import lineage_picture
    from ..report.files import write_whole
    from .lines import tree_text

    write_whole(path, lineage_picture(tree, path.suffix.lower()[1:], f"<pre>{escape(tree_text(tree))}</pre>"))
