"""Whether an answer is in the right language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from luthier.core.errors import did_you_mean
from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class LanguageReward(Reward):
    """1 for an answer in one of the languages that are wanted, -1 for one in another, 0 where it is too short to
    tell."""

    kind: Literal["language"] = "language"

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """ISO 639 codes."""

    @field_validator("languages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from luthier.lang.detect import LANGUAGES

        for code in value:
            if code not in LANGUAGES:
                raise ValueError(f"{code!r} is no language that can be told; {did_you_mean(code, LANGUAGES)}")
        return value

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """1, 0 or -1 for each answer."""
        from luthier.lang.detect import UNKNOWN, identify_languages

        found = [guess.code for guess in identify_languages([attempt.text for attempt in attempts])]
        return [0.0 if code == UNKNOWN else 1.0 if code in self.languages else -1.0 for code in found]
