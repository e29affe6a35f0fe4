"""Settings of differential privacy, and the training settings that would break its guarantee."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions
from luthier.tune.technique import StandaloneTechnique

if TYPE_CHECKING:
    from luthier.tune.steps.tune import Tune

ROW = "row"


class Privacy(BaseModel):
    """Differential privacy of the training rows (DP-SGD, Abadi et al. 2016): from the tuned model one can hardly tell
    whether any one unit was among them.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    epsilon: float = Field(gt=0, le=1000)
    """How much more or less likely anything about the model may be for one unit: a factor of exp(epsilon). Below 1 is
    strong, 1 to 10 is usual, more promises little."""
    delta: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Probability with which the guarantee may fail; `auto`: one over the number of units to the power of 1.1."""
    clip: float = Field(default=1.0, gt=0)
    """Maximum norm of one unit's gradient; longer ones are scaled down to it."""
    unit: str = ROW
    """What is protected: `row`, or all rows that have the same value in a column, such as `meta.customer`."""

    def find_delta(self, units: int) -> float:
        """Return δ for `units` units."""
        return max(units, 2) ** -1.1 if self.delta == "auto" else self.delta


def find_privacy_obstacle(step: Tune) -> tuple[str, str] | None:
    """Return the setting of a training that breaks the guarantee of `privacy`, and what to do; None where
    nothing does.
    """
    technique, objective, held_out = step.technique, step.objective, step.validation
    eva = technique.settings().get("init_lora_weights") == "eva"
    obstacles = [
        (isinstance(technique, StandaloneTechnique), "technique", f"{technique.kind} follows no gradients"),
        (eva, "technique.init_lora_weights", "eva reads all rows without noise"),
        (objective.mixes_rows, "objective", f"{objective.kind} holds rows against one another"),
        (objective.draws, "objective", f"{objective.kind} learns from answers that several rows decide"),
        (step.curriculum is not None, "curriculum", "it puts rows in an order that they decide"),
        (step.on_loss_spike != "off", "on_loss_spike", "it looks at losses without noise: write `off`"),
        (step.parts != 1, "parts", "each unit is read alone: leave it at 1"),
        (step.keep_trunk, "keep_trunk", "another training would go on from the same noise"),
        (step.resume_from is not None, "resume_from", "what the other training gave away is not counted"),
    ]
    if held_out is not None:
        patient = held_out.patience is not None
        obstacles += [
            (held_out.keep == "best", "validation.keep", "held-out rows would choose the weights: write `last`"),
            (patient, "validation.patience", "held-out rows would end the training: leave it out"),
        ]
    return next(((field, why) for holds, field, why in obstacles if holds), None)
