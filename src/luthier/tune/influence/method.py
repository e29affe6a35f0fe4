"""The role `influence_method`: how much each training row contributed to an answer.

A score is a predicted change: by how many nats the mean loss of the query's rows would rise had the row not been
trained on. Rows above zero are proponents, rows below zero opponents. Only the scores of `nearest` are similarities.
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
    """A symmetric positive definite matrix (P, P) that multiplies gradients."""

    def apply(self, gradient: Tensor) -> Tensor:
        """Return the product (P,)."""
        ...

    def apply_root(self, gradient: Tensor) -> Tensor:
        """Return the product (P,) with the matrix's square root."""
        ...


@dataclass(frozen=True)
class DiagonalPreconditioner:
    """One factor for each weight."""

    diagonal: Tensor
    """(P,), at least 0."""

    def apply(self, gradient: Tensor) -> Tensor:
        """Return the product (P,)."""
        return self.diagonal * gradient

    def apply_root(self, gradient: Tensor) -> Tensor:
        """Return the product (P,) with the square root."""
        return self.diagonal.sqrt() * gradient


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How an engine reads rows."""

    engine: Engine = "sweep"
    readings: Literal[2, 4] = 2
    """Forward passes over each pack in a sweep: 4 are exact to a higher order."""
    dimensions: int = 4096
    """Maximum numbers stored for each row in the index; the whole gradient where it is not longer."""
    notes: list[str] = field(default_factory=list)
    """Remarks of methods on how they computed."""


class InfluenceMethod(Component):
    """A method that scores how much each training row taught what is asked."""

    role: ClassVar[str] = "influence_method"
    home: ClassVar[str] = "luthier.tune.influence.methods"
    in_nats: ClassVar[bool] = True
    """Whether its scores are changes of the loss rather than similarities."""

    def refuses(self, step: Tune) -> str:
        """Return why it cannot be used on a training; empty when it can."""
        return ""

    def count_readings(self, step: Tune, engine: Engine, queries: int) -> float:
        """Return how many forward passes over all training rows it takes."""
        return 0.0

    @abstractmethod
    def score(self, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
        """Return (queries, rows) float64 scores."""


class GradientMethod(InfluenceMethod):
    """The base of methods whose score is an inner product of gradients at kept states.

    The score of a row is the sum over states of its coefficient times `query' P row`, where `query` and `row` are
    gradients and P is a preconditioner.
    """

    def weigh_states(self, study: InfluenceStudy) -> dict[int, Tensor]:
        """Return each row's coefficient (rows,) by kept step; by default, its share in the updates of the nearest
        steps.
        """
        return study.weigh_rows()

    @abstractmethod
    def precondition(self, study: InfluenceStudy, state: KeptState, settings: EngineSettings) -> Preconditioner:
        """Return the preconditioner at a state whose weights are loaded in the model."""

    def count_states(self, step: Tune) -> int:
        """Return the number of states at which rows are read."""
        return step.keep_states

    def count_readings(self, step: Tune, engine: Engine, queries: int) -> float:
        """Return two passes for each query in a sweep; one forward and backward pass in an index."""
        return self.count_states(step) * (2 * queries if engine == "sweep" else 3)

    def score(self, study: InfluenceStudy, settings: EngineSettings) -> Tensor:
        """Return (queries, rows) scores by the engine that is set."""
        from luthier.tune.influence.index import score_by_index
        from luthier.tune.influence.sweep import score_by_sweep

        engine = score_by_sweep if settings.engine == "sweep" else score_by_index
        return engine(self, study, settings)


def check_scores(scores: Tensor, kind: str) -> Tensor:
    """Return the scores; `ModelError` where one is not finite."""
    import torch

    from luthier.core.errors import ModelError

    if not bool(torch.isfinite(scores).all()):
        raise ModelError(f"a score of {kind} is not finite", hint="lower learning_rate, and tune again")
    return scores


def find_training_obstacle(step: Tune) -> str:
    """Return why influence cannot be computed for a training; empty when it can."""
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
