"""Metrics of answers about pictures: VQA accuracy, ANLS, relaxed accuracy, overlap of boxes, and CIDEr-D of captions.

Antol et al. 2015 (VQA); Biten et al. 2019 (ANLS); Masry et al. 2022 (ChartQA); Vedantam et al. 2015 (CIDEr).
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.core.errors import DataError, SourceLocation
from luthier.metrics.kinds.answers import ratio_of_sums
from luthier.metrics.metric import EvalPredictions, Form, Metric
from luthier.metrics.text.sequences import levenshtein_distance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block

_NUMBERS = ["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_DIGITS = {word: str(max(number - 1, 0)) for number, word in enumerate(_NUMBERS)}
_ARTICLES = frozenset({"a", "an", "the"})
_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_BOX = re.compile(r"-?\d+(?:\.\d+)?")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
CIDER_ORDERS = 4
"""Words of the longest runs that CIDEr compares."""
CIDER_SIGMA = 6.0
"""Width of CIDEr-D's penalty for a difference in length, in words."""


class RowMean(Metric):
    """Base of metrics that are the mean of a score of each row, the best reference of each counting."""

    about: ClassVar[Literal["classes", "texts"] | None] = "texts"

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        pairs = zip(answers.predictions, answers.references, strict=True)
        scores = [self.score(row, prediction, references) for row, (prediction, references) in enumerate(pairs)]
        return np.stack([np.array(scores, dtype=np.float64), np.ones(len(scores))], axis=1)

    def score(self, row: int, prediction: str, references: Sequence[str]) -> float:
        """What one row comes to; `row` counts from 0."""
        raise NotImplementedError

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)


class VqaAccuracy(RowMean):
    """Agreement with several people's answers: right when three of the others say the same, in part when fewer do.

    Averaged over leaving out each reference, as the VQA challenge does. Case, punctuation, English articles,
    apostrophes and number words up to ten are overlooked. With fewer than four references, all others must agree; one
    reference must be met.
    """

    kind: Literal["vqa_accuracy"] = "vqa_accuracy"

    def score(self, row: int, prediction: str, references: Sequence[str]) -> float:
        """The mean over left-out references of min(1, matches / 3)."""
        predicted, real = normalize_vqa_answer(prediction), [normalize_vqa_answer(text) for text in references]
        matches, others = real.count(predicted), len(real) - 1
        if not others:
            return float(matches)
        needed = min(3, others)
        without = min(1.0, (matches - 1) / needed) if matches else 0.0
        return (matches * without + (len(real) - matches) * min(1.0, matches / needed)) / len(real)


class Anls(RowMean):
    """Average normalized Levenshtein similarity, for text that is read off a picture; below the threshold it is 0."""

    kind: Literal["anls"] = "anls"
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Similarity below which an answer counts as wrong."""

    def score(self, row: int, prediction: str, references: Sequence[str]) -> float:
        """The greatest similarity with a reference, case and spaces at the ends and between words overlooked."""
        predicted = " ".join(prediction.lower().split())
        best = max(_similarity(predicted, " ".join(text.lower().split())) for text in references)
        return best if best >= self.threshold else 0.0


class RelaxedAccuracy(RowMean):
    """Share of right answers about charts: a number may lie off by a share of the reference, a text must be equal."""

    kind: Literal["relaxed_accuracy"] = "relaxed_accuracy"
    proportion: ClassVar[bool] = True
    tolerance: float = Field(default=0.05, ge=0)
    """How far a number may lie off, as a share of the reference."""

    def score(self, row: int, prediction: str, references: Sequence[str]) -> float:
        """1 where one reference is met; `12 %` is 0.12, and case is overlooked."""
        return float(any(self._is_met(prediction.strip(), text.strip()) for text in references))

    def _is_met(self, prediction: str, reference: str) -> bool:
        predicted, real = _read_number(prediction), _read_number(reference)
        if predicted is None or real is None:
            return prediction.lower() == reference.lower()
        return abs(predicted - real) <= self.tolerance * abs(real)


class BoxIou(RowMean):
    """Mean overlap of boxes, intersection over union; an answer without four numbers overlaps with nothing.

    A box is `x1, y1, x2, y2`: the first four numbers of a text, in any notation such as JSON, corners in any order.
    """

    kind: Literal["iou"] = "iou"
    form: ClassVar[Form] = "box"
    threshold: float | None = Field(default=None, gt=0, le=1)
    """Overlap from which an answer counts as right, which makes the value the share of right answers; without it the
    value is the mean overlap."""

    def score(self, row: int, prediction: str, references: Sequence[str]) -> float:
        """The greatest overlap with a reference, or whether it reaches the threshold."""
        real = [_read_box(text) for text in references]
        if None in real:
            what = f"row {row + 1}: the reference {references[real.index(None)][:60]!r} is no box"
            hint = "write four numbers, x1, y1, x2, y2, or leave the metric iou out"
            raise DataError(what, where=SourceLocation(field="reference"), hint=hint)
        predicted = _read_box(prediction)
        best = max((_overlap(predicted, box) for box in real if box), default=0.0) if predicted else 0.0
        return best if self.threshold is None else float(best >= self.threshold)


class Cider(Metric):
    """CIDEr-D of captions: n-grams shared with the references, rare ones counting more, from 0 to 10.

    How rare an n-gram is follows from all references of these rows, so values of different sets cannot be compared.
    Texts are split at spaces, in lower case and without punctuation.
    """

    kind: Literal["cider"] = "cider"
    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    bounds: ClassVar[tuple[float, float]] = (0.0, 10.0)
    usual: ClassVar[tuple[float, float]] = (0.0, 10.0)

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        references = [[count_ngrams(text) for text in row] for row in answers.references]
        documents = Counter(ngram for row in references for ngram in set().union(*row))
        rarity = {ngram: math.log(len(references)) - math.log(number) for ngram, number in documents.items()}
        unseen = math.log(len(references))
        scores = [
            sum(_compare_captions(count_ngrams(text), real, rarity, unseen) for real in row) / len(row)
            for text, row in zip(answers.predictions, references, strict=True)
        ]
        return np.stack([np.array(scores, dtype=np.float64), np.ones(len(scores))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def undefined(self, answers: EvalPredictions) -> str:
        if len(set(answers.references)) > 1:
            return ""
        return "all rows have the same references, so that no n-gram is rarer than another"


def normalize_vqa_answer(text: str) -> str:
    """Lower case, digits for number words, without punctuation, apostrophes and English articles."""
    text = " ".join(text.lower().replace(",", "").replace("?", "").split())
    joined = bool(_COMMA_IN_NUMBER.search(text))
    for sign in _VQA_PUNCTUATION:
        at_edge = joined or f"{sign} " in text or f" {sign}" in text
        text = text.replace(sign, "" if at_edge else " ")
    words = _PERIOD.sub("", text).replace("'", "").split()
    return " ".join(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)


def _similarity(left: str, right: str) -> float:
    """1 minus the edits between two texts over the length of the longer one."""
    longest = max(len(left), len(right))
    return 1.0 if not longest else 1.0 - levenshtein_distance(left, right) / longest


def _read_number(text: str) -> float | None:
    try:
        number = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _read_box(text: str) -> tuple[float, float, float, float] | None:
    numbers = [float(number) for number in _BOX.findall(text)[:4]]
    if len(numbers) < 4:
        return None
    (left, right), (top, bottom) = sorted(numbers[::2]), sorted(numbers[1::2])
    return left, top, right, bottom


def _overlap(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Intersection over union; two boxes without area overlap when they are the same."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = sum((one[2] - one[0]) * (one[3] - one[1]) for one in (box, other)) - shared
    return shared / union if union > 0 else float(box == other)


def count_ngrams(text: str) -> Counter[tuple[str, ...]]:
    """How often each run of one to four words stands in a text."""
    words = text.lower().translate(_PUNCTUATION).split()
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, CIDER_ORDERS + 1)
        for start in range(len(words) - order + 1)
    )


def _compare_captions(
    predicted: Mapping[tuple[str, ...], int],
    real: Mapping[tuple[str, ...], int],
    rarity: Mapping[tuple[str, ...], float],
    unseen: float,
) -> float:
    """CIDEr-D of one caption and one reference."""
    total = 0.0
    lengths = [sum(number for ngram, number in counts.items() if len(ngram) == 2) for counts in (predicted, real)]
    for order in range(1, CIDER_ORDERS + 1):
        ours, theirs = (
            {ngram: number * rarity.get(ngram, unseen) for ngram, number in counts.items() if len(ngram) == order}
            for counts in (predicted, real)
        )
        norm = math.sqrt(sum(weight * weight for weight in ours.values()))
        norm *= math.sqrt(sum(weight * weight for weight in theirs.values()))
        shared = sum(min(weight, theirs.get(ngram, 0.0)) * theirs.get(ngram, 0.0) for ngram, weight in ours.items())
        total += shared / norm if norm else 0.0
    penalty = math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * CIDER_SIGMA**2))
    return 10.0 * penalty * total / CIDER_ORDERS
