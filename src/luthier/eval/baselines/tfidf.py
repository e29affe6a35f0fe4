"""TF-IDF with logistic regression: the classifier that every tuned model has to beat to be worth its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.chat.messages import user_text_of
from luthier.core.errors import DataError
from luthier.eval.baseline import Baseline
from luthier.eval.baselines.majority import MajorityBaseline
from luthier.eval.task import HeldOutTask, Reply, TaskKind
from luthier.models.text_classifier import MIN_DF, WORDS, C, TextClassifier, TextClassifierSettings

if TYPE_CHECKING:
    from luthier.chat.messages import Example


class TfidfBaseline(Baseline):
    """Words and pairs of words weighted by TF-IDF (sublinear), with logistic regression on the same training rows.

    `technique: plain` makes the same classifier as a model.
    """

    kind: Literal["tfidf"] = "tfidf"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"label"})
    title: ClassVar[str] = "TF-IDF with logistic regression"
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
