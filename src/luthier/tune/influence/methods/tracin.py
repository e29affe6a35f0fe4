"""TracIn: inner products of gradients at states along the training, with their learning rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.tune.influence.method import DiagonalPreconditioner, EngineSettings, GradientMethod, Preconditioner

if TYPE_CHECKING:
    from luthier.tune.influence.study import InfluenceStudy
    from luthier.tune.training.kept_states import KeptState


class TracIn(GradientMethod):
    """What each step's plain gradient took from a row (Pruthi et al., 2020), summed over the states of `keep_states`.

    Exact to first order for a training by gradient descent. Under Adam, weights with small gradients move as far as
    others, which it does not see: `adam` does.
    """

    kind: Literal["tracin"] = "tracin"

    def precondition(self, study: InfluenceStudy, state: KeptState, settings: EngineSettings) -> Preconditioner:
        """Return the learning rate factors."""
        return DiagonalPreconditioner(study.reader.weights.spread(study.states.factors))
