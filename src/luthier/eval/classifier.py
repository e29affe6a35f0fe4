"""Asking a plain classifier: the class of each row, with the probability of every class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.eval.rows import Reply, Task
from luthier.eval.voice import Voice
from luthier.text.messages import question_of

if TYPE_CHECKING:
    from luthier.models.text_classifier import TextClassifier
    from luthier.text.messages import Example


class Classifier(Voice):
    """A model of `technique: plain`; its vocabulary is read when the first rows are asked."""

    def __init__(self, artifact: Artifact, *, name: str, title: str) -> None:
        self.name, self.title, self.digest = name, title, artifact.digest
        self._artifact = artifact

    @cached_property
    def _model(self) -> TextClassifier:
        from luthier.models.text_classifier import TextClassifier

        return TextClassifier.open(self._artifact.folder)

    def answer(self, examples: Sequence[Example], task: Task) -> list[Reply]:
        """Name the class of some rows."""
        if task.kind != "label" or task.pairs:
            wanted = "which of two answers is better" if task.pairs else "written answers"
            what = f"a plain classifier names classes, and these rows ask for {wanted}"
            raise DataError(what, remedy="evaluate it on rows of classes")
        if not {*task.options} & {*self._model.classes}:
            what = f"no class of these rows is one of the classifier's ({', '.join(self._model.classes)})"
            raise DataError(what, remedy="evaluate it on rows like those that it was made from")
        scores = self._model.scores([question_of(example) for example in examples], task.labels)
        return [Reply.of_scores(row) for row in scores]
