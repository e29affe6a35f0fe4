"""Full fine-tuning: every weight moves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from luthier.models.describe import Description, training_memory
from luthier.tune.technique import Choice, Rate, Technique, rate_for_width

BEST_RATE = 5e-5
"""At a width of 2,000 (Schulman et al., "LoRA Without Regret", 2025)."""
HEAD_ROWS = 256
"""Positions at which the output head runs at once."""
TRAVELS: tuple[str, ...] = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json", "LICENSE", "model.json",
)  # fmt: skip
"""Files beside the weights that belong to a model: they go along unchanged."""


class Full(Technique):
    """Every weight moves, embeddings included: the most a model can learn, at four times the memory of its weights."""

    kind: Literal["full"] = "full"

    embeddings: bool = True
    """Whether the token embeddings (and a head tied to them) move too. Freezing them saves memory and keeps rare words
    as they were; they must move when the data is in a language or script that is new to the model."""

    def adapt(self, model: Any, seed: int) -> Any:
        """The same model with gradients on."""
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        if not self.embeddings:
            model.get_input_embeddings().weight.requires_grad_(False)
        return model

    def trainable(self, model: Description) -> int:
        """All parameters, or all but the embeddings."""
        return model.parameters - (0 if self.embeddings else model.embedding_parameters)

    def footprint(self, model: Description, tokens: int) -> int:
        """Weights, gradients and AdamW's two moments in fp32, and what autograd keeps of one pack."""
        return training_memory(model, "full", self.trainable(model), tokens, head_rows=HEAD_ROWS).total

    def rate(self, hidden_size: int) -> Rate:
        """By the width of the model."""
        value = rate_for_width(BEST_RATE, hidden_size)
        return Rate(value, f"full fine-tuning of a model {hidden_size} wide; falls with width")

    def space(self) -> Mapping[str, Choice]:
        """The learning rate is what matters."""
        return {"learning_rate": Choice(1e-5, 5e-4, log=True)}

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """A Hugging Face folder: new weights in one safetensors file, everything else as it was."""
        from safetensors.torch import save_file

        state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
        for tied in sorted(getattr(model, "_tied_weights_keys", None) or ()):
            source = next((key for key, value in state.items() if _same(value, state.get(tied)) and key != tied), None)
            if source is not None:
                del state[tied]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(base / "config.json", folder / "config.json")
        for file in TRAVELS:
            if (base / file).is_file():
                shutil.copyfile(base / file, folder / file)


def _same(one: Any, other: Any) -> bool:
    return other is not None and one.data_ptr() == other.data_ptr() and one.shape == other.shape
