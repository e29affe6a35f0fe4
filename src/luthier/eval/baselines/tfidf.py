"""TF-IDF with logistic regression: the classifier that every tuned model has to beat to be worth its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.eval.baseline import Baseline
from luthier.eval.baselines.majority import Majority
from luthier.eval.rows import Reply, Task, TaskKind
from luthier.text.messages import question_of

if TYPE_CHECKING:
    from luthier.text.messages import Example


class Tfidf(Baseline):
    """Words and pairs of words weighted by TF-IDF (sublinear), with logistic regression on the same training rows."""

    kind: Literal["tfidf"] = "tfidf"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"label"})
    title: ClassVar[str] = "TF-IDF with logistic regression"
    c: float = Field(default=10.0, gt=0)
    """Inverse strength of regularisation; 10 does well on short texts."""
    words: int = Field(default=2, ge=1, le=5)
    """Longest run of words that is a feature."""

    def answer(self, train: Sequence[Example], task: Task) -> list[Reply]:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        train = [example for example in train if example.label is not None]
        texts = [question_of(example) for example in train]
        vectorizer = TfidfVectorizer(ngram_range=(1, self.words), sublinear_tf=True)
        analyse = vectorizer.build_analyzer()
        if len({example.label for example in train}) < 2 or not any(analyse(text) for text in texts):
            return Majority().answer(train, task)  # nothing to learn from
        features = vectorizer.fit_transform(texts)
        model = LogisticRegression(C=self.c, max_iter=2000).fit(features, [example.label for example in train])
        chances = model.predict_proba(vectorizer.transform([question_of(example) for example in task.examples]))
        logs = np.log(np.maximum(chances, 1e-12)).round(6)
        unseen = {label: round(float(np.log(1e-12)), 6) for label in task.labels}
        return [_reply({**unseen, **dict(zip(model.classes_.tolist(), row.tolist(), strict=True))}) for row in logs]


def _reply(scores: dict[str, float]) -> Reply:
    return Reply(prediction=max(sorted(scores), key=lambda label: scores[label]), scores=scores)
