"""LoRA: a trained low-rank update of frozen linear layers, in PEFT's format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.models.describe import ModelDescription, estimate_training_memory
from luthier.models.shapes import ADAPTED_EXPERTS
from luthier.tune.low_rank import HEAD_ROWS, LowRankTechnique
from luthier.tune.technique import adapter_weights, write_adapter

if TYPE_CHECKING:
    from luthier.models.packing.pack import Pack

Start = Literal["default", "gaussian", "olora", "pissa", "eva"]
_BEGUN = "luthier_begun"
"""Attribute of an adapted model: initial factors that were subtracted from the base weights."""
WATCHED = 1024
"""Tokens of each layer's input that EVA collects: enough for the directions of ranks up to 64 to settle."""
_APART = 4 / 7
"""Share of layers with an input of their own: q, k and v share one, gate and up another."""
_DIRECTIONS_S = 5e-7
"""Seconds to find the directions of one input, per squared size of the input or of the tokens."""
_OF_PEFT: dict[Start, str | bool] = {
    "default": True, "gaussian": "gaussian", "olora": "olora", "pissa": "pissa_niter_16", "eva": True,
}  # fmt: skip


class Lora(LowRankTechnique):
    """Low-rank adapters beside frozen weights: little memory, small files, nearly full quality (Hu et al., 2021)."""

    kind: Literal["lora"] = "lora"

    use_dora: bool = False
    """Train the magnitude of each row of a weight separately from its direction (DoRA, Liu et al., 2024): better at low
    ranks, about twice as slow, and its small updates are rounded away where the model computes in bfloat16 (plain
    LoRA's are not), so set `dtype: float32` with it."""
    init_lora_weights: Start = "default"
    """Initialization of the factors. `default`: A random, B zero (Hu et al.). `gaussian`: the same, A normal. `pissa`:
    the largest singular directions of each weight, which train faster (Meng et al., 2024); `olora`: its QR factors
    (Büyükakyüz, 2024); both are subtracted from the base during training, and the adapter is saved with twice the rank,
    over the unchanged base. `eva`: the principal directions of each layer's inputs in the first rows (Paischer et al.,
    2024), with the same rank everywhere."""

    def adapt(self, model: Any, seed: int) -> Any:
        """Return PEFT's model with fresh fp32 adapters; only `pissa` and `olora` start with a nonzero B."""
        self.check_targets(_linear_names(model))
        more: dict[str, Any] = {"init_lora_weights": _OF_PEFT[self.init_lora_weights], "use_dora": self.use_dora}
        adapted = self.wrap(model, seed, **more)
        if self.init_lora_weights in ("pissa", "olora"):
            setattr(adapted, _BEGUN, {key: value.detach().clone() for key, value in _factors(adapted).items()})
        return adapted

    def begin(self, model: Any, packs: Iterator[Pack]) -> None:
        """Initialize EVA from the first packs; nothing else needs them."""
        if self.init_lora_weights == "eva":
            from luthier.tune.eva import initialize_with_eva

            initialize_with_eva(model, packs, self.r)

    def before_s(self, model: ModelDescription) -> float:
        """Return the predicted seconds in which EVA finds directions."""
        sizes = (
            [min(layer_spec.inputs, WATCHED) for layer_spec in self.adapted(model)]
            if self.init_lora_weights == "eva"
            else []
        )
        return _APART * sum(_DIRECTIONS_S * size**2 for size in sizes)

    def refuses(self, objective: str, model: ModelDescription) -> str:
        """Refuse fused experts outside PEFT's plain LoRA, and ranks above the smaller side of a weight."""
        if why := super().refuses(objective, model):
            return why
        if model.model_type in ADAPTED_EXPERTS and isinstance(self.target_modules, str):
            unusual = (
                "use_dora"
                if self.use_dora
                else f"init_lora_weights {self.init_lora_weights}"
                if self.init_lora_weights != "default"
                else ""
            )
            if unusual:
                return f"{unusual} cannot be had for the fused experts of {model.model_type}; name attention layers"
        if self.init_lora_weights in ("pissa", "olora") and self.at_tied_head(model):
            start = f"init_lora_weights {self.init_lora_weights}"
            return f"{start} takes directions out of each weight, and the output head is the embeddings, too"
        if self.init_lora_weights in ("pissa", "olora") and model.tensors:
            sides = {layer_spec.name: min(layer_spec.inputs, layer_spec.outputs) for layer_spec in self.adapted(model)}
            least = min(sides, key=sides.__getitem__, default="")
            if least and sides[least] < self.r:
                start = f"init_lora_weights {self.init_lora_weights}"
                return f"{start} takes r {self.r} directions of each weight, and {least} has {sides[least]}"
        return ""

    def trainable(self, model: ModelDescription) -> int:
        """Return the factors of every adapted layer, and with DoRA one magnitude for each of its outputs."""
        return super().trainable(model) + (
            sum(layer_spec.outputs for layer_spec in self.adapted(model)) if self.use_dora else 0
        )

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return frozen weights, fp32 adapters with AdamW, and autograd's saved tensors of one pack.

        DoRA also keeps each layer's input and its adapter's output in fp32, and builds one layer's whole update at a
        time.
        """
        total = estimate_training_memory(model, "lora", self.trainable(model), tokens, head_rows=HEAD_ROWS).total
        if self.use_dora:
            layers = self.adapted(model)
            total += tokens * sum(4 * layer.inputs + 6 * layer.outputs for layer in layers)
            total += 12 * max((layer.inputs * max(layer.inputs, layer.outputs) for layer in layers), default=0)
        return total

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write `adapter/` in PEFT's format, over the unchanged base."""
        initial_weights = getattr(model, _BEGUN, None)
        if initial_weights is None:
            write_adapter(model, folder, name, init_lora_weights=True)
            return
        grown = self.lora_alpha * (math.sqrt(2) if self.use_rslora else 2)  # the same scale at twice the rank
        both = _without_base(adapter_weights(model), initial_weights)
        write_adapter(model, folder, name, both, r=2 * self.r, lora_alpha=grown, init_lora_weights=True)


def _linear_names(model: Any) -> set[str]:
    """Return the last components of the names of linear layers."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    return {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kinds)}


def _factors(model: Any) -> dict[str, Any]:
    return {key: value for key, value in adapter_weights(model).items() if ".lora_A." in key or ".lora_B." in key}


def _without_base(weights: dict[str, Any], initial_weights: dict[str, Any]) -> dict[str, Any]:
    """Return B A - B0 A0 as one adapter of twice the rank: [B | -B0] · [A ; A0]."""
    import torch

    stacked = dict(weights)
    for key, first in initial_weights.items():
        down = ".lora_A." in key
        stacked[key] = torch.cat([weights[key], first if down else -first], 0 if down else 1)
    return stacked
