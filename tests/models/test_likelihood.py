"""Log-likelihoods of what follows, against transformers row by row; neighbours, order and pack size change nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from luthier.models.generate import compute_loglikelihoods
from models.test_generate import gemma, llama, mamba, opened


def asked(count: int = 14) -> list[tuple[list[int], list[int]]]:
    """Pairs, of which many begin alike."""
    draw = random.Random(3)
    shared = [draw.randrange(3, 40) for _ in range(9)]
    found = []
    for number in range(count):
        before = shared[: draw.randint(1, 9)] if number % 2 else [draw.randrange(3, 40) for _ in range(3)]
        found.append((before, [draw.randrange(3, 40) for _ in range(draw.randint(1, 4))]))
    return found


@pytest.mark.parametrize("make", [llama, gemma, mamba])
def test_as_rows_of_their_own(make: Any) -> None:
    model = opened(make).model
    for (before, after), told in zip(
        asked(), compute_loglikelihoods(model, asked(), tokens=40, greedy=True), strict=True
    ):
        logits = model(input_ids=torch.tensor([[*before, *after]]), use_cache=False).logits[0].detach().double()
        logp = torch.log_softmax(logits, -1)[len(before) - 1 : -1]
        assert told.logprob == pytest.approx(float(logp[range(len(after)), after].sum()), abs=2e-4)
        assert told.tokens == len(after)
        assert told.greedy == (logp.argmax(-1).tolist() == after)


def test_some_answers_are_what_greedy_writing_says() -> None:
    model = opened(llama).model
    ids = [5, 9, 11]
    for _ in range(3):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    told = compute_loglikelihoods(model, [(ids[:3], ids[3:]), (ids[:3], [*ids[3:5], ids[5] ^ 1])], greedy=True)
    assert [one.greedy for one in told] == [True, False]


def test_neighbours_order_and_size_change_nothing() -> None:
    model, every = opened(llama).model, asked()
    wanted = [one.logprob for one in compute_loglikelihoods(model, every)]
    for tokens in (12, 30, 4096):
        shuffled = random.Random(tokens).sample(range(len(every)), len(every))
        found = compute_loglikelihoods(model, [every[at] for at in shuffled], tokens=tokens)
        assert [one.logprob for one in found] == pytest.approx([wanted[at] for at in shuffled], abs=1e-5)
    alone = [compute_loglikelihoods(model, [one])[0].logprob for one in every]
    assert alone == pytest.approx(wanted, abs=1e-5)
