"""Prompt tuning: trained embeddings of virtual tokens before every row, in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.core.param_space import ParamDistribution
from luthier.core.step import Merging
from luthier.models.describe import ModelDescription
from luthier.models.sequence_head import get_peft_task_type
from luthier.tune.soft_prompts import choose_initial_token_ids, estimate_footprint, validate_init_text, wrap_with_peft
from luthier.tune.technique import LearningRate, Technique, write_adapter

BEST_RATE = 3e-2
"""As PEFT's own examples take it; Lester et al. take 0.3 with Adafactor, where embeddings are larger. SmolLM2-135M on
seven intents (40 steps of 8 rows): loss 6.9 at first, at last 0.55 (0.03) or 0.40 (0.1); accuracy 0.61, base 0.51."""


class PromptTuning(Technique):
    """A few virtual tokens before every row, learnt as embeddings (Lester et al., 2021): a file of a few kilobytes, and
    a frozen model that many tasks share. It learns little where the model is small."""

    kind: Literal["prompt"] = "prompt"
    merging: ClassVar[Merging] = "never"
    num_virtual_tokens: int = Field(default=20, ge=1, le=1024)
    """Number of virtual tokens. 20 to 100 (Lester et al. saw most of the gain by 20)."""
    prompt_tuning_init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """Initial embeddings: those of random tokens of the vocabulary, of a text, or noise. Words beat noise clearly in
    models under ten billion parameters (Lester et al., figure 3b)."""
    prompt_tuning_init_text: str | None = None
    """The instruction that `prompt_tuning_init: text` starts from, repeated to the full length, and no longer than
    `num_virtual_tokens`."""

    @model_validator(mode="after")
    def _text_has_a_use(self) -> Self:
        validate_init_text(self.prompt_tuning_init, self.prompt_tuning_init_text, "prompt_tuning_")
        return self

    def adapt(self, model: Any, seed: int) -> Any:
        """Return PEFT's model with fp32 virtual tokens."""
        import torch
        from peft import PromptTuningConfig

        config = PromptTuningConfig(task_type=get_peft_task_type(model), num_virtual_tokens=self.num_virtual_tokens)
        wrapped = wrap_with_peft(model, config, seed)
        if self.prompt_tuning_init != "random":
            with torch.no_grad():
                text, count = self.prompt_tuning_init_text, self.num_virtual_tokens
                ids = choose_initial_token_ids(model, text, count, seed, "prompt_tuning_init_text")
                words = model.get_input_embeddings()(ids)
                wrapped.prompt_encoder[wrapped.active_adapter].embedding.weight.copy_(words)
        return wrapped

    def trainable(self, model: ModelDescription) -> int:
        """Return one embedding for each virtual token."""
        return self.num_virtual_tokens * model.hidden_size

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return frozen weights, and autograd's saved tensors of one pack with the virtual tokens."""
        return estimate_footprint(self.kind, model, self.trainable(model), tokens, self.num_virtual_tokens)

    def rate(self, hidden_size: int) -> LearningRate:
        """Return a rate far above that of weights: embeddings move far from their initial values."""
        return LearningRate(BEST_RATE, "virtual tokens move far: as in PEFT's examples")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The learning rate, then the length."""
        return {
            "learning_rate": ParamDistribution(1e-3, 0.3, log=True),
            "num_virtual_tokens": ParamDistribution(values=(5, 20, 50, 100)),
        }

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write `adapter/` in PEFT's format."""
        write_adapter(model, folder, name)
