"""What packs with pictures and with sounds are held to alike: the plain model's gradients and greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.chat.messages import Message
from luthier.models.generate import generate
from luthier.models.load import LoadedModel
from luthier.models.media.towers import find_towers, gather_leaves, learn_media, list_row_media
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_packs
from luthier.models.shapes import find_part
from models.architectures import Double


@contextmanager
def tower_readings(model: Any) -> Iterator[list[int]]:
    """The keys of the media that a model's towers read from now on."""
    towers = find_towers(model)
    assert towers is not None
    run: Callable[..., Any] = towers.run
    keys: list[int] = []
    towers.run = lambda model, some: (keys.extend(some), run(model, some))[1]  # type: ignore[method-assign]
    try:
        yield keys
    finally:
        towers.run = run  # type: ignore[method-assign]


def compare_gradients(
    model: Any, rows: Sequence[TokenRow], moving: str, plain: Callable[[], Tensor], most_tokens: int
) -> list[int]:
    """Hold the gradients of what moves, over packs of at most so many tokens, to those of the log-probabilities that
    the plain model gives the same rows; the keys of the media that the towers read for them."""
    for name, parameter in model.named_parameters():
        part = find_part(name)
        parameter.requires_grad_(moving in ("all", part) or (moving == "towers" and part != "language"))
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.linspace(0.5, 1.5, sum(len(row.targets) for row in rows), dtype=torch.float64)
    with Double():
        (plain() * weights).sum().backward()
    expected = [parameter.grad for parameter in wanted]
    model.zero_grad()
    sums = [torch.zeros_like(parameter) for parameter in wanted]
    packs = build_packs(rows, most_tokens, share_from=1)
    assert len(packs) > 1
    numbers = {row.key: part for row, part in zip(rows, weights.split([len(row.targets) for row in rows]), strict=True)}
    with tower_readings(model) as keys, Double(), learn_media(model, lambda: list_row_media(rows)) as step:
        assert (step is None) == (moving == "language")
        for pack in packs:
            with gather_leaves() as leaves:
                logp = compute_pack_logprobs(model, pack)
            if not logp.requires_grad:
                continue  # a pack of text, where only what reads media learns
            own = torch.cat([numbers[key] for key in pack.keys])
            found = torch.autograd.grad((logp * own).sum(), [*wanted, *leaves.tensors], allow_unused=True)
            _add(sums, found[: len(wanted)])
            if step is not None:
                step.gather(leaves.name(found[len(wanted) :]))
        if step is not None:
            _add(sums, step.gradients(wanted))
    for parameter, found_one, expected_one in zip(wanted, sums, expected, strict=True):
        if expected_one is None:
            assert not found_one.any()
            continue
        scale = max(1.0, float(expected_one.abs().max()))
        torch.testing.assert_close(found_one / scale, expected_one / scale, rtol=0, atol=1e-10)
        parameter.grad = None
    model.requires_grad_(False)
    return keys


def _add(sums: list[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for total, gradient in zip(sums, gradients, strict=True):
        if gradient is not None:
            total.add_(gradient)


def compare_greedy_answers(reader: Any, conversations: Sequence[tuple[Message, ...]], **more: Any) -> None:
    """Hold the answers to all questions at once to those to each alone, and to the plain model's; `reader` has a
    `model`, a tokenizer `text`, and `plain_inputs`."""
    reader.model.requires_grad_(False)
    questions = [messages[:-1] for messages in conversations]
    loaded = LoadedModel(model=reader.model, folder=Path(), name="reader", digest="")
    prompts = [reader.text.prompt(messages) for messages in questions]
    together = generate(loaded, prompts, 12, frozenset())
    assert together == [generate(loaded, [prompt], 12, frozenset())[0] for prompt in prompts]
    for messages, written in zip(questions, together, strict=True):
        inputs = reader.plain_inputs(messages, prompt=True)
        whole = reader.model.generate(**inputs, max_new_tokens=12, do_sample=False, **more)
        assert whole[0, inputs["input_ids"].shape[1] :].tolist() == written
