"""A trained reward model, opened to judge answers: a number for each conversation.

It has a sequence head with one output, or is a language model that was taught to give a verdict when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, Where

Conversations = Sequence[tuple[Any, ...]]
"""Conversations that end with an answer."""
Tools = Sequence[tuple[dict[str, Any], ...]]
"""For each conversation the tools that are offered in it."""


class Reading(NamedTuple):
    """How conversations become the ids of the model in a folder."""

    whole: Callable[[Path, Conversations, Tools | None], list[list[int]]]
    """Each as it is, with the tools on offer where there are any."""
    asked: Callable[[Path, Conversations, Any], Sequence[tuple[list[int], list[list[int]]]]]
    """What is asked about its last turn, and the two verdicts."""


class Judge:
    """Gives a number for each conversation."""

    def __init__(self, artifact: Artifact, reading: Reading, precision: Literal["float32", "bfloat16", "auto"]) -> None:
        from luthier.models.load import base_folder, load, name_of

        self._model, self._folder, self._reading = load(artifact, precision).model, base_folder(artifact), reading
        self._verdict, self._name = verdict_of(artifact), name_of(artifact)

    def __call__(self, conversations: Conversations, tools: Tools | None = None) -> list[float]:
        """By its head, which reads the tools on offer as it did while it learnt, or by the verdict that it was taught
        to give; `ModelError` for a model with neither."""
        from luthier.models.generate import rewards
        from luthier.models.sequence import names_of, plain_model

        if self._verdict is not None:
            return self.odds(conversations, self._verdict)
        if len(names_of(plain_model(self._model))) != 1:
            remedy = "name a step that tunes with the objective `reward`, or ask it by a rubric: the reward `verdict`"
            raise ModelError(f"{self._name} is no reward model", where=Where(field="reward_model"), remedy=remedy)
        return rewards(self._model, self._reading.whole(self._folder, conversations, tools))

    def odds(self, conversations: Conversations, verdict: Any) -> list[float]:
        """log p(yes) - log p(no), asked by a rubric."""
        return odds(self._model, self._reading.asked(self._folder, conversations, verdict))


def odds(model: Any, asked: Sequence[tuple[list[int], list[list[int]]]], **how: Any) -> list[float]:
    """log p(yes) - log p(no) for each question as ids with its two verdicts; `how` is that of `score_options`."""
    from luthier.models.generate import score_options

    found = score_options(model, [before for before, _ in asked], [verdicts for _, verdicts in asked], **how)
    return [yes - no for yes, no in found]


def verdict_of(artifact: Artifact) -> Any:
    """What a generative judge was taught to be asked; None for any other model."""
    from luthier.models.load import is_endpoint, weights_of
    from luthier.text.training import TrainingRecord

    own = artifact if is_endpoint(artifact) else weights_of(artifact)
    return TrainingRecord.read(own).verdict if "model" in own.manifest.inputs else None
