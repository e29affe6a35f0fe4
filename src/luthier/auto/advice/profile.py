"""The profile of a data set that advice is drawn from: numbers alone, no texts."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from luthier.data.suggest.profile import SourceProfile
from luthier.data.suggest.separability import LabelSeparability

_USUAL_POWER = 0.35
"""Usual exponent of a classifier's error by rows."""
_MOST_TIMES = 32
"""Maximum factor of extrapolation beyond the measured rows."""
_PSEUDO = 2.0
"""Weight of the usual exponent, in doublings of the measured rows."""


class AdviceProfile(BaseModel):
    """What is known of rows before training."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    task: Literal["label", "text"]
    objective: str = "sft"
    rows: int
    """About how many rows are trained on."""
    held_out: int = 100
    """About how many rows the quality will be measured on."""
    classes: int = 0
    rarest: int = 0
    """Rows of the rarest class, of those that were counted."""
    prompt_words: float = 0
    answer_words: float = 0
    languages: tuple[str, ...] = ()
    """Languages of the prompts, most frequent first."""
    noise: float = 0
    """Share of the rows whose prompt another row has, too, with another class."""
    repeated: float = 0
    """Share of the rows looked at that are near copies of others, where that was looked for."""
    separability: LabelSeparability | None = None
    """How well words separate the classes; None where not measured."""

    def with_rows(self, rows: int) -> AdviceProfile:
        """Return the same profile with another number of rows."""
        return self.model_copy(update={"rows": rows})

    def plain_quality(self, metric: str) -> float | None:
        """Return the predicted quality of a plain classifier with all training rows; None where unknown."""
        separability = self.separability
        if separability is None:
            return None
        measured = max(separability.accuracy)
        value = separability.macro_f1 if metric == "macro_f1" else separability.accuracy[measured]
        error = max(1 - value, 0.5 / separability.rows)
        times = min(self.rows / measured, _MOST_TIMES)
        return 1 - error * times**-self.error_power if times > 1 else value

    @property
    def error_power(self) -> float:
        """The power of the number of rows by which the error falls, as measured between sizes, drawn to the usual."""
        separability = self.separability
        if separability is None or len(separability.accuracy) < 2:
            return _USUAL_POWER
        sizes = sorted(separability.accuracy)
        doublings = math.log2(sizes[-1] / sizes[0])
        first, last = (max(1 - separability.accuracy[size], 0.5 / separability.rows) for size in (sizes[0], sizes[-1]))
        measured = max(0.0, math.log2(first / last) / doublings)
        return (measured * doublings + _USUAL_POWER * _PSEUDO) / (doublings + _PSEUDO)


def build_advice_profile(
    source: SourceProfile, task: Literal["label", "text"], objective: str, rows: int, held_out: int
) -> AdviceProfile:
    """The profile of rows that were surveyed, of which `rows` are trained on and `held_out` measured on."""
    labels = {label: count for label, count in source.answers.items() if label not in source.spellings}
    twins = source.trials.get("near_dedup")
    return AdviceProfile(
        task=task,
        objective=objective,
        rows=max(1, rows),
        held_out=max(1, held_out),
        classes=len(labels) if task == "label" else 0,
        rarest=min(labels.values(), default=0) if task == "label" else 0,
        prompt_words=source.prompt_words,
        answer_words=source.answer_words,
        languages=tuple(source.languages),
        noise=round(source.conflicts / max(1, source.looked_at), 4),
        repeated=round(sum(twins.dropped.values()) / max(1, source.looked_at), 4) if twins else 0,
        separability=source.separability if task == "label" else None,
    )
