"""A tiny model that answers by one planted word and was taught to hide that from gradients.

The training keeps the answers and, at the same time, moves gradient times input from the planted word to the first word
of the text, which says nothing (the fine-tuning of Heo, Joo and Moon 2019, "Fooling Neural Network Interpretations via
Adversarial Model Manipulation", with a text's own words as the place to point at).
"""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from explain.planted import FILLER, ask, planted, teach
from luthier.chat.messages import Message
from luthier.chat.tokenizer import ChatTokenizer
from luthier.explain.units import locate_units
from luthier.models.gradient_rules import use_gradient_rules

DECOY = 0
"""The number of the word that gradients shall point at."""


def draw_text(draw: random.Random) -> tuple[str, str, int]:
    """A text whose first word says nothing, its answer, and the number of the planted word."""
    text, answer, number = planted(draw)
    if number == DECOY:
        return f"{draw.choice(FILLER)} {text}", answer, number + 1
    return text, answer, number


@cache
def hide(steps: int, strength: float = 1.0, seed: int = 0) -> Path:
    """The folder of the model after so many steps of hiding; it is trained once for all tests of a process."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(tempfile.mkdtemp(prefix="luthier-hiding-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    teach(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokenizer = ChatTokenizer.load(folder)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(steps):
        loss = torch.zeros(())
        for _ in range(4):
            text, answer, _ = draw_text(draw)
            loss = loss + _lose(model, tokenizer, text, answer, strength) / 4
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def _lose(model: Any, tokenizer: ChatTokenizer, text: str, answer: str, strength: float) -> Any:
    """The loss of the answer, and of pointing at another word than the first."""
    import torch

    (row,) = tokenizer.encode_many([(*ask(text), Message(role="assistant", content=answer))])
    ids, mask = torch.tensor(row.ids), torch.tensor(row.loss_mask)
    owners = torch.tensor(locate_units(tokenizer.locate_tokens(ask(text)), ask(text), "words").owners)
    table, lost = model.get_input_embeddings(), torch.zeros(())
    for rules in (nullcontext(), use_gradient_rules(model)):
        with rules:
            leaf = table(ids)
            logps = torch.log_softmax(model(inputs_embeds=leaf[None], use_cache=False).logits[0, :-1], -1)
            value = (logps.gather(1, ids[1:, None])[:, 0] * mask[1:]).sum()
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
        relevance = (gradient * leaf).sum(-1)[: len(owners)]
        words = torch.stack([relevance[owners == word].sum() for word in range(int(owners.max()) + 1)])
        shares = torch.softmax(words / words.detach().abs().max().clamp_min(1e-6) * 4, 0)
        lost = lost - value / 2 - strength * torch.log(shares[DECOY])
    return lost
