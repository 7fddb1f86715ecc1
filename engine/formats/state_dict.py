"""Which entries of a loaded PyTorch object are the weights.

The weights are what lies under `state_dict`, else under `model`, where that is a dict with tensors in it (and so on
downwards, `{"model": {"state_dict": …}}`), else the tensors of the dict itself. So of a training checkpoint
`{"model": …, "optimizer": …, "epoch": 3}` the model is taken. Everything else is named in the metadata: small values as
they are, others by their type, so that `inspect` shows what was in the file and not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import FormatError

__all__ = ["NESTING_KEYS", "find_state_dict"]

NESTING_KEYS = ("state_dict", "model")

# A pickle can hold a dict that contains itself.
_MAX_NESTING = 4


def find_state_dict(loaded: Any, path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a loaded object by name, and a text for every entry that was left out.

    Raises:
        FormatError: it is no dict, or there are no tensors at the places looked at; two keys read the same.
    """
    import torch

    if not isinstance(loaded, Mapping):
        kind = "a single tensor" if isinstance(loaded, torch.Tensor) else f"a {type(loaded).__name__}"
        raise FormatError(f'"{path}" holds {kind}, not a state dict; save a dict of names to tensors.')
    others: dict[str, str] = {}
    current: Mapping[Any, Any] = loaded
    prefix = ""
    for _ in range(_MAX_NESTING):
        key = next((key for key in NESTING_KEYS if _has_weights(current.get(key))), None)
        if key is None:
            break
        others |= {f"{prefix}{name}": _describe(value) for name, value in current.items() if name != key}
        current = current[key]
        prefix += f"{key}."

    tensors: dict[str, Any] = {}
    for name, value in current.items():
        if not isinstance(value, torch.Tensor):
            others[f"{prefix}{name}"] = _describe(value)
        elif str(name) in tensors:
            raise FormatError(f'"{path}" holds two tensors named "{name}", one of them not by a text; save it again.')
        else:
            tensors[str(name)] = value
    if not tensors and current:
        keys = ", ".join(str(key) for key in list(current)[:6])
        raise FormatError(
            f'"{path}" holds no tensors where a state dict has them: looked at the top and under '
            f"{' and '.join(NESTING_KEYS)}, found the keys {keys}; save the model's state_dict() by itself."
        )
    return tensors, others


def _has_weights(value: Any, levels: int = _MAX_NESTING) -> bool:
    import torch

    if not isinstance(value, Mapping) or not levels:
        return False
    return any(isinstance(item, torch.Tensor) for item in value.values()) or any(
        _has_weights(value.get(key), levels - 1) for key in NESTING_KEYS
    )


def _describe(value: Any) -> str:
    """A value as a short text: itself where it is a plain one, else its type."""
    import torch

    if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 200):
        return str(value)
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)}, outside the state dict, not compared"
    size = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"{type(value).__name__}{size}, not compared"
