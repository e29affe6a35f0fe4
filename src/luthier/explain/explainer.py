"""The role `explainer`: what gives each unit of a prompt a score for a target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from luthier.core.component import Component
from luthier.core.errors import ModelError, SourceLocation

if TYPE_CHECKING:
    from luthier.explain.gradients import PromptGradients
    from luthier.explain.scorer import PromptScorer

AddsUp = Literal["", "units", "prompt"]


class Attribution(NamedTuple):
    """The scores of a prompt's units."""

    scores: Sequence[float]
    """(units,)."""
    template: float | None = None
    """The sum over what the template wrote."""
    expected: float | None = None
    """The sum that the scores should have, with the template's; None for a method without such a property."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExplainedPrompt:
    """A prompt, its units and its target, as explainers read them."""

    scorer: PromptScorer
    gradients: PromptGradients | None
    """Computes gradients; None without local weights."""
    seed: int = 0


class Explainer(Component):
    """A method that scores how much each unit of a prompt speaks for a target."""

    role: ClassVar[str] = "explainer"
    home: ClassVar[str] = "luthier.explain.explainers"
    needs_weights: ClassVar[bool] = False
    """Whether it needs gradients, so that an endpoint cannot be explained by it."""
    adds_up: ClassVar[AddsUp] = ""
    """Whether its scores sum to the value with all `units` minus that with none, or, with those of the template, to the
    value of the `prompt` minus that of a baseline."""

    @abstractmethod
    def attribute(self, prompt: ExplainedPrompt) -> Attribution:
        """Score the units of a prompt; `ModelError` where the method needs weights that are not here."""

    def require_gradients(self, prompt: ExplainedPrompt) -> PromptGradients:
        """The prompt's gradients; `ModelError` where the weights are not here."""
        if prompt.gradients is None:
            hint = "take `leave_one_out` or `shapley`, which only ask the model"
            what = f"{self.kind} reads gradients, and this model's weights are not here"
            raise ModelError(what, where=SourceLocation(field="method"), hint=hint)
        return prompt.gradients


def sum_by_unit(owners: Sequence[int], scores: Sequence[float], count: int) -> tuple[list[float], float]:
    """Add scores of tokens up by unit; those of the template by themselves."""
    units, template = [0.0] * count, 0.0
    for owner, score in zip(owners, scores, strict=True):
        if owner < 0:
            template += score
        else:
            units[owner] += score
    return units, template
