"""Rows with pictures that are not packed: read one by one, they are what the plain processor and model say of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.models.media import family as families
from luthier.models.media.inputs import embed_ids
from luthier.models.media.towers import learn_media, list_row_media
from luthier.models.packing.logprobs import compute_logprobs_and_top1, compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import build_pack, build_packs
from luthier.models.packing.parallel import is_thread_safe
from luthier.models.packing.prefix_cache import share_prefixes
from models.architectures import Double
from models.packed_media import compare_greedy_answers
from models.vision_model_case import VisionModelCase
from vision_models import ALONE, FAMILIES, tiny_vision_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor
OTHERS = [family for family in FAMILIES if family != "idefics3"]
"""The processor of Idefics3 asks its tokenizer where characters stand, and takes no ids."""


@pytest.fixture(scope="module", params=[*ALONE, *OTHERS])
def vision_model(request: Any, tmp_path_factory: Any) -> Iterator[VisionModelCase]:
    """A model of a family that is read alone, and of each other one as if nobody knew it."""
    known = families._FAMILIES.copy()
    families.find_family("llava")
    if request.param not in ALONE:
        families._FAMILIES.clear()
    yield VisionModelCase(tiny_vision_model(tmp_path_factory.mktemp("pictured"), request.param))
    families._FAMILIES.update(known)


@pytest.mark.matrix("qwen2_5_vl", "mllama", "paligemma", "gemma3", "llava")
def test_log_probabilities_are_the_plain_models(vision_model: VisionModelCase) -> None:
    rows = vision_model.rows()
    pack = build_pack(rows, share_from=1)
    how = detect_forward_mode(vision_model.model)
    assert how.media_alone
    assert not is_thread_safe(vision_model.model)
    with Double(), torch.no_grad(), share_prefixes(vision_model.model, rows):
        found, expected = compute_pack_logprobs(vision_model.model, pack), vision_model.plain()
        ranked, _ = compute_logprobs_and_top1(vision_model.model, pack)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(ranked, expected, rtol=0, atol=1e-10)


@pytest.mark.matrix("qwen2_5_vl", "mllama", "paligemma", "gemma3", "llava", "idefics3")
def test_gradients_are_the_plain_models(vision_model: VisionModelCase) -> None:
    rows, model = vision_model.rows(), vision_model.model
    model.requires_grad_(True)
    wanted = list(model.parameters())
    with Double():
        vision_model.plain().sum().backward()
    expected = [parameter.grad for parameter in wanted]
    model.zero_grad()
    sums: list[Tensor] = [torch.zeros_like(parameter) for parameter in wanted]
    with Double(), learn_media(model, lambda: list_row_media(rows)) as step:
        assert step is None, "a row's own forward reads its pictures, with their gradients"
        for pack in build_packs(rows, 120, share_from=1):
            gradients = torch.autograd.grad(compute_pack_logprobs(model, pack).sum(), wanted, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient)
    for parameter, found, one in zip(wanted, sums, expected, strict=True):
        scale = 1.0 if one is None else max(1.0, float(one.abs().max()))
        torch.testing.assert_close(
            found / scale, torch.zeros_like(found) if one is None else one / scale, rtol=0, atol=1e-10
        )
        parameter.grad = None
    model.requires_grad_(False)


@pytest.mark.matrix("qwen2_5_vl", "mllama", "paligemma")
def test_greedy_answers_are_the_plain_models(vision_model: VisionModelCase) -> None:
    compare_greedy_answers(vision_model, vision_model.conversations)


def test_embeddings_cannot_be_given(vision_model: VisionModelCase) -> None:
    pack = build_pack(vision_model.rows())
    width = vision_model.model.config.get_text_config().hidden_size
    with pytest.raises(ModelError, match="embeddings cannot be put"):
        compute_pack_logprobs(vision_model.model, pack, embeddings=torch.zeros(pack.tokens, width, dtype=torch.float64))


def test_features_apart_from_their_row_are_refused(vision_model: VisionModelCase) -> None:
    """`explain` replaces features of a picture, which a model that reads its rows itself does not give away."""
    ids = vision_model.rows()[0].ids
    with pytest.raises(ModelError, match="are not known apart from their row"):
        embed_ids(vision_model.model, torch.tensor([ids]))
