"""Bottleneck adapters stand where their papers put them, begin as the base, and are read packed in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.models.describe import describe_model_folder
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs, detect_forward_mode
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune.techniques.adapter import BottleneckAdapter
from models.making import other_model
from models.test_shapes import FAMILIES, moving
from tiny_models import tiny_model

IDS = torch.tensor([[3, 9, 4, 1, 7], [2, 2, 8, 5, 6]])


def stirred(model: Any) -> Any:
    """The same model with detours that do something."""
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "bottleneck_" in name:
            parameter.data = torch.randn_like(parameter) * 0.3
    return model


def test_it_begins_as_the_base_and_can_be_switched_off(tmp_path: Path) -> None:
    place = tiny_model(tmp_path / "model")
    wanted = open_folder(place, torch.float32)(input_ids=IDS).logits
    model = BottleneckAdapter(adapter_type="houlsby").adapt(open_folder(place, torch.float32), 1)
    assert torch.equal(model(input_ids=IDS).logits, wanted)
    stirred(model)
    assert not torch.allclose(model(input_ids=IDS).logits, wanted)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=IDS).logits, wanted)


@pytest.mark.parametrize("place", ["houlsby", "pfeiffer", "parallel"])
def test_the_detours_stand_where_the_papers_put_them(tmp_path: Path, place: Any) -> None:
    """The same arithmetic, hung on a plain model by hooks."""
    folder = tiny_model(tmp_path / "model")
    adapted = stirred(
        BottleneckAdapter(adapter_type=place, size=5, scale=2.0).adapt(open_folder(folder, torch.float32), 1)
    )
    plain = open_folder(folder, torch.float32)
    inner = adapted.get_base_model().model

    def detour(layer: Any, h: torch.Tensor) -> torch.Tensor:
        down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
        added: torch.Tensor = up(torch.relu(down(h))) * 2.0
        return added

    for own, other in zip(plain.model.layers, inner.layers, strict=True):
        pairs = [(own.mlp, other.mlp)]
        if place == "houlsby":
            pairs.append((own.self_attn.o_proj, other.self_attn.o_proj))
        for module, layer in pairs:
            module.register_forward_hook(
                lambda _, args, out, layer=layer: out + detour(layer, args[0] if place == "parallel" else out)
            )
    torch.testing.assert_close(adapted(input_ids=IDS).logits, plain(input_ids=IDS).logits)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "phi", "opt", "qwen3_moe"])
def test_every_family_has_it_and_is_read_packed(tmp_path: Path, kind: str) -> None:
    place = other_model(tmp_path / "model", kind, **FAMILIES[kind])
    technique = BottleneckAdapter(adapter_type="houlsby", reduction_factor=8.0)
    model = stirred(technique.adapt(open_folder(place, torch.float32), 1)).eval()
    assert technique.trainable(describe_model_folder(place)) == moving(model)
    assert moving(model) == 2 * 2 * (2 * 32 * 4 + 32 + 4)
    rows = [TokenRow([5, 6, 7, *range(first, first + 6)], [0.0] * 3 + [1.0] * 6) for first in (20, 30)]
    found = compute_pack_logprobs(model, build_pack(rows, share_from=2))
    assert detect_forward_mode(model).packed, detect_forward_mode(model).why
    logits = [torch.log_softmax(model(input_ids=torch.tensor([row.ids])).logits[0], -1) for row in rows]
    wanted = torch.stack(
        [one[at - 1, row.ids[at]] for one, row in zip(logits, rows, strict=True) for at in range(3, 9)]
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_place_that_a_family_lacks_is_refused(tmp_path: Path) -> None:
    told = describe_model_folder(other_model(tmp_path / "model", "opt", **FAMILIES["opt"]))
    assert "no layer has an MLP" in BottleneckAdapter(adapter_type="parallel").refuses("sft", told)
    assert not BottleneckAdapter().refuses("sft", told)
