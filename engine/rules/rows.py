"""Embeddings and their tied heads, of which the leading rows are compared where one side has more rows.

A resized vocabulary appends rows, so row i means the same on both sides as long as both have it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from .rewriting import Shape

__all__ = ["RowsRule", "is_embedding", "only_rows_differ"]

_EMBEDDING = re.compile(r"(?:^|_)(?:embed|embedding|embeddings|embedder|emb|embs|wte|wpe|wse|shared)(?:$|_|\d)")
_HEAD = re.compile(
    r"(?:^|_)(?:lm_head|embed_out|decoder|predictions|output|output_projection|output_layer|proj_out|generator|"
    r"vocab_projector|vocab_proj|final_logits_bias|head|generator_lm_head|unembed|logits)(?:$|_|\d)"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def only_rows_differ(one: Shape, two: Shape) -> bool:
    """Whether two shapes differ in their first dimension and in nothing else, and both have rows."""
    return len(one) == len(two) >= 1 and one[1:] == two[1:] and one[0] != two[0] and min(one[0], two[0]) > 0


def is_embedding(name: str, shape: Shape, names: Container[str]) -> bool:
    """Whether a tensor is an embedding.

    It is a matrix whose module (the component before `weight`, or the parameter itself) is called one
    (`word_embeddings`, `embed_tokens`, `wte`, `shared` ...) and that has no bias beside it among `names`; a layer that
    projects something into an embedding has one.
    """
    module, _, last = name.rpartition(".")
    component = module.rpartition(".")[2] if last in ("weight", "default") else last
    return (
        len(shape) == 2
        and _EMBEDDING.search(_snake(component)) is not None
        and not (last == "weight" and f"{module}.bias" in names)
    )


class RowsRule:
    """Tells which pairs with different numbers of rows are embeddings (`is_embedding`) or heads tied to one.

    A head is a matrix, or the bias of one, called one (`lm_head`, `cls.predictions.decoder` ...), with the rows of an
    embedding of the same pair of checkpoints on both sides, or known by the file to be the same run of bytes as an
    embedding.
    """

    def __init__(self, names: Container[str], pairs: Iterable[tuple[str, Shape, Shape]], tied: Iterable[Iterable[str]]):
        """
        Args:
            names: the other's names.
            pairs: (name in the other, shape in the other, shape in the base) of all pairs whose rows alone differ.
            tied: groups of names in the other that are one run of bytes.
        """
        pairs = list(pairs)
        embeddings = {name: (one[0], two[0]) for name, one, two in pairs if is_embedding(name, one, names)}
        self._row_counts = set(embeddings.values())
        self._accepted = set(embeddings)
        tied_to_embedding = {name for group in map(set, tied) if group & self._accepted for name in group}
        for name, one, two in pairs:
            if name in tied_to_embedding or self._is_head(name, one, two):
                self._accepted.add(name)

    def accepts(self, name: str) -> bool:
        """Whether the leading rows of this tensor of the other may be compared."""
        return name in self._accepted

    def _is_head(self, name: str, one: Shape, two: Shape) -> bool:
        components = name.split(".")
        if components[-1] in ("weight", "bias") and len(components) > 1:
            components.pop()
        if len(one) > 2 or _HEAD.search(_snake(components[-1])) is None:
            return False
        return (one[0], two[0]) in self._row_counts


def _snake(component: str) -> str:
    return _CAMEL.sub("_", component).lower()
