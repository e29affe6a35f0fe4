"""What the model is least sure of."""

from __future__ import annotations

from typing import Literal

from luthier.data.selector import LabelingPool, Measure, SelectedCandidate, Selector, order_by_score_then_id


class Uncertainty(Selector):
    """Rows of whose label a model is least sure (Lewis and Gale 1994); wants the step `prelabel` before it."""

    kind: Literal["uncertainty"] = "uncertainty"
    measure: Measure = "entropy"
    """`entropy` of all probabilities; `margin` between the first and the second; `confidence` of the first."""

    def choose(self, pool: LabelingPool, count: int) -> list[SelectedCandidate]:
        """Sort by uncertainty."""
        scores = pool.uncertainty(self.measure)
        return [
            SelectedCandidate(at, round(float(scores[at]), 6)) for at in order_by_score_then_id(pool, scores)[:count]
        ]
