"""Packed weights are NF4 and int8 as everybody has them; LoRA over them is exact, and nothing whole lives beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import norm
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.models.describe import describe_model_folder
from luthier.models.generate import score_with_sequence_head
from luthier.models.load import load_model, merge_adapter, open_folder, open_merged
from luthier.models.quantization import (
    GROUPS,
    NF4,
    TYPES,
    QuantizedLinear,
    QuantizedLoraLinear,
    ScratchBuffer,
    _Quantizer,
    dequantize,
    dequantize_blocks,
    dequantize_with_torch,
    get_library_dequantizer,
    is_quantized,
    quantize,
    quantize_blocks,
)
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import add_sequence_head
from luthier.models.source import QuantizationScheme
from luthier.tune.techniques.qlora import Qlora
from models.making import other_model, tiny_adapter, tiny_base
from tiny_models import tiny_model

IDS = torch.tensor([[3, 9, 4, 1, 7], [2, 2, 8, 5, 6]])


def test_the_levels_are_quantiles_of_a_normal_distribution() -> None:
    """The paper's construction: 8 quantiles above zero, 7 below, zero itself, scaled to 1."""
    offset = 0.9677083
    above = norm.ppf(torch.linspace(offset, 0.5, 9)[:-1].numpy())
    below = -norm.ppf(torch.linspace(offset, 0.5, 8)[:-1].numpy())
    wanted = torch.tensor(sorted([*above, 0.0, *below])) / max(above)
    torch.testing.assert_close(torch.tensor(NF4), wanted.float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("numbers", [256, 250])
def test_four_bits_are_laid_out_as_in_bitsandbytes(numbers: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, numbers // 2)
    codes, scales = quantize_blocks(weight, QuantizationScheme(4, 64))
    found = dequantize_blocks(codes, scales, QuantizationScheme(4, 64))[:numbers]
    flat = weight.flatten()
    for at in range(numbers):
        scale = flat[at // 64 * 64 : (at // 64 + 1) * 64].abs().max()
        nearest = min(range(16), key=lambda code, at=at, scale=scale: abs(NF4[code] - float(flat[at] / scale)))
        byte = int(codes[at // 2])
        assert (byte >> 4 if at % 2 == 0 else byte & 15) == nearest
        assert float(found[at]) == pytest.approx(NF4[nearest] * float(scale), abs=1e-6)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_bitsandbytes_brings_back_the_same_bits(group: int, dtype: torch.dtype) -> None:
    """Where the extra is installed; on this processor, which stands for those with other kernels."""
    pytest.importorskip("bitsandbytes", reason="the extra bitsandbytes is not installed")
    quick = get_library_dequantizer(torch.device("cpu"), dtype, group)
    assert quick is not None
    for inputs, outputs in ((group, 3), (2 * group, 700)):
        codes, scales = quantize_blocks(torch.randn(outputs, inputs), QuantizationScheme(4, group))
        assert torch.equal(quick(codes, scales), dequantize_with_torch(codes, scales).to(dtype))


def test_bitsandbytes_is_asked_for_what_it_has_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert get_library_dequantizer(cpu, torch.float64, 64) is None
    assert get_library_dequantizer(cpu, torch.float32, 48) is None
    monkeypatch.setattr("luthier.models.quantization.find_spec", lambda name: None)
    assert get_library_dequantizer.__wrapped__(cpu, torch.float32, 64) is None


def test_eight_bits_are_within_half_a_step() -> None:
    weight = torch.randn(6, 40)
    codes, scales = quantize_blocks(weight, QuantizationScheme(8, 40))
    found = dequantize_blocks(codes, scales, QuantizationScheme(8, 40)).view(6, 40)
    assert ((found - weight).abs() <= scales[:, None] / 254 * 1.0001).all()
    assert not quantize_blocks(torch.zeros(2, 40), QuantizationScheme(8, 40))[0].any()


def adapted(scheme: QuantizationScheme, dtype: torch.dtype, inputs: int = 48) -> tuple[Any, Any]:
    """A packed layer with an adapter, and PEFT's own over the same numbers."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs, 40).to(dtype)
    packed = QuantizedLinear(layer, scheme, ScratchBuffer())
    packed.take(layer.weight.data)
    ours, theirs = torch.nn.Sequential(packed), torch.nn.Sequential(packed.plain(dtype))
    made = []
    for model, layers in ((ours, {QuantizedLinear: QuantizedLoraLinear}), (theirs, {})):
        config = LoraConfig(r=4, target_modules=["0"])
        config._register_custom_module(layers)
        with silence_peft_warnings():
            made.append(get_peft_model(model, config))
    torch.manual_seed(1)
    factors = [torch.randn(4, inputs) * 0.05, torch.randn(40, 4) * 0.05]
    for model in made:
        moving = [one for name, one in model.named_parameters() if "lora" in name]
        for parameter, value in zip(moving, factors, strict=True):
            parameter.data = value.to(torch.float64 if dtype == torch.float64 else torch.float32)
    return made[0], made[1]


def read(model: Any, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_(True)
    out = model(x)
    out.sin().sum().backward()
    return [out.detach(), x.grad, *(one.grad for name, one in model.named_parameters() if "lora" in name)]


@pytest.mark.parametrize("inputs", [48, 45])
@pytest.mark.parametrize("bits", [4, 8])
def test_lora_over_packed_weights_equals_lora_over_what_they_stand_for(bits: Any, inputs: int) -> None:
    ours, theirs = adapted(QuantizationScheme(bits, 16), torch.float64, inputs)
    x = torch.randn(2, 7, inputs, dtype=torch.float64)
    for one, other in zip(read(ours, x), read(theirs, x), strict=True):
        torch.testing.assert_close(one, other)
    with ours.disable_adapter(), theirs.disable_adapter():
        found = [x.clone().requires_grad_(True) for _ in range(2)]
        for model, given in zip((ours, theirs), found, strict=True):
            model(given).sin().sum().backward()
        torch.testing.assert_close(found[0].grad, found[1].grad)


def test_small_updates_survive_bf16() -> None:
    ours, theirs = adapted(QuantizationScheme(4, 16), torch.bfloat16)
    layer = theirs.base_model.model[0]
    delta = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double() * 2
    x = torch.randn(4096, 48).to(torch.bfloat16)
    exact = x.double() @ (layer.base_layer.weight.double() + delta).t() + layer.base_layer.bias.double()
    one, two = ((model(x).double() - exact).norm() for model in (ours, theirs))
    assert one < 0.8 * two


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_models_are_packed_as_they_are_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64} if kind == "gpt2" else {}
    place = other_model(tmp_path / "model", kind, **gpt)
    whole = [0]
    take = QuantizedLinear.take

    def watched(self: QuantizedLinear, weight: Tensor) -> None:
        take(self, weight)
        whole.append(sum(one.numel() for one in models[0].parameters() if one.device.type != "meta"))

    models: list[Any] = []
    monkeypatch.setattr(QuantizedLinear, "take", watched)
    before = _Quantizer._process_model_before_weight_loading
    monkeypatch.setattr(
        _Quantizer,
        "_process_model_before_weight_loading",
        lambda self, model, **more: (models.append(model), before(self, model, **more))[1],
    )
    scheme = QuantizationScheme(4, 16)
    model = open_folder(place, torch.float32, scheme)
    kept = sum(one.numel() for one in model.parameters())
    assert (
        max(whole)
        <= kept
        < describe_model_folder(place).parameters / 2 + describe_model_folder(place).embedding_parameters
    )
    plain = open_folder(place, torch.float32)
    dequantize(quantize(plain, scheme), torch.float32)
    assert not is_quantized(plain)
    torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    narrow = open_folder(place, torch.bfloat16, scheme)
    for one, other in zip(_packed(model), _packed(narrow), strict=True):
        assert torch.equal(one.qweight, other.qweight)
        assert torch.equal(one.scale_bits, other.scale_bits)


def test_a_sequence_head_stays_whole(tmp_path: Path) -> None:
    place = other_model(tmp_path / "model", "llama")
    headed = add_sequence_head(open_folder(place, torch.float32), ["no", "yes"])
    headed.score.weight.data.normal_()
    headed.save_pretrained(place)
    model = open_folder(place, torch.float32, QuantizationScheme(8, 16))
    assert _packed(model)
    assert torch.equal(model.score.weight, headed.score.weight)
    (wanted,), (found,) = (score_with_sequence_head(one, [IDS[0].tolist()]) for one in (headed, model))
    assert found == pytest.approx(wanted, abs=0.05)
    assert torch.equal(quantize(headed, QuantizationScheme(8, 16)).score.weight, model.score.weight)


def _packed(model: Any) -> list[QuantizedLinear]:
    return [module for module in model.modules() if isinstance(module, QuantizedLinear)]


def test_merging_is_refused_unless_the_weights_are_brought_back(tmp_path: Path) -> None:
    model = Qlora(r=2).adapt(open_folder(tiny_model(tmp_path / "model"), torch.float32), 1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    wanted = model(input_ids=IDS).logits
    for refused in (lambda: merge_adapter(model, tmp_path), model.merge_and_unload):
        with pytest.raises(ModelError, match="over quantized weights"):
            refused()
    torch.testing.assert_close(merge_adapter(model, tmp_path, dequantize=True)(input_ids=IDS).logits, wanted)


def test_an_adapter_may_be_quantized_under_another(tmp_path: Path) -> None:
    store, base = tiny_base(tmp_path)
    adapter = tiny_adapter(store, base)
    technique = Qlora(bits=8, group=16)
    model = technique.adapt(technique.open(adapter, torch.float32), 1)
    whole = open_merged(adapter, torch.float32)
    torch.testing.assert_close(model(input_ids=IDS).logits, whole(input_ids=IDS).logits, atol=0.05, rtol=0.05)
    assert load_model(adapter, "float32").model(input_ids=IDS).logits.shape == model(input_ids=IDS).logits.shape
