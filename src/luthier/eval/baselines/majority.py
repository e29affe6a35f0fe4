"""The label that is most frequent in training, for every row: what knowing nothing about the text scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.eval.baseline import Baseline
from luthier.eval.task import HeldOutTask, Reply, TaskKind

if TYPE_CHECKING:
    from luthier.chat.messages import Example


class MajorityBaseline(Baseline):
    """Always the label that is most frequent in training; its probabilities are the shares of the labels there."""

    kind: Literal["majority"] = "majority"
    tasks: ClassVar[frozenset[TaskKind]] = frozenset({"label"})
    title: ClassVar[str] = "always the most frequent label"

    def answer(self, train: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        counts = Counter(example.label for example in train)
        # one is added to each count, so that a label without training rows keeps a probability
        total = sum(counts[label] + 1 for label in task.labels)
        scores = {label: round(math.log((counts[label] + 1) / total), 6) for label in task.labels}
        most = max(task.labels, key=lambda label: scores[label])
        return [Reply(prediction=most, scores=scores) for _ in task.examples]
