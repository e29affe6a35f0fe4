"""Influence functions with the EK-FAC approximation of the Fisher matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from luthier.tune.influence.method import EngineSettings, GradientMethod, Preconditioner

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.tune.influence.study import InfluenceStudy
    from luthier.tune.steps.tune import Tune
    from luthier.tune.training.kept_states import KeptState


class Ekfac(GradientMethod):
    """Influence functions (Koh and Liang, 2017) with EK-FAC's Fisher matrix (Grosse et al., 2023), at the last state.

    It asks what the model would be had it been trained to its end without a row, and knows nothing of the order. After
    a short fine-tuning, which ends far from any minimum, `adam` foresees more.
    """

    kind: Literal["ekfac"] = "ekfac"

    damping: float = Field(default=0.1, gt=0)
    """Damping added to the eigenvalues, as a share of their mean in each matrix."""
    fisher: Literal["sampled", "empirical"] = "sampled"
    """Whether the Fisher matrix uses targets sampled from the model, which approximates the curvature, or the rows' own
    targets. Objectives that compare answers use their own."""
    rows: int = Field(default=512, ge=1)
    """Maximum number of rows that the matrix is estimated from."""

    def count_states(self, step: Tune) -> int:
        """Return 1: only the last state is read."""
        return 1

    def weigh_states(self, study: InfluenceStudy) -> dict[int, Tensor]:
        """Weigh all rows alike, by the denominator of the whole training."""
        import torch

        count = len(study.keys)
        total = study.objective.denominator(study.rows_of(range(count)))
        return {study.kept_steps[-1]: torch.full((count,), 1.0 / total, dtype=torch.float64)}

    def precondition(self, study: InfluenceStudy, state: KeptState, settings: EngineSettings) -> Preconditioner:
        """Return the inverse Fisher matrix at the current weights."""
        from luthier.tune.influence.fisher import EkfacPreconditioner, FisherEstimate

        estimate = FisherEstimate(study, rows=self.rows, sampled=self.fisher == "sampled")
        settings.notes.extend(estimate.notes)
        return EkfacPreconditioner(estimate.blocks(), self.damping)
