"""ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum: overlap of words and of longest common subsequences with a reference.

Lin 2004; the value is the mean F1 over rows, the best reference of each row counts. With the default words it equals
the package rouge-score, with and without stemming; those words are Latin letters and digits only, so that text in other
scripts needs `words: unicode`.
"""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.metrics.kinds.answers import ratio_of_sums
from luthier.metrics.metric import EvalPredictions, Metric
from luthier.metrics.text.sequences import lcs_length, lcs_positions
from luthier.metrics.text.stems import stem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block

_LATIN = re.compile(r"[a-z0-9]+")
_SHORT = 3
"""Words of so many letters or fewer are not stemmed, as in rouge-score."""
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"


class Rouge(Metric):
    """Base of the ROUGE family."""

    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    version: ClassVar[int] = 2

    words: Literal["latin", "unicode"] = "latin"
    """What a word is: `latin` runs of a-z and 0-9, as in rouge-score; `unicode` words of any script, with Chinese,
    Japanese, Thai, Lao, Khmer and Burmese taken sign by sign."""
    stem: bool = False
    """Whether English words are compared by their stems (Porter's, as in rouge-score)."""

    @abstractmethod
    def overlap(self, reference: str, prediction: str) -> tuple[int, int, int]:
        """What both share, what the prediction has, what the reference has."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        best = [
            max(f1(*self.overlap(reference, prediction)) for reference in references)
            for prediction, references in zip(answers.predictions, answers.references, strict=True)
        ]
        return np.stack([np.array(best), np.ones(len(best))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def split(self, text: str) -> list[str]:
        """A text's words."""
        words: list[str] = (_LATIN if self.words == "latin" else _unicode()).findall(text.lower())
        return [stem(word) if len(word) > _SHORT else word for word in words] if self.stem else words


class Rouge1(Rouge):
    """Mean F1 of shared words."""

    kind: Literal["rouge1"] = "rouge1"

    def overlap(self, reference: str, prediction: str) -> tuple[int, int, int]:
        return count_shared_ngrams(self.split(reference), self.split(prediction), 1)


class Rouge2(Rouge):
    """Mean F1 of shared pairs of neighbouring words."""

    kind: Literal["rouge2"] = "rouge2"

    def overlap(self, reference: str, prediction: str) -> tuple[int, int, int]:
        return count_shared_ngrams(self.split(reference), self.split(prediction), 2)


class RougeL(Rouge):
    """Mean F1 of the longest common subsequence of words."""

    kind: Literal["rougeL"] = "rougeL"

    def overlap(self, reference: str, prediction: str) -> tuple[int, int, int]:
        real, predicted = self.split(reference), self.split(prediction)
        return lcs_length(real, predicted), len(predicted), len(real)


class RougeLsum(Rouge):
    """Mean F1 of the union of longest common subsequences over lines: for summaries with one sentence a line."""

    kind: Literal["rougeLsum"] = "rougeLsum"

    def overlap(self, reference: str, prediction: str) -> tuple[int, int, int]:
        real = [self.split(line) for line in reference.split("\n") if line]
        predicted = [self.split(line) for line in prediction.split("\n") if line]
        return count_union_lcs_hits(real, predicted), sum(map(len, predicted)), sum(map(len, real))


@cache
def _unicode() -> re.Pattern[str]:
    """Words of any script with their vowel signs and accents; signs of scripts without spaces one by one."""
    marks = "".join(char for char in map(chr, range(0x300, 0x10000)) if unicodedata.category(char)[0] == "M")
    return re.compile(rf"[{_UNSPACED}]|(?:[^\W_{_UNSPACED}][{marks}]*)+")


def count_shared_ngrams(reference: Sequence[str], prediction: Sequence[str], size: int) -> tuple[int, int, int]:
    """Runs of `size` words: shared, in the prediction, in the reference."""
    real = Counter(zip(*(reference[i:] for i in range(size)), strict=False))
    predicted = Counter(zip(*(prediction[i:] for i in range(size)), strict=False))
    return (real & predicted).total(), predicted.total(), real.total()


def count_union_lcs_hits(reference: Sequence[Sequence[str]], prediction: Sequence[Sequence[str]]) -> int:
    """Words of the reference's lines on a common subsequence with any predicted line, none counted twice."""
    left_real = Counter(word for line in reference for word in line)
    left_said = Counter(word for line in prediction for word in line)
    hits = 0
    for line in reference:
        union = sorted({position for predicted_line in prediction for position in lcs_positions(line, predicted_line)})
        for word in (line[position] for position in union):
            if left_said[word] > 0 and left_real[word] > 0:
                hits += 1
                left_said[word] -= 1
                left_real[word] -= 1
    return hits


def f1(shared: int, predicted: int, real: int) -> float:
    """F1 of counts; 0 when nothing is shared."""
    if shared == 0:
        return 0.0
    precision, recall = shared / predicted, shared / real
    return 2 * precision * recall / (precision + recall)
