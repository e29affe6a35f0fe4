"""Packs with pictures: log-probabilities, gradients and answers are those of the plain processor and model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.chat.media import MEDIA_IDS
from luthier.models.media import towers
from luthier.models.media.towers import find_towers, learn_media
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import build_pack
from luthier.models.shapes import find_part
from models.packed_media import compare_gradients, compare_greedy_answers, tower_readings
from models.vision_model_case import CONVERSATIONS, FIRST, LARGER, SECOND, VisionModelCase
from vision_models import FAMILIES, shown, tiny_vision_model


@pytest.fixture(autouse=True)
def forget_features() -> Iterator[None]:
    """No test finds features that another one read in another precision."""
    yield
    for read in towers._TOWERS.values():
        read._features.clear()
        read._states.clear()


@pytest.fixture(scope="module", params=FAMILIES)
def vision_model(request: Any, tmp_path_factory: Any) -> VisionModelCase:
    return VisionModelCase(tiny_vision_model(tmp_path_factory.mktemp("pictured"), request.param))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: Any) -> VisionModelCase:
    return VisionModelCase(tiny_vision_model(tmp_path_factory.mktemp("llava")))


def by_row(values: Tensor, path: Tensor) -> Tensor:
    return values[torch.argsort(path, stable=True)]


def test_log_probabilities_are_the_plain_models(vision_model: VisionModelCase) -> None:
    rows = vision_model.rows()
    pack = build_pack(rows, share_from=1)
    assert detect_forward_mode(vision_model.model).packed
    with torch.no_grad():
        found, expected = compute_pack_logprobs(vision_model.model, pack), vision_model.plain()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    read = pack.ids[pack.ids >= MEDIA_IDS]
    assert 0 < len(read) < sum(token >= MEDIA_IDS for row in rows for token in row.ids)


def test_two_pictures_are_never_taken_for_one(vision_model: VisionModelCase) -> None:
    """What is read below the second picture is not what is read below the first, though all else is the same."""
    both = [shown("what is this?", media, answer="a thing") for media in (FIRST, SECOND)]
    pack = build_pack(vision_model.rows(both), share_from=1)
    with torch.no_grad():
        found = compute_pack_logprobs(vision_model.model, pack)
        expected = vision_model.plain(both)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    halves = expected.view(2, -1)
    assert (halves[0] - halves[1]).abs().max() > 1e-6


def test_one_picture_at_two_sizes_is_read_twice(vision_model: VisionModelCase) -> None:
    rows = [
        shown("what is this?", FIRST, answer="small"),
        shown("what is this?", LARGER, answer="large"),
        shown("what is this?", LARGER, FIRST, answer="both"),
        shown("what is this?", FIRST, answer="small too"),
    ]
    pack = build_pack(vision_model.rows(rows), share_from=1)
    with torch.no_grad():
        found, expected = compute_pack_logprobs(vision_model.model, pack), vision_model.plain(rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.matrix
@pytest.mark.parametrize("moving", ["all", "towers", "projector", "language"])
def test_gradients_are_the_plain_models(vision_model: VisionModelCase, moving: str) -> None:
    read = compare_gradients(vision_model.model, vision_model.rows(), moving, vision_model.plain, 120)
    if moving != "language":
        readings = 4 if vision_model.model.config.model_type == "llava_onevision" else 2  # alone or not differs
        assert len(read) == readings, "a step reads each picture once, in however many packs it stands"


@pytest.mark.matrix("qwen2_5_vl", "gemma3", "llava", "qwen3_omni")
def test_greedy_answers_are_the_plain_models(vision_model: VisionModelCase) -> None:
    compare_greedy_answers(vision_model, CONVERSATIONS)


def test_a_frozen_tower_reads_each_picture_once(llava: VisionModelCase) -> None:
    towers = find_towers(llava.model)
    assert towers is not None
    llava.model.requires_grad_(False)
    towers._features.clear()
    with tower_readings(llava.model) as read:
        for _ in range(2):
            with torch.no_grad():
                compute_pack_logprobs(llava.model, build_pack(llava.rows()))
    assert len(read) == 2


def test_a_step_without_pictures_needs_no_tower(llava: VisionModelCase) -> None:
    for name, parameter in llava.model.named_parameters():
        parameter.requires_grad_(find_part(name) == "projector")
    with learn_media(llava.model, list) as step:
        assert step is not None
        assert step.gradients(llava.model.parameters()) == [None] * len(list(llava.model.parameters()))
    llava.model.requires_grad_(False)
