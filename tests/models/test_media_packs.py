"""Packs with pictures: log-probabilities, gradients and answers are those of the plain processor and model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.chat.media import MEDIA_IDS
from luthier.models.generate import generate
from luthier.models.load import LoadedModel
from luthier.models.media import towers
from luthier.models.media.towers import find_towers, gather_leaves, learn_media, list_row_media
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import build_pack, build_packs
from luthier.models.shapes import find_part
from models.architectures import Double
from models.pictured_model import CONVERSATIONS, FIRST, LARGER, SECOND, Pictured
from pictured import FAMILIES, shown, tiny_pictured


@pytest.fixture(autouse=True)
def forget_features() -> Iterator[None]:
    """No test finds features that another one read in another precision."""
    yield
    for read in towers._TOWERS.values():
        read._features.clear()
        read._states.clear()


@pytest.fixture(scope="module", params=FAMILIES)
def pictured(request: Any, tmp_path_factory: Any) -> Pictured:
    return Pictured(tiny_pictured(tmp_path_factory.mktemp("pictured"), request.param))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: Any) -> Pictured:
    return Pictured(tiny_pictured(tmp_path_factory.mktemp("llava")))


def by_row(values: Tensor, path: Tensor) -> Tensor:
    return values[torch.argsort(path, stable=True)]


def test_log_probabilities_are_the_plain_models(pictured: Pictured) -> None:
    rows = pictured.rows()
    pack = build_pack(rows, share_from=1)
    assert detect_forward_mode(pictured.model).packed
    with torch.no_grad():
        found, expected = compute_pack_logprobs(pictured.model, pack), pictured.plain()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    read = pack.ids[pack.ids >= MEDIA_IDS]
    assert 0 < len(read) < sum(token >= MEDIA_IDS for row in rows for token in row.ids)


def test_two_pictures_are_never_taken_for_one(pictured: Pictured) -> None:
    """What is read below the second picture is not what is read below the first, though all else is the same."""
    both = [shown("what is this?", media, answer="a thing") for media in (FIRST, SECOND)]
    pack = build_pack(pictured.rows(both), share_from=1)
    with torch.no_grad():
        found = compute_pack_logprobs(pictured.model, pack)
        expected = pictured.plain(both)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    halves = expected.view(2, -1)
    assert (halves[0] - halves[1]).abs().max() > 1e-6


def test_one_picture_at_two_sizes_is_read_twice(pictured: Pictured) -> None:
    rows = [
        shown("what is this?", FIRST, answer="small"),
        shown("what is this?", LARGER, answer="large"),
        shown("what is this?", LARGER, FIRST, answer="both"),
        shown("what is this?", FIRST, answer="small too"),
    ]
    pack = build_pack(pictured.rows(rows), share_from=1)
    with torch.no_grad():
        found, expected = compute_pack_logprobs(pictured.model, pack), pictured.plain(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("moving", ["all", "towers", "projector", "language"])
def test_gradients_are_the_plain_models(pictured: Pictured, moving: str) -> None:
    rows, model = pictured.rows(), pictured.model
    for name, parameter in model.named_parameters():
        part = find_part(name)
        parameter.requires_grad_(moving in ("all", part) or (moving == "towers" and part != "language"))
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.linspace(0.5, 1.5, sum(len(row.targets) for row in rows), dtype=torch.float64)
    with Double():
        (pictured.plain() * weights).sum().backward()
    expected = [parameter.grad for parameter in wanted]
    model.zero_grad()
    sums = [torch.zeros_like(parameter) for parameter in wanted]
    calls: list[int] = []
    towers = find_towers(model)
    assert towers is not None
    run: Callable[..., Any] = towers.run
    towers.run = lambda model, keys: (calls.extend(keys), run(model, keys))[1]  # type: ignore[method-assign]
    packs = build_packs(rows, 120, share_from=1)
    assert len(packs) > 1
    numbers = {row.key: part for row, part in zip(rows, weights.split([len(row.targets) for row in rows]), strict=True)}
    try:
        with Double(), learn_media(model, lambda: list_row_media(rows)) as step:
            assert (step is None) == (moving == "language")
            for pack in packs:
                with gather_leaves() as leaves:
                    logp = compute_pack_logprobs(model, pack)
                if not logp.requires_grad:
                    continue  # a pack of text, where only what reads pictures learns
                own = torch.cat([numbers[key] for key in pack.keys])
                found = torch.autograd.grad((logp * own).sum(), [*wanted, *leaves.tensors], allow_unused=True)
                _add(sums, found[: len(wanted)])
                if step is not None:
                    step.gather(leaves.name(found[len(wanted) :]))
        if step is not None:
            with Double():
                _add(sums, step.gradients(wanted))
            readings = 4 if model.config.model_type == "llava_onevision" else 2  # alone and beside others: not the same
            assert len(calls) == readings, "a step reads each picture once, in however many packs it stands"
    finally:
        towers.run = run  # type: ignore[method-assign]
    for parameter, found_one, expected_one in zip(wanted, sums, expected, strict=True):
        if expected_one is None:
            assert not found_one.any()
            continue
        scale = max(1.0, float(expected_one.abs().max()))
        torch.testing.assert_close(found_one / scale, expected_one / scale, rtol=0, atol=1e-10)
        parameter.grad = None
    model.requires_grad_(False)


def _add(sums: list[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for total, gradient in zip(sums, gradients, strict=True):
        if gradient is not None:
            total.add_(gradient)


def test_greedy_answers_are_the_plain_models(pictured: Pictured) -> None:
    pictured.model.requires_grad_(False)
    questions = [messages[:-1] for messages in CONVERSATIONS]
    loaded = LoadedModel(model=pictured.model, folder=Path(), name="pictured", digest="")
    prompts = [pictured.text.prompt(messages) for messages in questions]
    together = generate(loaded, prompts, 12, frozenset())
    assert together == [generate(loaded, [prompt], 12, frozenset())[0] for prompt in prompts]
    for messages, written in zip(questions, together, strict=True):
        inputs = pictured.plain_inputs(messages, prompt=True)
        whole = pictured.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        assert whole[0, inputs["input_ids"].shape[1] :].tolist() == written


def test_a_frozen_tower_reads_each_picture_once(llava: Pictured) -> None:
    towers = find_towers(llava.model)
    assert towers is not None
    llava.model.requires_grad_(False)
    calls: list[int] = []
    run: Callable[..., Any] = towers.run
    towers.run = lambda model, keys: (calls.extend(keys), run(model, keys))[1]  # type: ignore[method-assign]
    towers._features.clear()
    for _ in range(2):
        with torch.no_grad():
            compute_pack_logprobs(llava.model, build_pack(llava.rows()))
    towers.run = run  # type: ignore[method-assign]
    assert len(calls) == 2


def test_a_step_without_pictures_needs_no_tower(llava: Pictured) -> None:
    for name, parameter in llava.model.named_parameters():
        parameter.requires_grad_(find_part(name) == "projector")
    with learn_media(llava.model, list) as step:
        assert step is not None
        assert step.gradients(llava.model.parameters()) == [None] * len(list(llava.model.parameters()))
    llava.model.requires_grad_(False)
