"""Rewards computed from the completion's text alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.core.errors import did_you_mean
from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class RegexReward(Reward):
    """1 for an answer in which a pattern is found, else 0: that reasoning stands in its tags, say."""

    kind: Literal["regex"] = "regex"

    pattern: str = Field(min_length=1)
    """A Python regular expression in which `.` also matches line breaks; a slow one is a fault (`deadline_s`)."""
    where: Literal["anywhere", "whole"] = "anywhere"
    """Whether it may match a part of the answer, or must match all of it."""

    @field_validator("pattern")
    @classmethod
    def _a_pattern(cls, value: str) -> str:
        try:
            re.compile(value, re.DOTALL)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return value

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return 1 or 0 for each completion."""
        pattern = re.compile(self.pattern, re.DOTALL)
        match = pattern.search if self.where == "anywhere" else pattern.fullmatch
        return [float(match(attempt.text.strip()) is not None) for attempt in attempts]


class LengthReward(Reward):
    """0 for an answer of up to `free` tokens, then falling in a line to -1 at `max` tokens and beyond.

    DAPO's soft punishment of overlong answers (Yu et al., 2025). An answer that the limit of the rollout cuts off is
    judged by what is there: see `rollout.truncated`.
    """

    kind: Literal["length"] = "length"

    free: int = Field(ge=0)
    """Tokens without penalty."""
    max: int = Field(ge=1)
    """Tokens from which on the reward is -1."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.max <= self.free:
            raise ValueError(f"max ({self.max}) must be above free ({self.free})")
        return self

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return a number from 0 down to -1 for each completion."""
        wide = self.max - self.free
        return [-min(1.0, max(0.0, (attempt.tokens - self.free) / wide)) for attempt in attempts]


class RepetitionReward(Reward):
    """Minus the share of an answer's runs of words that stood in it before: 0 when nothing is said twice."""

    kind: Literal["repetition"] = "repetition"

    n: int = Field(default=3, ge=1, le=20)
    """Words of an n-gram."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return a number from 0 down to almost -1 for each completion."""
        return [-self._repeated_share(attempt.text.lower().split()) for attempt in attempts]

    def _repeated_share(self, words: list[str]) -> float:
        runs = [tuple(words[at : at + self.n]) for at in range(len(words) - self.n + 1)]
        return 1 - len(set(runs)) / len(runs) if runs else 0.0


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
        """Return 1, 0 or -1 for each completion."""
        from luthier.lang.detect import UNKNOWN, identify_languages

        codes = [guess.code for guess in identify_languages([attempt.text for attempt in attempts])]
        return [0.0 if code == UNKNOWN else 1.0 if code in self.languages else -1.0 for code in codes]


class ToxicityReward(Reward):
    """Minus the share of an answer's words that stand on lists of swear words (the extra `toxicity`): 0 for none.

    A list knows no context: it finds an insult and the report of one alike, and nothing that is cruel in plain words.
    """

    kind: Literal["toxicity"] = "toxicity"
    libraries: ClassVar[Mapping[str, str]] = {"badwords": "toxicity"}

    languages: tuple[str, ...] = Field(default=("en",), min_length=1)
    """Languages whose lists are used."""
    ignore: tuple[str, ...] = ()
    """Words that are no insult here."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return a number from 0 down to -1 for each completion."""
        from luthier.lang.lexicons import count_swear_words

        texts = [attempt.text for attempt in attempts]
        counts = count_swear_words(texts, self.languages, self.ignore)
        return [-min(1.0, count / max(1, len(text.split()))) for count, text in zip(counts, texts, strict=True)]
