"""Error rates of transcripts: edits for each word or character of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.metrics.metric import EvalPredictions, Metric
from luthier.metrics.text.sequences import levenshtein_distance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block


class ErrorRate(Metric):
    """Base of error rates: all edits over all units of the references; above 1 when much is inserted."""

    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        pairs = zip(answers.predictions, answers.references, strict=True)
        return np.array([self._row(prediction, texts) for prediction, texts in pairs], dtype=np.float64)

    def _row(self, prediction: str, references: Sequence[str]) -> tuple[int, int]:
        """Edits and units of the reference that is nearest."""
        predicted_units = self.units(prediction)
        real = [self.units(text) for text in references]
        return min(
            ((levenshtein_distance(text, predicted_units), len(text)) for text in real),
            key=lambda pair: pair[0] / max(pair[1], 1),
        )

    def units(self, text: str) -> Sequence[str]:
        """What is counted: the words of a text."""
        return text.split()

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        some = np.where(sums[:, 0] > 0, 1.0, 0.0)
        return np.divide(sums[:, 0], sums[:, 1], out=some, where=sums[:, 1] > 0)


class Wer(ErrorRate):
    """Word error rate: insertions, deletions and substitutions of words, for each word of the references."""

    kind: Literal["wer"] = "wer"


class Cer(ErrorRate):
    """Character error rate: the same by characters, spaces included, without those at the ends."""

    kind: Literal["cer"] = "cer"

    def units(self, text: str) -> Sequence[str]:
        """What is counted: the characters of a text."""
        return text.strip()
