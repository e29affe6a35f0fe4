"""The answer of the most similar training question: what looking it up scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.chat.messages import answer_of, user_text_of
from luthier.eval.baseline import Baseline
from luthier.eval.task import HeldOutTask, Reply, TaskKind

if TYPE_CHECKING:
    from luthier.chat.messages import Example

_ROWS = 256
"""Held-out rows that are compared with all training rows at once."""


class NearestNeighborBaseline(Baseline):
    """The training answer whose question is nearest, by the cosine of TF-IDF; of equal ones, the first by its text."""

    kind: Literal["nearest"] = "nearest"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"text"})
    title: ClassVar[str] = "the answer of the nearest training question"
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
