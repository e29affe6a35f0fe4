"""(IA)³: trained factors on keys, values and the inner activations of the MLP, in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import ModelError, SourceLocation, did_you_mean
from luthier.core.param_space import ParamDistribution
from luthier.models.describe import ModelDescription, estimate_training_memory
from luthier.models.quiet import silence_peft_warnings
from luthier.models.sequence_head import get_peft_task_type
from luthier.models.shapes import find_part, list_linear_layers, select_target_layers
from luthier.tune.technique import LearningRate, Technique, scale_rate_to_width, write_adapter

BEST_RATE = 3e-3
"""T-Few's, for a model 2,048 wide (Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning", 2022)."""
HEAD_ROWS = 256
"""Positions for which the output head computes logits at once."""
KEYS_AND_VALUES = ("k_proj", "v_proj", "kv_b_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv")
"""Names of layers that compute keys and values; the last four also compute queries, which are scaled alike."""
DOWN = ("down_proj", "dense_4h_to_h", "fc2", "mlp.c_proj", "fc_out", "w2")
"""Names of the MLP's output projections."""


class Ia3(Technique):
    """One learnt factor for each key, value and inner MLP number: a few thousand numbers, for very few rows."""

    kind: Literal["ia3"] = "ia3"

    target_modules: Literal["auto"] | tuple[str, ...] = "auto"
    """Names of the layers that are scaled. `auto`: those that compute keys and values, and the MLP's output
    projections, as in the paper (Liu et al., 2022), by the names of the model's family."""
    feedforward_modules: Literal["auto"] | tuple[str, ...] = "auto"
    """Targets that are scaled at their input rather than at their output. `auto`: the MLP's output projections."""

    def adapt(self, model: Any, seed: int) -> Any:
        """Return PEFT's model with every factor 1, in fp32: it equals the base model, whatever the seed."""
        from peft import IA3Config, get_peft_model
        from transformers.pytorch_utils import Conv1D

        linear = [name for name, module in model.named_modules() if _is_linear(module)]
        names = [name for name in linear if find_part(name) == "language"]
        targets = self._targets(names)
        if not targets:
            raise ModelError(
                _NONE, where=SourceLocation(field="technique.target_modules"), hint="name the layers in target_modules"
            )
        self._check(targets, {name.rpartition(".")[2] for name in names})
        config = IA3Config(
            target_modules=targets,
            feedforward_modules=[name for name in targets if name in self._feedforward(targets)],
            exclude_modules=[name for name in linear if _is_meant(name, targets) and name not in names] or None,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
            task_type=get_peft_task_type(model),
        )
        with silence_peft_warnings():
            adapted = get_peft_model(model, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        return adapted

    def _targets(self, names: list[str]) -> list[str]:
        """Return the targets among layers of these names."""
        targets = (*KEYS_AND_VALUES, *DOWN) if self.target_modules == "auto" else self.target_modules
        return sorted(target for target in set(targets) if any(_is_meant(name, [target]) for name in names))

    def _check(self, targets: list[str], known: set[str]) -> None:
        """Refuse names that no layer has, and inputs of layers that are not scaled."""
        for name in () if self.target_modules == "auto" else self.target_modules:
            if name not in targets:
                where = SourceLocation(field="technique.target_modules")
                raise ModelError(f"no linear layer is called {name!r}", where=where, hint=did_you_mean(name, known))
        for name in () if self.feedforward_modules == "auto" else self.feedforward_modules:
            if name not in targets:
                where = SourceLocation(field="technique.feedforward_modules")
                raise ModelError(
                    f"{name!r} is none of the target_modules", where=where, hint=did_you_mean(name, targets)
                )

    def _feedforward(self, targets: list[str]) -> tuple[str, ...]:
        return (
            tuple(target for target in targets if target in DOWN)
            if self.feedforward_modules == "auto"
            else self.feedforward_modules
        )

    def _count_scaled_features(self, model: ModelDescription) -> tuple[list[int], list[int]]:
        """Return the number of scaled features of each layer scaled at its output, and of each at its input."""
        targets = self._targets([linear_layer.name for linear_layer in list_linear_layers(model)])
        inner = self._feedforward(targets)
        layers = select_target_layers(model, targets)
        at_input = [layer.inputs for layer in layers if any(layer.called(name) for name in inner)]
        return [layer.outputs for layer in layers if not any(layer.called(name) for name in inner)], at_input

    def refuses(self, objective: str, model: ModelDescription) -> str:
        """Refuse a model whose layers have unknown names."""
        return "" if self._targets([linear_layer.name for linear_layer in list_linear_layers(model)]) else _NONE

    def trainable(self, model: ModelDescription) -> int:
        """Return one factor for each scaled feature."""
        return sum(map(sum, self._count_scaled_features(model)))

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return frozen weights, the factors with AdamW, and autograd's saved tensors of one pack: scaled activations
        once more, which the factors' gradients need, at an MLP's input in fp32.
        """
        plain = estimate_training_memory(model, "ia3", self.trainable(model), tokens, head_rows=HEAD_ROWS).total
        outputs, inputs = self._count_scaled_features(model)
        return plain + tokens * (4 * sum(outputs) + 4 * sum(inputs))

    def rate(self, hidden_size: int) -> LearningRate:
        """Return the paper's rate, by the width of the model."""
        value = scale_rate_to_width(BEST_RATE, hidden_size)
        return LearningRate(value, f"(IA)³ on a model {hidden_size} wide; T-Few's, falling with width")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """The learning rate."""
        return {"learning_rate": ParamDistribution(1e-3, 3e-2, log=True)}

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write `adapter/` in PEFT's format."""
        write_adapter(model, folder, name)


_NONE = "no layer is known that makes keys and values or leads out of an MLP"


def _is_meant(name: str, targets: list[str]) -> bool:
    """Return whether PEFT matches a layer to one of the targets."""
    return any(f".{name}".endswith(f".{target}") for target in targets)


def _is_linear(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))
