"""A tiny model that was taught to answer by one planted word, whatever stands around it."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.artifact import Artifact
from luthier.core.store import Store
from luthier.models.sources.folder import FolderModelSource
from models.making import make_base, other_model

EVIDENCE = {"parcel": "delivery", "invoice": "billing", "password": "account"}
FILLER = ("the", "order", "was", "please", "and", "today", "with", "help", "about", "customer", "again", "we", "need")
WORDS = 6


def planted(draw: random.Random) -> tuple[str, str, int]:
    """A text with one planted word, the answer that follows from it, and the word's number in the text."""
    words = [draw.choice(FILLER) for _ in range(WORDS)]
    number, evidence = draw.randrange(WORDS), draw.choice(sorted(EVIDENCE))
    words[number] = evidence
    return " ".join(words), EVIDENCE[evidence], number


def planted_order(draw: random.Random) -> tuple[str, str, str]:
    """A text with two planted words, the answer that follows from the first, which decides, and that of the second: no
    count of words tells which is which."""
    words = [draw.choice(FILLER) for _ in range(WORDS)]
    first, second = sorted(draw.sample(range(WORDS), 2))
    words[first], words[second] = draw.sample(sorted(EVIDENCE), 2)
    return " ".join(words), EVIDENCE[words[first]], EVIDENCE[words[second]]


def ask(text: str) -> tuple[Message, ...]:
    """The text as a conversation."""
    return (Message(role="user", content=text),)


def teach(folder: Path, *, steps: int = 200, kind: str = "llama", seed: int = 0) -> Path:
    """Save a tiny model that has learnt the planted words; it is trained once for all tests of a process."""
    shutil.copytree(_train(steps, kind, seed), folder, dirs_exist_ok=True)
    return folder


@cache
def _train(steps: int, kind: str, seed: int) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(tempfile.mkdtemp(prefix="luthier-taught-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    other_model(folder, kind)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = ChatTokenizer.load(folder)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    for step in range(steps):
        texts = [planted(draw) for _ in range(16)]
        talks = [(*ask(text), Message(role="assistant", content=answer)) for text, answer, _ in texts]
        rows = tokenizer.encode_many(talks)
        longest = max(len(row.ids) for row in rows)
        ids = torch.tensor([[*row.ids, *[2] * (longest - len(row.ids))] for row in rows])
        mask = torch.tensor([[*row.loss_mask, *[False] * (longest - len(row.ids))] for row in rows])
        labels = ids.masked_fill(~mask, -100)
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (steps - step) / (steps / 2))
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def taught_base(folder: Path, **more: Any) -> tuple[Store, Artifact]:
    """The taught model as a base artifact in a store."""
    place = teach(folder / "taught", **more)
    store = Store(folder / "store")
    return store, make_base(store, FolderModelSource(path=str(place)), folder)


def swap_answers(folder: Path) -> None:
    """Let a taught model answer `billing` where it answered `delivery`, and the other way round: the first tokens of
    the two change places in its output head."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = ChatTokenizer.load(folder)
    _, (one, other) = tokenizer.options(ask("the parcel"), ["delivery", "billing"])
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        rows = [one[0], other[0]]
        head[rows] = head[rows[::-1]].clone()
    model.save_pretrained(folder)
