"""Right or wrong, by a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class RegexReward(Reward):
    """1 for an answer in which a pattern is found, else 0: that reasoning stands in its tags, say."""

    kind: Literal["regex"] = "regex"

    pattern: str = Field(min_length=1)
    """A regular expression of Python's, which `.` lets match line breaks; a slow one is a fault (`deadline_s`)."""
    where: Literal["anywhere", "whole"] = "anywhere"
    """Whether it may be a part of the answer, or must be all of it."""

    @field_validator("pattern")
    @classmethod
    def _a_pattern(cls, value: str) -> str:
        try:
            re.compile(value, re.DOTALL)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return value

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """1 or 0 for each answer."""
        pattern = re.compile(self.pattern, re.DOTALL)
        found = pattern.search if self.where == "anywhere" else pattern.fullmatch
        return [float(found(attempt.text.strip()) is not None) for attempt in attempts]
