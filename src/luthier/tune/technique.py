"""The role `technique`: which weights of a model are trained, the memory it takes, and how the result is saved.

A technique that trains a network's weights is a `Technique` and needs only `adapt`; one that makes its artifact without
the training loop is a `StandaloneTechnique`.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from luthier.core.artifact import Artifact
from luthier.core.component import Component
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.param_space import ParamDistribution
from luthier.core.step import ArtifactSpec, Merging, PlanContext, StepContext, StepCostEstimate
from luthier.models.describe import ModelDescription, estimate_training_memory
from luthier.models.load import ADAPTER, Dtype

if TYPE_CHECKING:
    import torch

    from luthier.chat.messages import Example
    from luthier.models.packing.pack import Pack


HEAD_ROWS = 256
"""Positions for which the output head computes logits at once."""
FULL_RATE = 5e-5
"""Full fine-tuning's learning rate at the width of the evidence (Schulman et al., "LoRA Without Regret", 2025)."""
HIDDEN_OF_EVIDENCE = 2000
"""Width at which the learning rates below were found; see `scale_rate_to_width`."""
WIDTH_POWER = 0.781
"""Exponent by which the best learning rate falls with width, for the Llama family (Schulman et al., "LoRA Without
Regret", 2025). For SmolLM2-135M, whose architecture is Llama's, the resulting rate for LoRA (0.0013) was measured:
accuracy is flat from it to one and a half times it (`benchmarks/results/course.txt`). Other families are not covered
(`rate_for_model`)."""
_LLAMA_TYPES = frozenset({"llama"})


class LearningRate(NamedTuple):
    """A learning rate and why it was chosen."""

    value: float
    why: str


class TechniqueBase(Component):
    """The base class of techniques that train weights (`Technique`) and of those without a training loop."""

    role: ClassVar[str] = "technique"
    home: ClassVar[str] = "luthier.tune.techniques"
    merging: ClassVar[Merging] = "plain"
    """How the trained weights can be merged into the model's weights."""
    reads_model: ClassVar[bool] = True
    """Whether a base model is needed."""

    @property
    def needs_model(self) -> bool:
        """Whether it needs a base model with these settings."""
        return self.reads_model

    def merges(self, model: ModelDescription | None) -> Merging:
        """Return how trained weights can be merged into a model's weights; None: a model that does not exist yet."""
        return self.merging

    def refuses(self, objective: str, model: ModelDescription) -> str:
        """Return why this technique cannot be used with an objective or a model; empty when it can."""
        return ""

    def warning(self, model: ModelDescription) -> str:
        """Return what the user should know before tuning this model; empty when there is nothing."""
        return ""

    def before_s(self, model: ModelDescription) -> float:
        """Return the predicted seconds of work before the first step, beyond what every technique does."""
        return 0.0

    @abstractmethod
    def trainable(self, model: ModelDescription) -> int:
        """Return the number of trainable parameters."""

    @abstractmethod
    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return the bytes of memory at the peak, for packs of `tokens`."""


class Technique(TechniqueBase):
    """Which weights of a network move, and what is kept of them. Only `adapt` must be written: all else has a default,
    which a technique that knows better replaces."""

    def open(self, artifact: Artifact, dtype: torch.dtype) -> Any:
        """Return the plain model to make trainable, with earlier adapters merged."""
        from luthier.models.load import open_merged

        return open_merged(artifact, dtype)

    @abstractmethod
    def adapt(self, model: Any, seed: int) -> Any:
        """Make a model trainable: trainable parameters require gradients, and new weights come from the seed alone.

        Returns the same model, or PEFT's over it.
        """

    def begin(self, model: Any, packs: Iterator[Pack]) -> None:
        """Initialize new weights from the first packs of the training; called once after `adapt`, before the first
        update.

        The result must follow from the model and the packs alone. Take no more packs than needed.
        """

    def rate_of(self, name: str) -> float:
        """Return the learning rate factor of a parameter."""
        return 1.0

    def trainable(self, model: ModelDescription) -> int:
        """Return the number of parameters that require gradients after `adapt`, counted on a model of the same shapes
        without weights (which loads torch).

        All parameters of a model that does not exist yet, or that cannot be adapted without weights.
        """
        if model.folder is None:
            return model.parameters
        moving = _moving_without_weights(self, model.folder)
        return model.parameters if moving is None else moving

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return the bytes of weights; of fp32 masters, gradients and AdamW's moments of trainable weights; and of
        autograd's saved tensors of one pack.

        What a technique adds to the forward pass is not counted.
        """
        return estimate_training_memory(model, self.kind, self.trainable(model), tokens, head_rows=HEAD_ROWS).total

    def rate(self, hidden_size: int) -> LearningRate:
        """Return the default learning rate: full fine-tuning's, the lowest of all techniques'."""
        value = scale_rate_to_width(FULL_RATE, hidden_size)
        why = f"full fine-tuning's for a model {hidden_size} wide, since {self.kind} names none; where few numbers move"
        return LearningRate(value, f"{why}, ten times as much may be better")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Ranges by field, and `learning_rate` of the step: that alone by default, from full fine-tuning's to the
        smallest adapters'.
        """
        return {"learning_rate": ParamDistribution(1e-5, 5e-3, log=True)}

    def save(self, model: Any, folder: Path, base: Path, name: str) -> None:
        """Write the trained weights in a common format; the same weights make the same bytes.

        By default PEFT's `adapter/` of a PEFT model, else a Hugging Face folder with all weights. `base` is the folder
        of the base model, `name` its display name.
        """
        from luthier.tune.model_files import write_full_model

        if hasattr(model, "peft_config"):
            write_adapter(model, folder, name)
        else:
            write_full_model(model, folder, base)

    def check_saved(self, model: Any) -> None:
        """Raise `ModelError`, before the first step, when the default `save` would lose parameters of an adapted model
        that its architecture does not have.
        """
        if type(self).save is not Technique.save or hasattr(model, "peft_config"):
            return
        known = {name for name, _ in _skeleton(model.config, type(model)).named_parameters()}
        added = [name for name, _ in model.named_parameters() if name not in known]
        if added:
            what = f"{self.kind} adds parameters ({added[0]}; {len(added)} in all) that no Hugging Face folder holds"
            hint = "return PEFT's model from adapt, or write `save` and what opens it"
            raise ModelError(what, where=SourceLocation(field="technique"), hint=hint)


class StandaloneTechnique(TechniqueBase):
    """The base of techniques that make a model without training a network: no optimizer and no training loop."""

    merging: ClassVar[Merging] = "never"
    used: ClassVar[frozenset[str]] = frozenset({"data", "technique", "max_train_samples", "on"})
    """Settings of the step that have an effect; any other one is refused."""

    def trainable(self, model: ModelDescription) -> int:
        """Return 0: no weight of the base model is trained."""
        return 0

    def at_share(self, share: float) -> Self | None:
        """Return the technique with a share (0, 1) of its budget; None, by default, where its work follows the rows
        alone.
        """
        return None

    @abstractmethod
    def fit(self, work: StepContext, examples: Sequence[Example], dtype: Dtype) -> dict[str, Any]:
        """Make the model from the training rows: write its files, `training.json` and `training_examples.parquet`.

        Returns values that differ from run to run by nature.
        """

    @abstractmethod
    def estimate_cost(self, plan_context: PlanContext, rows: int | None) -> StepCostEstimate:
        """Estimate the cost; `rows` is the maximum number of training rows. Refuses what cannot run."""

    @abstractmethod
    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict the model's spec before it is made."""


def _skeleton(config: Any, kind: Any) -> Any:
    """Return a model of a transformers class with its shapes and no weights."""
    import torch

    with torch.device("meta"):
        return kind._from_config(config)


@lru_cache(maxsize=64)
def _moving_without_weights(technique: Technique, folder: Path) -> int | None:
    """Return the number of trainable parameters of an adapted model without weights; None where adapting
    needs weights.
    """
    import torch
    from transformers import AutoConfig

    from luthier.models.load import pick_auto_class
    from luthier.models.quiet import silence_peft_warnings

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        plain = pick_auto_class(config.to_dict()).from_config(config)
    try:
        with silence_peft_warnings():
            model = technique.adapt(plain, 0)
    except (NotImplementedError, RuntimeError):  # torch: there are no values to compute with
        return None
    return sum(int(parameter.numel()) for parameter in model.parameters() if parameter.requires_grad)


def scale_rate_to_width(best: float, hidden_size: int) -> float:
    """Return the best rate at a width of 2,000, scaled to another width; three significant digits."""
    return float(f"{best * (HIDDEN_OF_EVIDENCE / hidden_size) ** WIDTH_POWER:.3g}")


def rate_for_model(technique: Technique, model: ModelDescription) -> LearningRate:
    """Return the rate of a technique for a model; for a family other than Llama's, the reason says that the scaling
    with width was not measured on it.
    """
    rate = technique.rate(model.hidden_size)
    if model.model_type in _LLAMA_TYPES or technique.rate(2 * model.hidden_size).value == rate.value:
        return rate
    doubt = (
        f"how it falls with width was found on the Llama family, this model is of type {model.model_type}: try others"
    )
    return LearningRate(rate.value, f"{rate.why}; {doubt}")


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, as every artifact has it."""
    text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_adapter(
    model: Any, folder: Path, name: str, weights: Mapping[str, Any] | None = None, **changes: Any
) -> None:
    """Write `adapter/` into a folder: the active adapter's weights (or given ones) and its settings with `changes`.

    `name` is the base model's display name.
    """
    from safetensors.torch import save_file

    adapter_dir = folder / ADAPTER
    adapter_dir.mkdir()
    adapter = adapter_weights(model) if weights is None else weights
    save_file(
        {key: value.detach().contiguous() for key, value in adapter.items()}, adapter_dir / "adapter_model.safetensors"
    )
    settings = model.peft_config[model.active_adapter].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    base = {"base_model_name_or_path": name, "inference_mode": True}
    write_settings(adapter_dir / "adapter_config.json", {**plain, **base, **changes})


def adapter_weights(model: Any) -> dict[str, Any]:
    """Return the active adapter's weights by PEFT's names, without a head or embeddings of the base, which never
    change.
    """
    from peft import get_peft_model_state_dict

    weights: dict[str, Any] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return weights
