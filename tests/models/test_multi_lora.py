"""Adapters come over open weights and go, while a decoder writes: who is there already goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models.generation.engine import BASE, ContinuousBatchingDecoder, GenerationRequest, TokenOutput
from luthier.models.load import LoadedModel, open_adapter
from luthier.models.multi_lora import _is_in_layers, _is_plain, add_adapter, remove_adapter
from models.architectures import adapted, tiny

PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32, 38, 46, 26, 43, 38, 32, 7, 9]
FAMILIES = ["llama", "qwen2", "gemma3", "phi3", "mamba"]


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    model = tiny(family).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model.eval()


def saved(family: str, folder: Path, seed: int) -> Path:
    """An adapter that says something, as PEFT writes it."""
    torch.manual_seed(seed)
    model = adapted(model_of(family))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def opened(model: Any) -> LoadedModel:
    return LoadedModel(model=model, folder=Path(), name="tiny", digest="")


def ask(adapter: str | None = None) -> GenerationRequest:
    return GenerationRequest(ids=PROMPT, max_new_tokens=16, stop=(), adapter=adapter)


def written(decoder: ContinuousBatchingDecoder, tickets: list[int]) -> list[list[tuple[int, float]]]:
    found: dict[int, list[TokenOutput]] = {ticket: [] for ticket in tickets}
    while any(not one or one[-1].finish is None for one in found.values()):
        for one in decoder.step():
            found[one.ticket].append(one)
    return [[(one.token, one.logprob) for one in found[ticket]] for ticket in tickets]


def alone(model: Any) -> list[tuple[int, float]]:
    decoder = ContinuousBatchingDecoder(opened(model))
    ticket = decoder.admit(ask())
    assert ticket is not None
    return written(decoder, [ticket])[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_who_writes_already_goes_on_bit_for_bit(family: str, tmp_path: Path) -> None:
    folders = [saved(family, tmp_path / str(seed), seed) for seed in (1, 2)]
    wanted = [alone(model_of(family)), *(alone(open_adapter(model_of(family), folder)) for folder in folders)]
    assert len({str(one) for one in wanted}) == 3
    model = model_of(family)
    decoder = ContinuousBatchingDecoder(opened(model))
    heard: dict[int, list[TokenOutput]] = {}

    def begin(adapter: str) -> int:
        ticket = decoder.admit(ask(adapter))
        assert ticket is not None
        heard[ticket] = []
        return ticket

    def go(steps: int) -> None:
        for _ in range(steps):
            for one in decoder.step():
                heard[one.ticket].append(one)

    first = begin(BASE)
    go(4)
    model = add_adapter(model, folders[0], "x")
    decoder.switch_adapters(model)
    second = begin("x")
    go(4)
    model = add_adapter(model, folders[1], "y")
    decoder.switch_adapters(model)
    third = begin("y")
    go(3)
    gone = begin("x")
    go(2)
    decoder.cancel(gone)
    go(20)
    model = remove_adapter(model, "x")
    decoder.switch_adapters(model)
    with pytest.raises(ModelError, match="no adapter 'x' is loaded"):
        decoder.admit(ask("x"))
    again = begin("y")
    go(2)
    last = begin(BASE)
    go(40)
    decoder.switch_adapters(remove_adapter(model, "y"))
    plain = begin(BASE)
    go(40)
    found = [[(one.token, one.logprob) for one in heard[at]] for at in (first, second, third, again, last, plain)]
    expected = [wanted[at] for at in (0, 1, 2, 2, 0, 0)]
    if family == "mamba":  # torch's own products: their last bits hang on where in memory a factor lies
        assert [[token for token, _ in one] for one in found] == [[token for token, _ in one] for one in expected]
        assert [p for one in found for _, p in one] == pytest.approx([p for one in expected for _, p in one], abs=1e-4)
    else:
        assert found == expected


def test_what_was_read_is_found_again_when_another_came(tmp_path: Path) -> None:
    model = model_of("llama")
    decoder = ContinuousBatchingDecoder(opened(model))
    written(decoder, [decoder.admit(ask(BASE)) or 0])
    cached = decoder.cached
    assert cached
    decoder.switch_adapters(add_adapter(model, saved("llama", tmp_path, 1), "x"))
    assert decoder.cached == cached
    ticket = decoder.admit(ask(BASE))
    assert ticket is not None
    decoder.step()
    assert decoder.cached_tokens(ticket) == 16


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ({}, True),
        ({"use_rslora": True, "r": 64, "alpha_pattern": {"q_proj": 3}}, True),
        ({"init_lora_weights": "gaussian"}, True),
        ({"init_lora_weights": "pissa"}, False),
        ({"use_dora": True}, False),
        ({"bias": "all"}, False),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"layer_replication": [[0, 1]]}, False),
        ({"target_parameters": ["experts.weight"]}, False),
        ({"trainable_token_indices": [3]}, False),
        ({"fan_in_fan_out": True}, False),
        ({"peft_type": "IA3"}, False),
        ({"of_tomorrow": True}, False),
    ],
)
def test_what_is_plain(tmp_path: Path, change: dict[str, Any], plain: bool) -> None:
    file = saved("llama", tmp_path, 1) / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert _is_plain(tmp_path) is plain


def test_what_lies_in_layers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = saved("llama", tmp_path, 1) / "adapter_model.safetensors"
    assert _is_in_layers(tmp_path)
    weights = load_file(file)
    for name in ("base_model.model.lm_head.lora_A.weight", "base_model.model.model.embed_tokens.lora_embedding_A"):
        save_file({**weights, name: torch.zeros(2, 2)}, file)
        assert not _is_in_layers(tmp_path)
    file.unlink()
    assert not _is_in_layers(tmp_path)
