"""Settings of rollouts: sampling, the KL penalty and early stopping."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.core.component import add_field_descriptions, refuse_unknown_settings
from luthier.tune.environment import Environment
from luthier.tune.rollout_generator import RolloutGenerator

CHARACTERS_PER_TOKEN = 4
"""In plain English."""
HELD_TOKENS = 1 << 17
"""Maximum tokens of prompts and completions that are held at once during sampling."""


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
    """Completions of each prompt, which form a group."""
    max_completion_length: int = Field(default=256, ge=1)
    """Maximum tokens of a completion; longer ones are handled by `truncated`."""
    max_prompt_length: int = Field(default=1024, ge=1)
    """Longer prompts are left out, counted, listed in `training_examples.parquet` and warned of."""
    steps_per_generation: int = Field(default=1, ge=1)
    """Optimizer steps that share one sampling phase, each with completions of its own. With 1 every completion comes
    from the weights that it updates; larger values sample more at once, which is faster, and need clipping."""
    redraw: int = Field(default=0, ge=0)
    """How often prompts whose completions all have the same reward are replaced by others (DAPO's dynamic sampling).
    Only where completions of one prompt are compared, so that equal ones give no gradient: not under `ppo`, nor
    `reinforce++` without `baseline: group`, nor `raft` with `min`."""
    environment: Environment | None = None
    """Who answers the model between two of its turns: a tool, or somebody who talks with it. What it says is read and
    never learnt. `max_completion_length` then holds for each turn. None: the model has one turn."""
    writer: RolloutGenerator | None = None
    """An engine that samples completions in the model's place, such as one on other machines; None: the model itself,
    here."""
    truncated: Literal["learn", "mask"] | float = "learn"
    """Handling of a completion that the limit cuts off: scored and trained on like others; scored but not trained on
    (`mask`, DAPO's overlong filtering); or trained on with this number as its reward."""

    @property
    def written(self) -> int:
        """Maximum tokens of a completion that the model writes."""
        return self.max_completion_length * (self.environment.turns if self.environment is not None else 1)

    @property
    def longest(self) -> int:
        """Approximate maximum tokens of a completion, or of a whole conversation."""
        if self.environment is None:
            return self.max_completion_length
        environment_tokens = self.environment.longest // CHARACTERS_PER_TOKEN + 8
        return self.written + environment_tokens * (self.environment.turns - 1)


class KlSettings(_Settings):
    """Settings of the KL penalty towards the initial model."""

    coefficient: float = Field(gt=0)
    """Cost of a nat of divergence: 0.001 to 0.1."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """With d = log p - log q of a written token under the model and where it began: `k1`, d, is taken off the reward;
    `k2`, d²/2, whose gradient is that of the divergence, and `k3`, exp(-d) - 1 + d, which is never below zero, are
    added to the loss (Schulman, 2020)."""
    unbiased: bool = True
    """Whether `k2` and `k3` are multiplied by the importance ratio of each token: their gradient is then that of the
    divergence of the current model (for `k3` as in DeepSeek-V3.2, 2025). Nothing under `k1`."""
    target: float | None = Field(default=None, gt=0)
    """Target divergence in nats a token: the coefficient rises or falls by up to 2 % a step (Ziegler et al., 2019).
    Constant when not given."""


class EarlyStoppingSettings(_Settings):
    """Conditions that end training before its last step."""

    kl: float | None = Field(default=None, gt=0)
    """Maximum divergence from the initial model, in nats a token, measured on the completions of a step."""
    hacking: int | None = Field(default=None, ge=1)
    """Number of measurements in a row in which the held-out reward is below its best while the training reward is above
    what it was then (reward hacking); needs `validation`."""
