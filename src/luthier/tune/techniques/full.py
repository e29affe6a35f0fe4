"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from luthier.core.param_space import ParamDistribution
from luthier.models.describe import ModelDescription, estimate_training_memory
from luthier.models.shapes import is_fixed_position, parameter_sizes
from luthier.tune.model_files import write_full_model
from luthier.tune.technique import LearningRate, Technique, scale_rate_to_width

BEST_RATE = 5e-5
"""At a width of 2,000 (Schulman et al., "LoRA Without Regret", 2025)."""
HEAD_ROWS = 256
"""Positions for which the output head computes logits at once."""


class FullFineTuning(Technique):
    """Every weight moves, embeddings included: the most a model can learn, at four times the memory of its weights."""

    kind: Literal["full"] = "full"

    embeddings: bool = True
    """Whether the token embeddings (and a head tied to them) are trained too. Freezing them saves memory and keeps rare
    words as they were; train them when the data is in a language or script that is new to the model."""

    def adapt(self, model: Any, seed: int) -> Any:
        """Enable gradients for the whole model."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not is_fixed_position(name))
        if not self.embeddings:
            model.get_input_embeddings().weight.requires_grad_(False)
        return model

    def trainable(self, model: ModelDescription) -> int:
        """Return all parameters, or all but the embeddings."""
        fixed = sum(numbers for name, numbers in parameter_sizes(model).items() if is_fixed_position(name))
        return model.parameters - fixed - (0 if self.embeddings else model.embedding_parameters)

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return weights, gradients and AdamW's two moments in fp32, and autograd's saved tensors of one pack."""
        return estimate_training_memory(model, "full", self.trainable(model), tokens, head_rows=HEAD_ROWS).total

    def rate(self, hidden_size: int) -> LearningRate:
        """Return the learning rate, by the width of the model."""
        value = scale_rate_to_width(BEST_RATE, hidden_size)
        return LearningRate(value, f"full fine-tuning of a model {hidden_size} wide; falls with width")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The learning rate."""
        return {"learning_rate": ParamDistribution(1e-5, 5e-4, log=True)}

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write a Hugging Face folder: new weights in one safetensors file, everything else unchanged."""
        write_full_model(model, folder, base)
