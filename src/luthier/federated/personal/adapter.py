"""Adapters that each site trains for itself on top of the shared one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from luthier.core.component import BasicMarker
from luthier.federated.aggregator import Aggregator
from luthier.federated.messaging.messages import LocalWork
from luthier.federated.personal.part import PersonalPart
from luthier.models.shapes import ADAPTED_EXPERTS
from luthier.tune.low_rank import LowRankTechnique

if TYPE_CHECKING:
    from luthier.federated.privacy import FederatedPrivacy
    from luthier.models.describe import ModelDescription
    from luthier.tune.steps.tune import Tune


class PersonalAdapter(PersonalPart):
    """Train a second low-rank adapter at each site on top of the shared one when the rounds are over (as FedDPA does,
    Yang et al., 2024). Rounds and the shared model are what they are without it. Both adapters are saved as one over
    the untouched base."""

    kind: Literal["adapter"] = "adapter"

    r: Annotated[int, BasicMarker()] = Field(default=8, ge=1, le=1024)
    """Rank of the site's own adapter. Its scale and its layers are those of the shared one."""
    local: Annotated[LocalWork, BasicMarker()] = LocalWork(epochs=1.0)
    """How much each site trains it: `{epochs: 1}` or `{steps: 20}`."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Its learning rate; that of the rounds when not given."""
    proximal: float = Field(default=0.0, ge=0)
    """How strongly each step draws it back to where it began, at which it changes nothing, so that the site's model
    stays near the shared one (lambda in Ditto, Li et al., 2021)."""

    def find_obstacle(self, tune: Tune, aggregator: Aggregator, privacy: FederatedPrivacy | None) -> str:
        """Refuse techniques that do not combine with a low-rank adapter."""
        technique = tune.technique
        if not isinstance(technique, LowRankTechnique):
            return f"an adapter of a site's own stands beside a low-rank one; {technique.kind} is none, take lora"
        if technique.kind == "qlora":
            return "qlora keeps the base in few bits, to which the shared adapter cannot be added; take lora"
        if technique.settings().get("use_dora"):
            return "DoRA divides by the length of each row, so two adapters are not one; leave use_dora out"
        return ""

    def find_model_obstacle(self, tune: Tune, model: ModelDescription) -> str:
        """Fused experts, whose adapters are no plain product."""
        fused = model.model_type in ADAPTED_EXPERTS and tune.technique.settings().get("target_modules") == "all-linear"
        return "the adapters of fused experts are no plain product, to which another could be added" if fused else ""

    def build_tune(self, tune: Tune) -> Tune:
        """The training of the rounds with the adapter's own rank and length; its noise, where there is any, is enough
        for its steps and those of the rounds together."""
        technique = tune.technique
        assert isinstance(technique, LowRankTechnique), "others are refused by the plan"
        ratio = self.r / technique.r
        alpha = technique.lora_alpha * (ratio**0.5 if technique.use_rslora else ratio)
        length: dict[str, Any] = {"epochs": 1000.0, "max_steps": None}
        if self.local.steps is not None:
            length["max_steps"] = self.local.steps
        if self.local.epochs is not None:
            length["epochs"] = self.local.epochs
        rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        own = technique.model_copy(update={"r": self.r, "lora_alpha": alpha})
        return tune.model_copy(update={"technique": own, **length, **rate})

    def describe(self, tune: Tune, model: ModelDescription | None) -> str:
        """The adapter, and when it is trained."""
        number, what = (self.local.epochs or 0, "epoch") if self.local.steps is None else (self.local.steps, "step")
        length = f"{number:g} {what}{'' if number == 1 else 's'}"
        return (
            f"after the last round each site trains an adapter of rank {self.r} of its own for {length} on top of the "
            "shared model, which never travels; each site's own model is a step `site_model`"
        )
