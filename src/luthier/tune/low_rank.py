"""The base of LoRA over plain and over quantized weights: a low-rank update of frozen layers, in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from luthier.core.component import BasicMarker
from luthier.core.errors import ModelError, SourceLocation, did_you_mean
from luthier.core.param_space import ParamDistribution
from luthier.core.step import Merging
from luthier.models.describe import ModelDescription
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import get_peft_task_type
from luthier.models.shapes import (
    ADAPTED_EXPERTS,
    PROJECTOR_VECTORS,
    PROJECTORS,
    LinearLayerSpec,
    ModelPart,
    count_expert_lora_parameters,
    count_frozen_expert_parameters,
    find_part,
    is_head,
    parameter_sizes,
    select_target_layers,
)
from luthier.tune.technique import LearningRate, Technique, scale_rate_to_width

BEST_RATE = 5e-4
"""Ten times full fine-tuning's best rate, at a width of 2,000 (Schulman et al., "LoRA Without Regret", 2025)."""
WHOLE_SHARE = 0.1
"""Learning rate of a projector, which is trained fully, over that of the adapters: full fine-tuning's rate is a tenth
of LoRA's. At LoRA's own rate one step undid what a trained projector knew (`benchmarks/results/multimodal.txt`)."""
HEAD_ROWS = 256
"""Positions for which the output head computes logits at once."""
_WITH_B = (".lora_B.", ".lora_magnitude_vector.")


class LowRankTechnique(Technique):
    """The base of low-rank adapter techniques (LoRA and its variants) with their common settings."""

    other_names: ClassVar[Mapping[str, str]] = {
        "rank": "r",
        "lora_r": "r",
        "lora_rank": "r",
        "lora_target_modules": "target_modules",
        "lora_target": "target_modules",
    }
    r: Annotated[int, BasicMarker()] = Field(default=16, ge=1, le=1024)
    """Rank: how much an adapter can hold. 16 suffices for classification and style (Hu et al. saw little beyond 8;
    "LoRA Without Regret" sees none on small sets); 64 to 256 for much new knowledge."""
    lora_alpha: Annotated[float, BasicMarker()] = Field(default=32.0, gt=0)
    """Scale: the adapter's output is multiplied by alpha / r. 32 with r 16 is the literature's usual pair."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter, or all linear ones except the output head: adapters on the MLP layers
    matter more than those on attention (QLoRA, Dettmers et al., 2023; "LoRA Without Regret")."""
    on: tuple[ModelPart, ...] = ("language", "projector")
    """Which parts of a model that reads pictures or sounds move: its decoder (`language`) and its encoders (`vision`,
    `audio`) by adapters, the `projector` between them whole. A model of text alone has one part, and this is left
    out."""
    use_rslora: bool = False
    """Scale by alpha / √r instead, so that high ranks go on learning (Kalajdzievski, 2023)."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's input that is dropped while training. 0 is quickest; 0.05 to 0.1 for very small sets."""
    loraplus_lr_ratio: float = Field(default=1.0, ge=1, le=64)
    """LoRA+: how many times quicker B learns than A, and with it DoRA's lengths, as in PEFT. 16 is what Hayou et al.
    (2024) recommend, and they saw 1 to 2 % better results, sooner, on hard tasks; 1 is plain LoRA. With `learning_rate:
    auto` A then learns √16 times slower and B √16 times quicker than LoRA does, so that the adapter as a whole keeps
    its pace."""

    @field_validator("target_modules")
    @classmethod
    def _some_targets(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or (isinstance(value, str) and value != "all-linear"):
            raise ValueError("expected 'all-linear' or a list of layer names such as [q_proj, v_proj]")
        return tuple(sorted(set(value))) if isinstance(value, tuple) else value

    @field_validator("on")
    @classmethod
    def _some_parts(cls, value: tuple[ModelPart, ...]) -> tuple[ModelPart, ...]:
        if set(value) <= {"projector"}:
            raise ValueError("adapters stand in language, vision or audio; `technique: layers` moves a projector alone")
        return tuple(sorted(set(value)))

    def refuses(self, objective: str, model: ModelDescription) -> str:
        """Refuse parts that a text model does not have."""
        if set(self.on) != {"language", "projector"} and model.tensors and not model.reads_media:
            return "the model reads text alone and has no parts; leave `on` out"
        missing = [part for part in self.on if part != "projector" and model.parts and not model.parts.get(part)]
        return f"the model has no part {missing[0]!r}; its parts are {', '.join(model.parts)}" if missing else ""

    def wrap(self, model: Any, seed: int, register: Any = None, **more: Any) -> Any:
        """Return PEFT's model with fresh fp32 adapters from the seed.

        `more` goes to its configuration. `register` maps layer types that PEFT does not know to adapters for them.
        """
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        settings = {
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "target_modules": self.target_modules
            if isinstance(self.target_modules, str)
            else list(self.target_modules),
            "use_rslora": self.use_rslora,
            "exclude_modules": [*_routers(model), *self._left_out(model)] or None,
            "modules_to_save": self._list_full_modules(model) or None,
            "lora_dropout": self.lora_dropout,
            "fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()),
            "task_type": get_peft_task_type(model),
        }
        config = LoraConfig(**{**settings, **more})
        if register:
            config._register_custom_module(register)
        with torch.random.fork_rng(devices=[]), silence_peft_warnings():
            torch.manual_seed(seed)
            try:
                return get_peft_model(model, config, autocast_adapter_dtype=True)
            except ValueError as error:
                hint = "name other layers in technique.target_modules, or take another technique"
                raise ModelError(f"PEFT cannot adapt this model: {error}", hint=hint) from error

    def _left_out(self, model: Any) -> list[str]:
        """Return the linear layers of the parts that get no adapter."""
        import torch

        modules = list(model.named_modules())
        parts = {part for part in self.on if part != "projector"}
        left = [
            name for name, module in modules if isinstance(module, torch.nn.Linear) and find_part(name) not in parts
        ]
        if not left or model.config.model_type not in ADAPTED_EXPERTS:
            return left
        numbered = (name for name, module in modules if not isinstance(module, torch.nn.Linear))
        return left + [name for name in numbered if name.rpartition(".")[2].isdigit()]  # which PEFT takes for a target

    def _list_full_modules(self, model: Any) -> list[str]:
        """Return the modules that are trained fully and saved with the adapter: the projectors."""
        if "projector" not in self.on:
            return []
        import torch

        names: set[str] = set()
        for name, module in model.named_modules():
            if (own := name.rpartition(".")[2]) in PROJECTORS:
                several = isinstance(module, torch.nn.ModuleList)  # PEFT saves modules, and no lists of them
                names |= {f"{own}.{at}" for at in range(len(module))} if several else {own}
        return sorted(names)

    def check_targets(self, known: set[str]) -> None:
        """Refuse names that no linear layer of the model has."""
        for name in () if isinstance(self.target_modules, str) else self.target_modules:
            if name.rpartition(".")[2] not in known:
                where = SourceLocation(field="technique.target_modules")
                raise ModelError(f"no linear layer is called {name!r}", where=where, hint=did_you_mean(name, known))

    def adapted(self, model: ModelDescription) -> list[LinearLayerSpec]:
        """Return the layers that get an adapter."""
        parts = tuple(part for part in self.on if part != "projector") if model.parts else ("language",)
        return select_target_layers(model, self.target_modules, parts)

    def trainable(self, model: ModelDescription) -> int:
        """Return rank times (inputs + outputs) over all adapted layers, from the headers of the weights."""
        layers = sum(layer_spec.inputs + layer_spec.outputs for layer_spec in self.adapted(model))
        if "projector" in self.on:
            sizes = parameter_sizes(model).items()
            whole = sum(
                numbers
                for name, numbers in sizes
                if find_part(name) == "projector" and name.rpartition(".")[2] not in PROJECTOR_VECTORS
            )
            return whole + self.r * layers + count_expert_lora_parameters(model, self.target_modules, self.r)
        return self.r * layers + count_expert_lora_parameters(model, self.target_modules, self.r)

    def warning(self, model: ModelDescription) -> str:
        """Warn of experts without adapters, and of adapters that cannot be merged."""
        if self.at_tied_head(model):
            return "the output head is one with the embeddings: what is learnt there stays an adapter and never merges"
        share = count_frozen_expert_parameters(model) / max(1, model.parameters)
        return (
            f"the experts, {share:.0%} of this model's numbers, get no adapter (PEFT has none for them)"
            if share
            else ""
        )

    def merges(self, model: ModelDescription | None) -> Merging:
        """Return that an adapter on a head tied to the embeddings cannot be merged: it would change them, too."""
        return "tied" if model is not None and self.at_tied_head(model) else self.merging

    def at_tied_head(self, model: ModelDescription) -> bool:
        """Return whether the output head gets an adapter although its weight is tied to the embeddings."""
        return model.tied and any(is_head(layer_spec.name) for layer_spec in self.adapted(model))

    def rate(self, hidden_size: int) -> LearningRate:
        """Return ten times the rate of full fine-tuning, by the width of the model; LoRA+ divides it
        between A and B.
        """
        value = scale_rate_to_width(BEST_RATE, hidden_size)
        why = f"LoRA, hidden size {hidden_size}; ten times the rate of full fine-tuning, lower for larger hidden sizes"
        if self.loraplus_lr_ratio == 1:
            return LearningRate(value, why)
        return LearningRate(
            float(f"{value / self.loraplus_lr_ratio**0.5:.3g}"),
            f"{why}; A's, B learns {self.loraplus_lr_ratio:g} times quicker",
        )

    def rate_of(self, name: str) -> float:
        """Return the rate factor of B and of DoRA's magnitudes, which Hayou et al. and PEFT treat like B; less for a
        projector.
        """
        if find_part(name) == "projector" and not any(part in name for part in ("lora_", *_WITH_B)):
            return WHOLE_SHARE
        return self.loraplus_lr_ratio if any(part in name for part in _WITH_B) else 1.0

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Rank and learning rate; the rest hardly matters."""
        return {
            "learning_rate": ParamDistribution(1e-4, 5e-3, log=True),
            "r": ParamDistribution(values=(8, 16, 32, 64)),
        }


def _routers(model: Any) -> list[str]:
    """Return routers that are linear layers with extra outputs (Llama 4's returns two tensors), which PEFT takes for
    plain ones.
    """
    import torch

    return sorted(
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and type(module).__name__.endswith("Router")
    )
