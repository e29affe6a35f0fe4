"""P-tuning: a soft prompt that a small network computes, in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.core.param_space import ParamDistribution
from luthier.core.step import Merging
from luthier.models.describe import ModelDescription
from luthier.models.sequence_head import get_peft_task_type
from luthier.tune.soft_prompts import estimate_footprint, wrap_with_peft
from luthier.tune.technique import LearningRate, Technique, write_adapter

BEST_RATE = 5e-3
"""PEFT's examples take 1e-3; SmolLM2-135M on seven intents (40 steps of 8 rows, base 0.51) came to a loss of 1.58
and an accuracy of 0.57 at 0.001, and to 0.78 and 0.72 at 0.005."""
LAYERS = 2
"""Layers of an LSTM encoder, as in Liu et al."""


class PTuning(Technique):
    """Virtual tokens before every row, made by a small network while learning (Liu et al., 2021): steadier than
    embeddings alone, and only what the network makes is kept."""

    kind: Literal["p_tuning"] = "p_tuning"
    merging: ClassVar[Merging] = "never"
    num_virtual_tokens: int = Field(default=20, ge=1, le=1024)
    """Number of virtual tokens."""
    encoder_reparameterization_type: Literal["mlp", "lstm"] = "mlp"
    """The network: three linear layers for each token by itself (PEFT's and NeMo's default), or a bidirectional LSTM
    over all of them as in the paper."""
    encoder_hidden_size: int = Field(default=128, ge=1)
    """Width of the network."""
    encoder_num_layers: int | None = Field(default=None, ge=1, le=16)
    """Layers of an LSTM; 2 when not given, as in the paper."""

    @model_validator(mode="after")
    def _layers_have_a_use(self) -> Self:
        if self.encoder_num_layers is not None and self.encoder_reparameterization_type != "lstm":
            raise ValueError(
                "`encoder_num_layers` goes with `encoder_reparameterization_type: lstm`; an mlp always has three"
            )
        return self

    def adapt(self, model: Any, seed: int) -> Any:
        """Return PEFT's model with an fp32 encoder of virtual tokens."""
        from peft import PromptEncoderConfig

        config = PromptEncoderConfig(
            task_type=get_peft_task_type(model),
            num_virtual_tokens=self.num_virtual_tokens,
            encoder_reparameterization_type=self.encoder_reparameterization_type.upper(),
            encoder_hidden_size=self.encoder_hidden_size,
            encoder_num_layers=self.encoder_num_layers or LAYERS,
        )
        return wrap_with_peft(model, config, seed)

    def trainable(self, model: ModelDescription) -> int:
        """Return the network's inputs, weights and biases."""
        width, inner = model.hidden_size, self.encoder_hidden_size
        read = self.num_virtual_tokens * width
        if self.encoder_reparameterization_type == "mlp":
            return read + (width + 1) * inner + (inner + 1) * inner + (inner + 1) * width
        above = (self.encoder_num_layers or LAYERS) - 1
        lstm = 2 * 4 * inner * (width + inner + 2) + above * 2 * 4 * inner * (3 * inner + 2)
        return read + lstm + (2 * inner + 1) * 2 * inner + (2 * inner + 1) * width

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return frozen weights, the network with AdamW, and autograd's saved tensors of one pack with the virtual
        tokens.
        """
        return estimate_footprint(self.kind, model, self.trainable(model), tokens, self.num_virtual_tokens)

    def rate(self, hidden_size: int) -> LearningRate:
        """Return the learning rate of a small network, whatever the width of the model."""
        return LearningRate(
            BEST_RATE, "the network behind virtual tokens learns as small networks do: measured on SmolLM2"
        )

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The learning rate, then the length."""
        return {
            "learning_rate": ParamDistribution(1e-4, 1e-2, log=True),
            "num_virtual_tokens": ParamDistribution(values=(5, 20, 50, 100)),
        }

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write `adapter/` in PEFT's format: the virtual tokens, without the network."""
        write_adapter(model.eval(), folder, name)
