"""TracIn under Adam: gradients divided by the root of their second moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.tune.influence.method import DiagonalPreconditioner, EngineSettings, GradientMethod, Preconditioner
from luthier.tune.optimizers.adamw import AdamW

if TYPE_CHECKING:
    from luthier.tune.influence.study import InfluenceStudy
    from luthier.tune.steps.tune import Tune
    from luthier.tune.training.kept_states import KeptState


class AdamInfluence(GradientMethod):
    """What each step of AdamW took from a row, with the second moments that the training had (as LESS has it, Xia et
    al., 2024, without its cosine).

    The usual choice. The averaged square is taken as it was: that a row changes it too, only `replay` sees.
    """

    kind: Literal["adam"] = "adam"

    def refuses(self, step: Tune) -> str:
        """Refuse other optimizers, which keep no second moment for each weight."""
        if isinstance(step.optimizer, AdamW):
            return ""
        return f"{step.optimizer.kind} keeps no second moments as AdamW does; take tracin"

    def precondition(self, study: InfluenceStudy, state: KeptState, settings: EngineSettings) -> Preconditioner:
        """Return the learning rate factors divided by the root of the second moments."""
        optimizer = study.step.optimizer
        assert isinstance(optimizer, AdamW), "other optimizers are refused"
        weights = study.reader.weights
        second = weights.gather(state.second) / (1 - optimizer.betas[1] ** state.updates)
        return DiagonalPreconditioner(weights.spread(study.states.factors) / (second.sqrt() + optimizer.eps))
