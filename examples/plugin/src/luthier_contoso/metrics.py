"""Metrics: what is measured of a model's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.metrics.metric import EvalPredictions, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class SignedOff(Metric):
    """The share of answers that end with a signature."""

    kind: Literal["signed_off"] = "signed_off"
    proportion: ClassVar[bool] = True
    held_against: ClassVar[bool] = False

    signature_line: str = "Contoso Support"
    """What an answer ends with."""

    def statistics(self, answers: EvalPredictions) -> NDArray[np.float64]:
        """(rows, 2): whether a row is a hit, and 1 for each row."""
        import numpy as np

        hits = [text.rstrip().endswith(self.signature_line) for text in answers.predictions]
        return np.column_stack([np.asarray(hits, dtype=float), np.ones(len(hits))])

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Hits over rows, (b, 2) to (b,)."""
        import numpy as np

        return sums[:, 0] / np.maximum(sums[:, 1], 1.0)
