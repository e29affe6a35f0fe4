"""The role `influence_method`: how much each training row taught what is asked.

A score is a foreseen change: by how many nats the mean loss of the question's rows would rise had the row weighed
nothing. Rows above zero are proponents, rows below zero opponents. `nearest` scores alone are likenesses.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from luthier.core.component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.tune.influence.study import InfluenceStudy
    from luthier.tune.steps.tune import Tune
    from luthier.tune.training.kept_states import KeptState

Engine = Literal["sweep", "index"]


class Preconditioner(Protocol):
    """A symmetric positive matrix (P, P) that gradients are multiplied by."""

    def apply(self, gradient: Tensor) -> Tensor:
        """(P,) the product."""
        ...

    def apply_root(self, gradient: Tensor) -> Tensor:
        """(P,) the product with the matrix' root."""
        ...


@dataclass(frozen=True)
class DiagonalPreconditioner:
    """One factor for each weight."""

    diagonal: Tensor
    """(P,), at least 0."""

    def apply(self, gradient: Tensor) -> Tensor:
        """(P,) the product."""
        return self.diagonal * gradient

    def apply_root(self, gradient: Tensor) -> Tensor:
        """(P,) the product with the root."""
        return self.diagonal.sqrt() * gradient


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How rows are read."""

    engine: Engine = "sweep"
    readings: Literal[2, 4] = 2
    """Readings of each pack in a sweep: 4 are exact to a higher order."""
    dimensions: int = 4096
    """Numbers of each row in the index, at most; all of its gradient where that is not longer."""
    notes: list[str] = field(default_factory=list)
    """What methods say of how they computed."""


class InfluenceMethod(Component):
    """A method that scores how much each training row taught what is asked."""

    role: ClassVar[str] = "influence_method"
    home: ClassVar[str] = "luthier.tune.influence.methods"
    in_nats: ClassVar[bool] = True
    """Whether its scores are changes of the loss, and no likenesses."""

    def refuses(self, step: Tune) -> str:
        """Why it cannot be used on a training; empty when it can."""
        return ""

    def count_readings(self, step: Tune, engine: Engine, queries: int) -> float:
        """How often all training rows are read, in forward passes."""
        return 0.0

    @abstractmethod
    def score(self, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
        """(queries, rows) float64 scores."""


class GradientMethod(InfluenceMethod):
    """The base of methods whose score is a product of gradients at kept states.

    The score of a row is the sum over states of its coefficient times `query' P row`, where `query` and `row` are
    gradients and P is a preconditioner.
    """

    def weigh_states(self, study: InfluenceStudy) -> dict[int, Tensor]:
        """(rows,) by kept step: each row's coefficient. What the steps nearest to a state took, by default."""
        return study.weigh_rows()

    @abstractmethod
    def precondition(self, study: InfluenceStudy, state: KeptState, settings: EngineSettings) -> Preconditioner:
        """The preconditioner at a state, whose weights the model has."""

    def count_states(self, step: Tune) -> int:
        """At how many states rows are read."""
        return step.keep_states

    def count_readings(self, step: Tune, engine: Engine, queries: int) -> float:
        """Two readings for each question in a sweep; one forward and backward in an index."""
        return self.count_states(step) * (2 * queries if engine == "sweep" else 3)

    def score(self, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
        """(queries, rows) by the engine that is set."""
        from luthier.tune.influence.index import score_by_index
        from luthier.tune.influence.sweep import score_by_sweep

        engine = score_by_sweep if settings.engine == "sweep" else score_by_index
        return engine(self, study, settings)


def check_scores(scores: Tensor, kind: str) -> Tensor:
    """The scores; `ModelError` where one is no number."""
    import torch

    from luthier.core.errors import ModelError

    if not bool(torch.isfinite(scores).all()):
        raise ModelError(f"a score of {kind} is not finite", hint="lower learning_rate, and tune again")
    return scores


def find_training_obstacle(step: Tune) -> str:
    """Why a training's influence cannot be told; empty when it can."""
    from luthier.tune.technique import Technique

    objective = step.objective
    if objective.draws:
        return f"{objective.kind} learns from answers that the model drew on the way, and no row holds them"
    if objective.needs_teacher:
        return f"{objective.kind} learns from a teacher's words, and a row alone has no loss"
    if objective.kind == "kto":
        return "kto compares each row with its neighbours, and a row alone has no loss"
    if not isinstance(step.technique, Technique):
        return f"{step.technique.kind} trains no network here"
    return ""
