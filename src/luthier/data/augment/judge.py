"""The plain classifier that must still see a made row's class in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.dedup.shingles import digest8

if TYPE_CHECKING:
    from luthier.data.augment.rows import SplitRows

MOST_ROWS = 50_000
"""Rows that the classifier learns from at most: more change little, and cost minutes."""
_C = 10.0
"""Inverse strength of regularisation, as the baseline of evaluations has it."""


class TfidfLabelClassifier:
    """TF-IDF of words and pairs of words with logistic regression, each class weighing the same."""

    def __init__(self, vectorizer: Any, model: Any) -> None:
        self._vectorizer, self._model = vectorizer, model

    @classmethod
    def learn(cls, train: SplitRows) -> TfidfLabelClassifier | None:
        """Learn from real training rows; None when there are no words or no classes to learn."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        real = [index for index in range(len(train)) if index not in train.made]
        chosen = sorted(sorted(real, key=lambda index: digest8(train.ids[index]))[:MOST_ROWS])
        rows = [train.row(index) for index in chosen]
        texts, labels = [row.prompt for row in rows], [train.classes[index] for index in chosen]
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        analyse = vectorizer.build_analyzer()
        if len(set(labels)) < 2 or not any(analyse(text) for text in texts):
            return None
        features = vectorizer.fit_transform(texts)
        return cls(vectorizer, LogisticRegression(C=_C, max_iter=2000, class_weight="balanced").fit(features, labels))

    def label(self, texts: Sequence[str]) -> list[str | None]:
        """The class that is seen in each text."""
        return [str(label) for label in self._model.predict(self._vectorizer.transform(texts))]
