"""How answers are drawn from the model that learns, how far it may go from where it began, and when it is to stop."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.core.component import add_field_descriptions, refuse_unknown_settings
from luthier.tune.environment import Environment
from luthier.tune.rollout_generator import RolloutGenerator

CHARACTERS_PER_TOKEN = 4
"""In plain English."""
HELD_TOKENS = 1 << 17
"""Tokens of prompts and answers that may be held at once while answers are drawn, at most."""


class _Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        return refuse_unknown_settings(cls, value)


class RolloutSettings(_Settings):
    """Settings of sampling answers, always at temperature 1 from the whole vocabulary."""

    num_generations: int = Field(default=8, ge=1, le=1024)
    """Answers to each prompt, which stand against one another."""
    max_completion_length: int = Field(default=256, ge=1)
    """Longest answer; longer ones fall under `truncated`."""
    max_prompt_length: int = Field(default=1024, ge=1)
    """Longer prompts are left out, counted, listed in `training_examples.parquet` and warned of."""
    steps_per_generation: int = Field(default=1, ge=1)
    """Optimizer steps that learn from answers drawn at once, each from its own. With 1 every answer comes from the
    weights that it changes; more draw more together, which is quicker, and clip."""
    redraw: int = Field(default=0, ge=0)
    """How often prompts whose answers are all worth the same are replaced by others (DAPO's dynamic sampling). Only
    where answers to one prompt are held against one another, so that equal ones teach nothing: not under `ppo`, nor
    `reinforce++` without `baseline: group`, nor `raft` with `min`."""
    environment: Environment | None = None
    """Who answers the model between two of its turns: a tool, or somebody who talks with it. What it says is read and
    never learnt. `max_completion_length` then holds for each turn. None: the model has one turn."""
    writer: RolloutGenerator | None = None
    """Who draws answers in the model's place, such as an engine on other machines; None: the model itself, here."""
    truncated: Literal["learn", "mask"] | float = "learn"
    """What becomes of an answer that the limit cuts off: judged and learnt like others; judged but not learnt (`mask`,
    DAPO's overlong filtering); or learnt, and worth this number whatever it says."""

    @property
    def written(self) -> int:
        """Tokens of an answer that the model writes, at most."""
        return self.max_completion_length * (self.environment.turns if self.environment is not None else 1)

    @property
    def longest(self) -> int:
        """About how many tokens an answer, or a whole conversation, has at most."""
        if self.environment is None:
            return self.max_completion_length
        environment_tokens = self.environment.longest // CHARACTERS_PER_TOKEN + 8
        return self.written + environment_tokens * (self.environment.turns - 1)


class KlSettings(_Settings):
    """Settings of the KL penalty towards the reference model."""

    coefficient: float = Field(gt=0)
    """How much a nat of divergence costs: 0.001 to 0.1."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """With d = log p - log q of a written token under the model and where it began: `k1`, d, is taken off the reward;
    `k2`, d²/2, whose gradient is that of the divergence, and `k3`, exp(-d) - 1 + d, which is never below zero, are
    added to the loss (Schulman, 2020)."""
    unbiased: bool = True
    """Whether `k2` and `k3` are weighed by how much likelier a token has become since it was written: their gradient is
    then that of the divergence of the model as it is now (for `k3` as in DeepSeek-V3.2, 2025). Nothing under `k1`."""
    target: float | None = Field(default=None, gt=0)
    """Divergence in nats a token at which to stay: the coefficient rises or falls by up to 2 % a step (Ziegler et al.,
    2019). It stays as it is when not given."""


class EarlyStoppingSettings(_Settings):
    """When training ends before its last step."""

    kl: float | None = Field(default=None, gt=0)
    """Above this divergence from where it began, in nats a token, measured on the answers of a step."""
    hacking: int | None = Field(default=None, ge=1)
    """After so many measurements in a row in which the held-out reward is below its best while the reward that is
    learnt is above what it was then; needs `validation`."""
