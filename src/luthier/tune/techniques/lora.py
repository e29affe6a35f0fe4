"""LoRA: a low-rank product beside frozen linear layers, in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from luthier.core.errors import ModelError, Where, did_you_mean
from luthier.models.describe import Description, training_memory
from luthier.models.quiet import no_peft_warning
from luthier.tune.technique import Choice, Rate, Technique, rate_for_width, write_settings

BEST_RATE = 5e-4
"""Ten times full fine-tuning's best rate, at a width of 2,000 (Schulman et al., "LoRA Without Regret", 2025)."""
HEAD_ROWS = 256
"""Positions at which the output head runs at once."""


class Lora(Technique):
    """Low-rank adapters beside frozen weights: little memory, small files, nearly full quality (Hu et al., 2021)."""

    kind: Literal["lora"] = "lora"

    r: int = Field(default=16, ge=1, le=1024)
    """Rank: how much an adapter can hold. 16 suffices for classification and style (Hu et al. saw little beyond 8;
    "LoRA Without Regret" sees none on small sets); 64 to 256 for much new knowledge."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the adapter's output is multiplied by alpha / r. 32 with r 16 is the literature's usual pair."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter, or all linear ones except the output head: adapters on the MLP layers
    matter more than those on attention (QLoRA, Dettmers et al., 2023; "LoRA Without Regret")."""
    rslora: bool = False
    """Scale by alpha / √r instead, so that high ranks go on learning (Kalajdzievski, 2023)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's input that is dropped while training. 0 is quickest; 0.05 to 0.1 for very small sets."""

    @field_validator("targets")
    @classmethod
    def _some_targets(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or (isinstance(value, str) and value != "all-linear"):
            raise ValueError("wanted 'all-linear' or a list of layer names such as [q_proj, v_proj]")
        return tuple(sorted(set(value))) if isinstance(value, tuple) else value

    def adapt(self, model: Any, seed: int) -> Any:
        """PEFT's model with fresh fp32 adapters: A random from the seed, B zero."""
        import torch
        from peft import LoraConfig, get_peft_model

        self._check(model)
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            use_rslora=self.rslora,
            lora_dropout=self.dropout,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), no_peft_warning():
            torch.manual_seed(seed)
            return get_peft_model(model, config, autocast_adapter_dtype=True)

    def _check(self, model: Any) -> None:
        """Refuse names that no linear layer of the model has."""
        import torch

        if isinstance(self.targets, str):
            return
        linear = (torch.nn.Linear, *_other_linear())
        known = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, linear)}
        for name in self.targets:
            if name.rpartition(".")[2] not in known:
                where = Where(field="technique.targets")
                raise ModelError(f"no linear layer is called {name!r}", where=where, remedy=did_you_mean(name, known))

    def trainable(self, model: Description) -> int:
        """Rank times (inputs + outputs) of every adapted layer of a gated transformer."""
        q, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
        wide, narrow = model.intermediate_size, model.hidden_size
        sides = {
            "q_proj": narrow + q,
            "k_proj": narrow + kv,
            "v_proj": narrow + kv,
            "o_proj": q + narrow,
            "gate_proj": narrow + wide,
            "up_proj": narrow + wide,
            "down_proj": wide + narrow,
        }
        chosen = sides.keys() if isinstance(self.targets, str) else self.targets
        return self.r * model.layers * sum(sides.get(name.rpartition(".")[2], narrow + wide) for name in chosen)

    def footprint(self, model: Description, tokens: int) -> int:
        """Frozen weights, fp32 adapters with AdamW, and what autograd keeps of one pack."""
        return training_memory(model, "lora", self.trainable(model), tokens, head_rows=HEAD_ROWS).total

    def rate(self, hidden_size: int) -> Rate:
        """Ten times what full fine-tuning takes, by the width of the model."""
        value = rate_for_width(BEST_RATE, hidden_size)
        return Rate(value, f"LoRA on a model {hidden_size} wide; ten times full fine-tuning's, falling with width")

    def space(self) -> Mapping[str, Choice]:
        """Rank and learning rate matter; the rest hardly does."""
        return {"learning_rate": Choice(1e-4, 5e-3, log=True), "r": Choice(values=(8, 16, 32, 64))}

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """`adapter/` as PEFT reads it."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        place = folder / "adapter"
        place.mkdir()
        weights = get_peft_model_state_dict(model)
        save_file(
            {key: value.detach().contiguous() for key, value in weights.items()}, place / "adapter_model.safetensors"
        )
        settings = model.peft_config[model.active_adapter].to_dict()
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
        write_settings(
            place / "adapter_config.json", {**plain, "base_model_name_or_path": name, "inference_mode": True}
        )


def _other_linear() -> tuple[type, ...]:
    from transformers.pytorch_utils import Conv1D

    return (Conv1D,)
