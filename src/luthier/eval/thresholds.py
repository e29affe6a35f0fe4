"""Thresholds for each group: from which probability on the positive label is given.

As fairlearn's `ThresholdOptimizer` (Hardt, Price and Srebro 2016), but without chance: where that one mixes two
thresholds to hit a rate exactly, here each group takes the threshold whose rate is nearest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.eval.model import EvalModel
from luthier.eval.predictions import softmax_scores
from luthier.eval.task import HeldOutTask, Reply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.chat.messages import Example

FILE = "thresholds.json"
GRID = 1000
"""Rates that are tried, as in fairlearn."""
Constraint = Literal["demographic_parity", "equal_opportunity"]


class Thresholds(BaseModel):
    """A threshold for each group by name; others keep the likeliest label."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    column: str
    positive: str
    by_group: dict[str, float]
    """The least probability of the positive label with which it is given."""

    @classmethod
    def of(cls, artifact: Artifact) -> Thresholds:
        """Those that an artifact holds."""
        return cls.model_validate(json.loads(artifact.path(FILE).read_text(encoding="utf-8")))

    def applied(self, example: Example, reply: Reply) -> Reply:
        """A reply with the label that the group's threshold gives."""
        threshold = self.by_group.get(str(example.meta.get(self.column)))
        if threshold is None or reply.scores is None or self.positive not in reply.scores:
            return reply
        scores = reply.scores
        others = [label for label in scores if label != self.positive]
        chosen = max(others, key=lambda label: scores[label])
        if softmax_scores(scores)[self.positive] >= threshold:
            chosen = self.positive
        return Reply(**{**vars(reply), "prediction": chosen})


class ThresholdedModel(EvalModel):
    """A model whose labels are decided by thresholds."""

    def __init__(self, eval_model: EvalModel, thresholds: Thresholds) -> None:
        from luthier.core.hashing import digest_of

        self.name, self.title, self.lm = eval_model.name, eval_model.title, eval_model.lm
        self._voice, self._thresholds = eval_model, thresholds
        self.digest = digest_of([eval_model.digest, thresholds.model_dump(mode="json")])

    def answer(self, examples: Sequence[Example], task: HeldOutTask) -> list[Reply]:
        """The model's answers, decided anew."""
        replies = self._voice.answer(examples, task)
        return [self._thresholds.applied(example, reply) for example, reply in zip(examples, replies, strict=True)]


def fit_thresholds(
    probabilities: Mapping[str, NDArray[np.float64]], real: Mapping[str, NDArray[np.bool_]], constraint: Constraint
) -> dict[str, float]:
    """The thresholds of each group with which most answers are right while all groups have the same rate.

    `softmax_scores` are probabilities of the positive label and `real` whether it is right, by group. The rate is the
    share that gets the label (demographic parity), or the share of those who should that do (equal opportunity).
    """
    import numpy as np

    curves = {name: _curve(probabilities[name], real[name], constraint) for name in sorted(probabilities)}
    best: tuple[float, dict[str, float]] = (-1.0, {})
    for rate in np.linspace(0, 1, GRID + 1):
        right, chosen = 0.0, {}
        for name, (rates, hits, thresholds) in curves.items():
            index = _nearest(rates, hits, float(rate))
            right, chosen[name] = right + hits[index], float(thresholds[index])
        if right > best[0]:
            best = (right, chosen)
    return best[1]


def _curve(
    chance: NDArray[np.float64], real: NDArray[np.bool_], constraint: Constraint
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """For each threshold that tells rows apart: the rate, how many answers are right, and the threshold itself."""
    import numpy as np

    levels = np.unique(chance)
    middles = (levels[1:] + levels[:-1]) / 2
    thresholds = np.concatenate([[0.0], middles, [np.nextafter(1.0, 2.0)]])
    given = chance[None, :] >= thresholds[:, None]
    counted = np.ones(len(real), bool) if constraint == "demographic_parity" else real
    rates = (given & counted).sum(axis=1) / max(int(counted.sum()), 1)
    return rates, (given == real).sum(axis=1).astype(float), thresholds


def _nearest(rates: NDArray[np.float64], hits: NDArray[np.float64], rate: float) -> int:
    """The threshold whose rate is nearest; of several, the one with most right answers."""
    import numpy as np

    distance = np.abs(rates - rate)
    near = np.flatnonzero(distance <= distance.min() + 1e-12)
    return int(near[np.argmax(hits[near])])
