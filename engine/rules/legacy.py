"""Old names of parameters, by the last component of a name.

gamma -> weight, beta -> bias                  (TensorFlow's names, in BERT's checkpoint on the hub)
weight_g -> parametrizations.weight.original0  (torch.nn.utils.weight_norm before and after torch 2.0)
weight_v -> parametrizations.weight.original1
"""

from __future__ import annotations

__all__ = ["modern_name"]

_LAST = {
    "gamma": "weight",
    "beta": "bias",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_ENDINGS = tuple(f".{last}" for last in _LAST)


def modern_name(key: str) -> str | None:
    """The name with its last component brought up to date, or None where that is up to date."""
    if not key.endswith(_ENDINGS):
        return None
    module, dot, last = key.rpartition(".")
    return f"{module}{dot}{_LAST[last]}"
