"""A model that does not stand on the CPU: what a step reads follows it, what it gathers stays beside it.

No GPU is needed: tensors on torch's `meta` device have shapes only, and refuse to meet those of another device.
"""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from luthier.models.kernels.lora import install_fused_lora
from luthier.models.packing import logprobs
from luthier.models.packing.head import LogitTransform, OutputHead
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.tune.objectives.sft import Sft
from luthier.tune.optimizers.adamw import AdamW
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer, OptimizerSettings
from luthier.tune.training.pack_gradient import PackGradientComputer

ELSEWHERE = torch.device("meta")
TINY = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


def elsewhere(dtype: torch.dtype) -> torch.nn.Module:
    """A tiny model with LoRA, moved as a whole."""
    model = Lora(r=4).adapt(AutoModelForCausalLM.from_config(TINY).to(dtype), 0).to(ELSEWHERE)
    install_fused_lora(model)
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("quick", [True, False])
def test_all_that_a_step_reads_follows_the_model(
    dtype: torch.dtype, quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = elsewhere(dtype)
    head = OutputHead(model.get_output_embeddings(), LogitTransform())
    found = logprobs.ForwardMode(packed=True, why="", head=head)
    monkeypatch.setattr(logprobs, "_find_out", lambda model: found)  # what a probe would tell cannot be read here
    updater = MixedPrecisionOptimizer(model, OptimizerSettings(optimizer=AdamW(), clip=1.0))
    made = build_pack([TokenRow([1] * 20 + [2 + at] * 5 + [9], [0.0] * 25 + [1.0], str(at)) for at in range(3)])
    assert logprobs.compute_pack_logprobs(model, made, quick=quick).device == ELSEWHERE
    read = PackGradientComputer(model, Sft(), updater).read(made, 3.0)
    moved = [gradient for gradient in read.gradients if gradient is not None]
    assert len(moved) == 2 * 7 * TINY.num_hidden_layers
    updater.gather(read.gradients)
    assert read.total.device == ELSEWHERE


def test_a_state_from_the_disk_goes_where_the_masters_are() -> None:
    updater = MixedPrecisionOptimizer(elsewhere(torch.bfloat16), OptimizerSettings(optimizer=AdamW(), clip=None))
    here = MixedPrecisionOptimizer(
        Lora(r=4).adapt(AutoModelForCausalLM.from_config(TINY).to(torch.bfloat16), 0),
        OptimizerSettings(optimizer=AdamW(), clip=None),
    )
    updater.restore(here.state())
    masters = [value for name, value in updater.state().items() if name.startswith("master/")]
    assert masters
    assert all(value.device == ELSEWHERE for value in masters)
