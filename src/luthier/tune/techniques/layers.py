"""Partial fine-tuning: some decoder layers and other named parameters are trained in full."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.core.errors import ModelError, SourceLocation, did_you_mean
from luthier.core.param_space import ParamDistribution
from luthier.models.describe import EMBEDDINGS, ModelDescription, estimate_training_memory
from luthier.models.sequence_head import SCORE
from luthier.models.shapes import (
    find_part,
    is_embedding,
    is_head,
    is_norm,
    matches_parameter_pattern,
    parameter_sizes,
    parse_layer_index,
)
from luthier.tune.model_files import write_full_model
from luthier.tune.technique import LearningRate, Technique, scale_rate_to_width

BEST_RATE = 5e-5
"""Full fine-tuning's, at a width of 2,000 (Schulman et al., "LoRA Without Regret", 2025)."""
HEAD_ROWS = 256
"""Positions for which the output head computes logits at once."""


class PartialFineTuning(Technique):
    """Every weight of a chosen part moves, the rest stays: the last layers, say, which know most about the task."""

    kind: Literal["layers"] = "layers"

    last: Annotated[int, Field(ge=0)] | Literal["quarter"] = "quarter"
    """Number of the last decoder layers that are trained. A quarter of them reaches nine tenths of the gain of full
    fine-tuning (Lee et al., "What Would Elsa Do?", 2019); nothing below the lowest one is backpropagated. 0: none."""
    blocks: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further decoder layers that are trained, by index from 0."""
    names: tuple[str, ...] = ()
    """Further parameters that are trained, by name; `*` matches anything, as in `*.mlp.down_proj.weight`."""
    norms: bool = False
    """Whether every normalization layer is trained too: few parameters, and much of what a new style of text needs."""
    head: bool = False
    """Whether the output head is trained too; where it is tied to the embeddings, both are."""
    embeddings: bool = False
    """Whether the embeddings are trained too: needed for a language or script that is new to the model."""

    def adapt(self, model: Any, seed: int) -> Any:
        """Enable gradients for the chosen part of the model."""
        from luthier.models.media.encoder_decoder import count_decoder_layers

        count = count_decoder_layers(model.config)
        tied = model.get_output_embeddings() is not None and _has_tied_embeddings(model)
        moving = 0
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self._is_trained(name, count, tied))
            moving += parameter.requires_grad
        known = [name for name, _ in model.named_parameters()]
        if unknown := next(
            (glob for glob in self.names if not any(matches_parameter_pattern(name, glob) for name in known)), None
        ):
            where = SourceLocation(field="technique.names")
            raise ModelError(f"no parameter is called {unknown!r}", where=where, hint=did_you_mean(unknown, known))
        if not moving:
            raise ModelError(
                "no parameter is chosen", where=SourceLocation(field="technique"), hint="name some, or set last"
            )
        return model

    def _is_trained(self, name: str, count: int, tied: bool) -> bool:
        """Return whether a parameter is in the chosen part (a new sequence head always is), in a model of `count`
        layers.

        A vision encoder is trained only by name.
        """
        if find_part(name) != "language":
            return any(matches_parameter_pattern(name, glob) for glob in self.names)
        return (
            parse_layer_index(name) in self._blocks(count)
            or any(matches_parameter_pattern(name, glob) for glob in self.names)
            or name.startswith(SCORE)
            or (self.norms and is_norm(name))
            or (self.head and is_head(name))
            or (is_embedding(name) and (self.embeddings or (self.head and tied and name.endswith(EMBEDDINGS))))
        )

    def _blocks(self, count: int) -> frozenset[int]:
        last = -(-count // 4) if self.last == "quarter" else self.last
        return frozenset(range(count - last, count)) | frozenset(self.blocks)

    def refuses(self, objective: str, model: ModelDescription) -> str:
        """Refuse a layer that the model does not have, or an empty choice."""
        beyond = [block for block in self._blocks(model.layers) if not 0 <= block < model.layers]
        if beyond:
            return f"the model has {model.layers} layers, from 0 to {model.layers - 1}"
        if model.tensors and not self.trainable(model):
            return "no parameter is chosen; set last, blocks or names"
        return ""

    def trainable(self, model: ModelDescription) -> int:
        """Return the number of chosen parameters, from the headers of the weights."""
        if not model.tensors:
            inner = model.parameters - model.embedding_parameters
            return inner * len(self._blocks(model.layers)) // max(1, model.layers)
        return sum(
            numbers
            for name, numbers in parameter_sizes(model).items()
            if self._is_trained(name, model.layers, model.tied)
        )

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return all weights; masters, gradients and AdamW's moments of the chosen ones; and autograd's saved tensors
        of one pack from the lowest trained layer upwards.
        """
        moving = [name for name in parameter_sizes(model) if self._is_trained(name, model.layers, model.tied)]
        lowest = min((_height(name, model.layers) for name in moving), default=0)
        above = model.model_copy(update={"layers": model.layers - lowest})
        return estimate_training_memory(above, "layers", self.trainable(model), tokens, head_rows=HEAD_ROWS).total

    def rate(self, hidden_size: int) -> LearningRate:
        """Return the learning rate of full fine-tuning, by the width of the model."""
        value = scale_rate_to_width(BEST_RATE, hidden_size)
        return LearningRate(value, f"full fine-tuning of a part of a model {hidden_size} wide; falls with width")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The learning rate, then the number of trained layers."""
        return {
            "learning_rate": ParamDistribution(1e-5, 5e-4, log=True),
            "last": ParamDistribution(values=("quarter", 1, 2, 4, 8)),
        }

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write a Hugging Face folder: all weights in one safetensors file, everything else unchanged."""
        write_full_model(model, folder, base)


def _height(name: str, count: int) -> int:
    """Return the index of the layer down to which a parameter needs backpropagation; final norm and head are above all
    layers.
    """
    block = parse_layer_index(name)
    return block if block is not None else 0 if is_embedding(name) else count


def _has_tied_embeddings(model: Any) -> bool:
    """Return whether head and embeddings are one tensor."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight
