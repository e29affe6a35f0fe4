"""The last layer goes on only where somebody reads, with the same numbers and gradients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from luthier.models.load import open_folder
from luthier.models.packing.logprobs import (
    compute_pack_logprobs,
    detect_forward_mode,
    install_logprob_layer,
    pad_index_count,
    select_token_positions,
)
from luthier.models.packing.pack import TokenRow, build_pack
from tiny_models import tiny_model

ROWS = [TokenRow([*range(5, 25), at, at + 1], [0.0] * 21 + [1.0], str(at)) for at in range(30, 36)]


@pytest.fixture
def model(tmp_path: Path) -> torch.nn.Module:
    tiny_model(tmp_path)
    found: torch.nn.Module = open_folder(tmp_path, torch.float64)
    return found


def test_few_places_give_the_same_numbers_and_gradients(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = detect_forward_mode(model)
    assert how.short
    made = build_pack(ROWS)
    few = compute_pack_logprobs(model, made)
    found = torch.autograd.grad(few.sum(), list(model.parameters()))
    monkeypatch.setattr("luthier.models.packing.logprobs.detect_forward_mode", lambda _: replace(how, short=False))
    whole = compute_pack_logprobs(model, made)
    wanted = torch.autograd.grad(whole.sum(), list(model.parameters()))
    torch.testing.assert_close(few, whole, atol=1e-12, rtol=0)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_it_computes_less(model: torch.nn.Module) -> None:
    assert detect_forward_mode(model).short
    seen: list[int] = []
    mlp = model.get_decoder().layers[-1].mlp
    mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    made = build_pack(ROWS)
    compute_pack_logprobs(model, made)
    assert seen[-1] < made.tokens / 2


def test_whole_rows_are_read_when_nobody_says_otherwise(model: torch.nn.Module) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(input_ids=ids).logits
    assert install_logprob_layer(model.get_decoder())
    with select_token_positions(None):
        assert torch.equal(model(input_ids=ids).logits, before)


def test_layers_of_another_kind_are_left_alone() -> None:
    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])

    assert not install_logprob_layer(Other())
    assert not install_logprob_layer(torch.nn.Linear(2, 2))


def test_places_come_in_few_sizes() -> None:
    sizes = {pad_index_count(torch.arange(count)).shape[0] for count in range(1, 200)}
    assert len(sizes) <= 24
    assert pad_index_count(torch.tensor([4, 7]))[:2].tolist() == [4, 7]
