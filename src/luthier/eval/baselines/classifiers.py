"""Baselines that classify: the most frequent label, the nearest training row, TF-IDF with logistic regression."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.chat.messages import answer_of, user_text_of
from luthier.core.errors import DataError
from luthier.core.messages import gettext_noop
from luthier.eval.baseline import Baseline
from luthier.eval.task import HeldOutTask, Reply, TaskKind
from luthier.models.text_classifier import MIN_DF, WORDS, C, TextClassifier, TextClassifierSettings

if TYPE_CHECKING:
    from luthier.chat.messages import Example


class MajorityBaseline(Baseline):
    """Always the label that is most frequent in training; its probabilities are the shares of the labels there."""

    kind: Literal["majority"] = "majority"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"label"})
    title: ClassVar[str] = gettext_noop("always the most frequent label")

    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        counts = Counter(example.label for example in train)
        # one is added to each count, so that a label without training rows keeps a probability
        total = sum(counts[label] + 1 for label in task.labels)
        scores = {label: round(math.log((counts[label] + 1) / total), 6) for label in task.labels}
        most = max(task.labels, key=lambda label: scores[label])
        return [Reply(prediction=most, scores=scores) for _ in task.examples]


_ROWS = 256
"""Held-out rows that are compared with all training rows at once."""


class NearestNeighborBaseline(Baseline):
    """The training answer whose question is nearest, by the cosine of TF-IDF; of equal ones, the first by its text."""

    kind: Literal["nearest"] = "nearest"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"text"})
    title: ClassVar[str] = gettext_noop("the answer of the nearest training question")
    words: int = Field(default=2, ge=1, le=5)
    """Longest run of words that is compared."""

    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer

        known = sorted({(user_text_of(example), answer_of(example)) for example in train})
        vectorizer = TfidfVectorizer(ngram_range=(1, self.words), sublinear_tf=True)
        analyse = vectorizer.build_analyzer()
        if not any(analyse(question) for question, _ in known):
            return [Reply(prediction="") for _ in task.examples]
        store = vectorizer.fit_transform([question for question, _ in known]).T.tocsr()
        replies: list[Reply] = []
        for start in range(0, len(task.examples), _ROWS):
            queries = vectorizer.transform([user_text_of(entry) for entry in task.examples[start : start + _ROWS]])
            nearest = np.asarray((queries @ store).todense()).round(9).argmax(axis=1)
            replies += [Reply(prediction=known[index][1]) for index in nearest.tolist()]
        return replies


class TfidfBaseline(Baseline):
    """Words and pairs of words weighted by TF-IDF (sublinear), with logistic regression on the same training rows.

    `technique: plain` makes the same classifier as a model.
    """

    kind: Literal["tfidf"] = "tfidf"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"label"})
    title: ClassVar[str] = gettext_noop("TF-IDF with logistic regression")
    c: float = Field(default=C, gt=0)
    """Inverse strength of regularization; 10 does well on short texts."""
    words: int = Field(default=WORDS, ge=1, le=5)
    """Longest run of words that is a feature."""
    min_df: int = Field(default=MIN_DF, ge=1)
    """Texts that a run of words stands in at least, to be a feature."""

    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        examples = [example for example in train if example.label is not None]
        settings = TextClassifierSettings(self.c, self.words, self.min_df)
        try:
            model = TextClassifier.fit(
                [user_text_of(example) for example in examples], [str(example.label) for example in examples], settings
            )
        except DataError:
            return MajorityBaseline().answer(examples, task)  # nothing to learn from
        scores = model.scores([user_text_of(example) for example in task.examples], task.labels)
        return [Reply.of_scores(row) for row in scores]
