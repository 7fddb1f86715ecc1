"""Families of checkpoints whose descent is known: MiniLM trained, merged, copied and rounded along a tree.

The text is that of Python's own reference (`pydoc_data.topics`), which lies on every machine: each training run sees
sentences of a few topics of its own. The task is that of sentence embeddings: two views of a sentence, which dropout
makes differ, belong together and those of different sentences apart.
"""

import pydoc_data.topics
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

__all__ = ["Born", "family", "write_family"]

BATCH, TOKENS = 8, 24
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Born:
    """A checkpoint of a family and how it came to be.

    Attributes:
        name: its file is `name`.safetensors.
        how: "start" (MiniLM as published), "train", "merge", "copy", "F16", "BF16", or "fresh" (initialised anew).
        parents: names; none for "start" and "fresh", two for "merge".
        steps, rate, decay, optimizer, trained: of "train": optimizer steps, learning rate, weight decay, "adamw" or
            "sgd", and which part learns: "all", "encoder" or "upper" (the last two layers and the pooler).
        seed: of the text and of dropout, or of the fresh initialisation.
        weights: of "merge".
    """

    name: str
    how: str
    parents: tuple[str, ...] = ()
    steps: int = 0
    rate: float = 0.0
    decay: float = 0.0
    optimizer: str = "adamw"
    trained: str = "all"
    seed: int = 0
    weights: tuple[float, ...] = field(default=())


def family(seed: int, trained: int = 16, merges: int = 2, copies: int = 2, halves: int = 2) -> list[Born]:
    """A random family, parents before children.

    MiniLM, `trained` runs each from a random member, `merges` averages of two members none of which descends from the
    other, a run that goes on from the first merge, `copies` under other names, `halves` rounded to F16 and BF16 in
    turn, a run that goes on from the first of these, a model initialised anew and a run from it.
    """
    rng = np.random.default_rng(seed)
    members = [Born("start", "start")]

    def run(parent: str) -> None:
        members.append(
            Born(
                f"m{len(members):02d}",
                "train",
                (parent,),
                steps=int(rng.integers(1, 9)),
                rate=float(rng.choice([1e-5, 2e-5, 5e-5, 1e-4, 2e-4])),
                decay=float(rng.choice([0.0, 0.01, 0.1])),
                optimizer=str(rng.choice(["adamw", "adamw", "adamw", "sgd"])),
                trained=str(rng.choice(["all", "all", "encoder", "upper"])),
                seed=int(rng.integers(1 << 30)),
            )
        )

    for _ in range(trained):
        # Two of three go on from one of the last few, so that the tree is deep as well as wide.
        recent = members[-4:] if rng.random() < 0.67 else members
        run(recent[rng.integers(len(recent))].name)
    runs = [member.name for member in members if member.how == "train"]
    for number in range(merges):
        pairs = [(a, b) for a in runs for b in runs if a < b and not _related(members, a, b)]
        one, two = pairs[rng.integers(len(pairs))]
        share = float(rng.choice([0.5, 0.5, 0.3, 0.7]))
        members.append(Born(f"m{len(members):02d}", "merge", (one, two), weights=(share, 1.0 - share)))
        if number == 0:
            run(members[-1].name)
    for _ in range(copies):
        members.append(Born(f"m{len(members):02d}", "copy", (str(rng.choice(runs)),)))
    for number in range(halves):
        members.append(Born(f"m{len(members):02d}", ("F16", "BF16")[number % 2], (str(rng.choice(runs)),)))
        if number == 0:
            run(members[-1].name)
    members.append(Born(f"m{len(members):02d}", "fresh", seed=int(rng.integers(1 << 30))))
    run(members[-1].name)
    return members


def _related(members: Sequence[Born], one: str, two: str) -> bool:
    parents = {member.name: member.parents for member in members}

    def ancestors(name: str) -> set[str]:
        return {name}.union(*(ancestors(parent) for parent in parents[name]))

    return one in ancestors(two) or two in ancestors(one)


def write_family(members: Sequence[Born], start: Path, folder: Path) -> list[Path]:
    """Makes the checkpoints of a family, in order.

    Args:
        start: the folder of MiniLM, with its tokenizer.
        folder: where the files go.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(start)
    model = AutoModel.from_pretrained(start)
    paths = [folder / f"{member.name}.safetensors" for member in members]
    for member, path in zip(members, paths, strict=True):
        sources = [load_file(folder / f"{parent}.safetensors") for parent in member.parents]
        if member.how == "copy":
            shutil.copy(folder / f"{member.parents[0]}.safetensors", path)
            continue
        if member.how == "start":
            state = AutoModel.from_pretrained(start).state_dict()
        elif member.how == "fresh":
            with torch.random.fork_rng():
                torch.manual_seed(member.seed)
                state = AutoModel.from_config(AutoConfig.from_pretrained(start)).state_dict()
        elif member.how == "merge":
            shares = list(zip(member.weights, sources, strict=True))
            state = {name: sum(share * source[name] for share, source in shares) for name in sources[0]}
        elif member.how in DTYPES:
            state = {name: tensor.to(DTYPES[member.how]) for name, tensor in sources[0].items()}
        else:
            model.load_state_dict({name: tensor.float() for name, tensor in sources[0].items()})
            _train(model, tokenizer, member)
            state = model.state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return paths


def _train(model: Any, tokenizer: Any, member: Born) -> None:
    for name, parameter in model.named_parameters():
        upper = re.search(r"layer\.[45]\.|pooler", name) is not None
        learns = {"all": True, "encoder": not name.startswith("embeddings"), "upper": upper}
        parameter.requires_grad_(learns[member.trained])
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # 200: plain gradient descent moves a weight by its gradient, some 100 times less than Adam does.
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(learning, lr=member.rate, weight_decay=member.decay)
        if member.optimizer == "adamw"
        else torch.optim.SGD(learning, lr=200 * member.rate, momentum=0.9)
    )
    sentences = _sentences(member.seed)
    # One thread: the steps are small, and threads that wait for each other take ten times as long on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(member.seed)
        model.train()
        for step in range(member.steps):
            chosen = [sentences[(step * BATCH + place) % len(sentences)] for place in range(BATCH)]
            tokens = tokenizer(chosen, truncation=True, max_length=TOKENS, padding=True, return_tensors="pt")
            first, second = (_embedded(model, tokens) for _ in range(2))
            torch.nn.functional.cross_entropy(20 * first @ second.T, torch.arange(BATCH)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    torch.set_num_threads(threads)


def _embedded(model: Any, tokens: Any) -> torch.Tensor:
    out = model(**tokens)
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = (out.last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean + 0.1 * out.pooler_output, dim=1)


def _sentences(seed: int) -> list[str]:
    """The sentences of three topics, shuffled."""
    rng = np.random.default_rng(seed)
    topics = sorted(pydoc_data.topics.topics)
    text = " ".join(pydoc_data.topics.topics[topics[number]] for number in rng.permutation(len(topics))[:3])
    found = [part for part in re.split(r"(?<=[.:;])\s+|\n\n+", " ".join(text.split(" "))) if len(part) > 30]
    return [found[number] for number in rng.permutation(len(found))]
