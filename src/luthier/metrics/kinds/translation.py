"""BLEU, chrF and TER with sacrebleu's tokenization and counts, so that values are comparable with published ones.

Papineni et al. 2002; Popović 2015; Snover et al. 2006; Post 2018 (sacrebleu). On a scale of 0 to 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.metrics.metric import EvalPredictions, Metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block

PIECE = 1000
"""Rows counted at once: sacrebleu keeps all n-grams of the references that it is given."""


class SacrebleuMetric(Metric):
    """Base of metrics whose counts a row come from sacrebleu."""

    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    bounds: ClassVar[tuple[float, float]] = (0.0, 100.0)
    usual: ClassVar[tuple[float, float]] = (0.0, 100.0)

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {"sacrebleu": version("sacrebleu")}


class Bleu(SacrebleuMetric):
    """BLEU over the whole corpus: words and runs of up to four words that are also in the reference."""

    kind: Literal["bleu"] = "bleu"
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """sacrebleu's tokenizer: `13a` for languages with spaces, `zh` for Chinese, `char` by sign."""
    lowercase: bool = False
    """Whether case is overlooked."""

    def statistics(self, answers: EvalPredictions) -> Block:
        from sacrebleu.metrics.bleu import BLEU

        return sacrebleu_row_statistics(BLEU(tokenize=self.tokenize, lowercase=self.lowercase, force=True), answers)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        values: NDArray[np.float64]
        predicted, real, right, total = sums[:, 0], sums[:, 1], sums[:, 2:6], sums[:, 6:10]
        smaller = 2.0 ** -np.cumsum((right == 0) & (total > 0), axis=1)  # exponential smoothing of empty orders
        with np.errstate(divide="ignore"):
            chance = np.where(right > 0, right, smaller) / np.where(total > 0, total, 1)
            logs = np.where(total > 0, np.log(chance), -np.inf).mean(axis=1)
            penalty = np.where(predicted < real, 1 - real / np.where(predicted > 0, predicted, 1), 0.0)
        values = np.where(right.any(axis=1), 100 * np.exp(logs + penalty), 0.0)
        return values


class Chrf(SacrebleuMetric):
    """chrF: F-score (recall counts twice) of runs of up to six characters shared with the reference."""

    kind: Literal["chrf"] = "chrf"
    word_order: int = Field(default=0, ge=0, le=4)
    """Longest run of words that also counts; 2 makes it chrF++."""
    lowercase: bool = False
    """Whether case is overlooked."""

    def statistics(self, answers: EvalPredictions) -> Block:
        from sacrebleu.metrics.chrf import CHRF

        return sacrebleu_row_statistics(CHRF(word_order=self.word_order, lowercase=self.lowercase), answers)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        predicted, real, shared = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
        used = (predicted > 0) & (real > 0)
        orders = np.maximum(used.sum(axis=1), 1)
        precision = np.divide(shared, predicted, out=np.zeros_like(shared), where=used).sum(axis=1) / orders
        recall = np.divide(shared, real, out=np.zeros_like(shared), where=used).sum(axis=1) / orders
        below: NDArray[np.float64] = 4 * precision + recall
        values: NDArray[np.float64] = 500 * precision * recall
        return np.divide(values, below, out=np.zeros(len(sums)), where=below > 0)


class Ter(SacrebleuMetric):
    """Translation edit rate: edits and moves of blocks needed, for a hundred words of the reference."""

    kind: Literal["ter"] = "ter"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    normalized: bool = False
    """Whether punctuation is split off before words are counted."""
    case_sensitive: bool = False
    """Whether case matters."""

    def statistics(self, answers: EvalPredictions) -> Block:
        from sacrebleu.metrics.ter import TER

        return sacrebleu_row_statistics(TER(normalized=self.normalized, case_sensitive=self.case_sensitive), answers)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        some = np.where(sums[:, 0] > 0, 100.0, 0.0)
        return np.divide(100 * sums[:, 0], sums[:, 1], out=some, where=sums[:, 1] > 0)


def sacrebleu_row_statistics(metric: Any, answers: EvalPredictions) -> Block:
    """sacrebleu's sufficient statistics of each row, (rows, k).

    They are not part of its public interface, but its own significance tests stand on them and they have been the
    same since 2.0; a test compares the values made from them with `corpus_score`.
    """
    import numpy as np

    pieces = []
    for start in range(0, len(answers), PIECE):
        rows = slice(start, start + PIECE)
        streams = reference_streams(answers.references[rows])
        pieces.append(np.array(metric._extract_corpus_statistics(answers.predictions[rows], streams), dtype=np.float64))
    return np.concatenate(pieces)


def reference_streams(references: Sequence[tuple[str, ...]]) -> list[list[str | None]]:
    """sacrebleu's form: the first reference of every row, then the second where there is one, and so on."""
    most = max(len(row) for row in references)
    return [[row[index] if index < len(row) else None for row in references] for index in range(most)]
