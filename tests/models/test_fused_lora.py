"""LoRA as one product equals PEFT in fp32, and keeps small updates where PEFT's bf16 loses them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.models.kernels.lora import install_fused_lora, restore_peft_forward
from luthier.models.quiet import silence_peft_warnings

IDS = torch.tensor([[3, 9, 4, 1, 7], [2, 2, 8, 5, 6]])


def adapted(dtype: torch.dtype = torch.float64, bias: bool = False, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=37, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=bias, mlp_bias=bias, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    told = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **{"r": 4, **settings})
    with silence_peft_warnings():
        made = get_peft_model(model, told)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return made.to(torch.float64) if dtype == torch.float64 else made


def read(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    out = model(input_ids=IDS).logits
    torch.log_softmax(out.double(), -1)[..., 3].sum().backward()
    return out.detach(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize(
    "settings",
    [{}, {"bias": True}, {"use_rslora": True}, {"lora_dropout": 0.5}, {"bias": True, "lora_bias": True}],
    ids=["plain", "bias", "rslora", "dropout", "lora-bias"],
)
def test_it_equals_peft(settings: dict[str, Any]) -> None:
    model = adapted(**settings).eval()
    wanted, wanted_gradients = read(model)
    assert install_fused_lora(model) == 14
    for _ in range(2):
        found, gradients = read(model)
        torch.testing.assert_close(found, wanted)
        assert gradients.keys() == wanted_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted_gradients[name], msg=lambda text, name=name: f"{name}: {text}")
    restore_peft_forward(model)
    torch.testing.assert_close(read(model)[0], wanted)


def test_layers_with_the_same_input_are_read_together() -> None:
    model = adapted().eval()
    install_fused_lora(model)
    for _ in range(2):
        read(model)
    layer = model.get_base_model().model.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    assert attention.k_proj.base_layer.weight.stride(0) == 24 + 3 * 4
    assert attention.o_proj.base_layer.weight.stride(0) == 24 + 4
    assert mlp.up_proj.base_layer.weight.stride(0) == 24 + 2 * 4
    x = torch.randn(3, 24, dtype=torch.float64)
    alone = [attention.q_proj(x), attention.k_proj(2 * x), attention.v_proj(x.clone())]
    for projection, given, found in zip("qkv", (x, 2 * x, x), alone, strict=True):
        layer = getattr(attention, f"{projection}_proj")
        torch.testing.assert_close(found, type(layer).forward(layer, given))
    attention.k_proj.lora_A["default"].weight.data.mul_(2)
    torch.testing.assert_close(attention.k_proj(x), type(layer).forward(attention.k_proj, x))


def test_frozen_weights_move_once_and_leave_where_they_were() -> None:
    """Into the joint matrices in the second pass, past which nothing holds the file that weights were mapped from."""
    model = adapted().eval()
    frozen = {name: one for name, one in model.named_parameters() if not one.requires_grad}
    before = {name: one.untyped_storage().data_ptr() for name, one in frozen.items()}
    install_fused_lora(model)
    still = {name for name, one in frozen.items() if one.untyped_storage().data_ptr() == before[name]}
    assert still == {name for name in frozen if "base_layer.weight" in name}
    read(model)
    assert all(frozen[name].untyped_storage().data_ptr() == before[name] for name in still)
    read(model)
    assert not [name for name, one in frozen.items() if one.untyped_storage().data_ptr() == before[name]]


def test_adapters_of_other_ranks_and_other_layers_speak_in_turn() -> None:
    model = adapted(r=3).eval()
    for name, told in {
        "wide": LoraConfig(r=9, lora_alpha=5, target_modules="all-linear"),
        "few": LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj", "up_proj"]),
        "more": LoraConfig(r=2, target_modules=["k_proj", "down_proj"]),
    }.items():
        with silence_peft_warnings():
            model.add_adapter(name, told)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.double().requires_grad_(requires_grad=False)
    turns = ["default", "wide", "few", "default", "more", "few", "wide", "wide", "more", "default"]
    wanted = {}
    for name in dict.fromkeys(turns):
        model.set_adapter(name, inference_mode=True)
        wanted[name] = model(input_ids=IDS).logits
    model.set_adapter("few", inference_mode=True)
    assert install_fused_lora(model) == 14
    assert install_fused_lora(model) == 0
    for name in turns:
        model.set_adapter(name, inference_mode=True)
        for _ in range(2):
            torch.testing.assert_close(model(input_ids=IDS).logits, wanted[name])
    assert not torch.allclose(wanted["wide"], wanted["few"])


def test_dropout_and_switched_off_adapters_take_pefts_own_way() -> None:
    model = adapted(lora_dropout=0.5).train()
    with torch.no_grad(), model.disable_adapter():
        wanted = model(input_ids=IDS).logits
    install_fused_lora(model)
    assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    with torch.no_grad(), model.disable_adapter():
        torch.testing.assert_close(model(input_ids=IDS).logits, wanted)


def test_other_adapters_are_left_alone() -> None:
    assert install_fused_lora(adapted(use_dora=True)) == 0


def test_merging_still_works() -> None:
    model = adapted().eval()
    install_fused_lora(model)
    wanted = read(model)[0]
    restore_peft_forward(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS).logits, wanted)


def test_small_updates_survive_bf16() -> None:
    """Summed over many tokens, a delta far below the output's rounding is kept by one product and lost by two."""
    torch.manual_seed(0)
    base = torch.nn.Linear(64, 64, bias=False).to(torch.bfloat16)
    with silence_peft_warnings():
        model = get_peft_model(torch.nn.Sequential(base), LoraConfig(r=4, target_modules=["0"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.02)
    x = torch.randn(4096, 64).to(torch.bfloat16)
    layer = model.base_model.model[0]
    delta = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double() * 2
    exact = x.double() @ (base.weight.double() + delta).t()
    two = (model(x).double() - exact).norm()
    assert install_fused_lora(model) == 1
    one = (model(x).double() - exact).norm()
    assert one < 0.8 * two
