"""Error rates of transcripts: edits for each word or character of the reference.

Normalizers are those with which Whisper's error rates are published (Radford et al. 2022, appendix C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.metrics.metric import EvalPredictions, Metric
from luthier.metrics.text.sequences import levenshtein_distance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block


@cache
def load_normalizer(name: Literal["none", "basic", "english"]) -> Callable[[str], str]:
    """The function that makes a text ready to be compared."""
    if name == "none":
        return str
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer({}) if name == "english" else BasicTextNormalizer()
    return normalizer


class ErrorRate(Metric):
    """Base of error rates: all edits over all units of the references; above 1 when much is inserted."""

    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    normalizer: Literal["none", "basic", "english"] = "none"
    """What is overlooked: `none` nothing, `basic` case, punctuation and what stands in brackets, `english` besides
    fillers, contractions and how numbers are written (British spellings stay)."""

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {} if self.normalizer == "none" else {"transformers": version("transformers")}

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        pairs = zip(answers.predictions, answers.references, strict=True)
        return np.array([self._row(prediction, texts) for prediction, texts in pairs], dtype=np.float64)

    def _row(self, prediction: str, references: Sequence[str]) -> tuple[int, int]:
        """Edits and units of the reference that is nearest."""
        normalize = load_normalizer(self.normalizer)
        predicted_units = self.units(normalize(prediction))
        real = [self.units(normalize(text)) for text in references]
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
