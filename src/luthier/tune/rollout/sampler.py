"""Samples completions from the policy and scores them, for training, validation and logged samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.models.load import LoadedModel
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from luthier.tune.rollout.conversation import converse
from luthier.tune.rollout.generate import (
    RewardScores,
    RolloutCompletion,
    RolloutPrompt,
    compute_rewards,
    generate_completions,
)

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import TokenRow
    from luthier.tune.environment import Environment
    from luthier.tune.rollout_generator import RolloutGenerator

Examples = Callable[[Sequence[int]], list["Example"]]
"""Returns examples of the data by the indices of their training examples."""
Rows = Callable[[int], list["TokenRow"]]
"""Returns the rows of a training example: one, its prompt."""


@dataclass
class PromptDataset:
    """Training examples that are prompts, with the examples behind them."""

    rows: Rows
    examples: Examples
    count: int

    def prompts(self, numbers: Sequence[int]) -> list[Sequence[int]]:
        """Return the token ids of some prompts."""
        return [self.rows(number)[0].ids for number in numbers]


@dataclass
class RolloutSampler:
    """Samples answers from the policy and scores them with the rewards; counts the seconds of both."""

    text: ChatTokenizer
    max_new_tokens: int
    reward_context: RewardContext
    truncated: float | None = None
    """Reward of a truncated completion; None: that of its rewards."""
    environment: Environment | None = None
    """Replies to the model between its turns; None: a single turn."""
    writer: RolloutGenerator | None = None
    """Samples training completions in the model's place; validation and greedy answers always use the model itself."""
    model: Any = None
    """The policy, once it is loaded."""
    writing_s: float = field(default=0.0, init=False)
    judging_s: float = field(default=0.0, init=False)
    drawing_s: float = field(default=0.0, init=False)
    """The part of `writing_s` in which training completions were sampled."""
    drawn: int = field(default=0, init=False)
    """Number of tokens sampled for training."""

    def answer(self, prompts: Sequence[RolloutPrompt]) -> list[RolloutCompletion]:
        """Return a completion of each prompt; with an environment, a conversation."""
        start = time.perf_counter()
        if self.environment is None:
            completions = self._write(prompts)
        else:
            completions = converse(self.environment, self.text, self.reward_context.recipe_dir, prompts, self._write)
        seconds = time.perf_counter() - start
        self.writing_s += seconds
        if all(prompt.stream is not None for prompt in prompts):
            self.drawing_s += seconds
            self.drawn += sum(len(answer.logprobs) for answer in completions)
        return completions

    def _write(self, prompts: Sequence[RolloutPrompt]) -> list[RolloutCompletion]:
        """Sample one turn after each prompt."""
        if self.writer is not None and all(prompt.stream is not None for prompt in prompts):
            return self.writer.write(prompts, self.text, self.max_new_tokens, self.reward_context.cache_dir)
        loaded = LoadedModel(model=self.model, folder=self.reward_context.recipe_dir, name="policy", digest="")
        return generate_completions(loaded, self.text, prompts, self.max_new_tokens)

    def judge(
        self,
        rewards: Sequence[Reward],
        examples: Sequence[Example],
        answers: Sequence[RolloutCompletion],
        context: RewardContext | None = None,
    ) -> RewardScores:
        """Return the reward of each completion of the example at the same index; with `context`, by another reward
        model.
        """
        start = time.perf_counter()
        attempts = [self._attempt(*pair) for pair in zip(examples, answers, strict=True)]
        reward_scores = compute_rewards(rewards, attempts, context or self.reward_context)
        if self.truncated is not None:
            cut = self.truncated
            reward_scores.total = [
                reward_score if answer.ended else cut
                for reward_score, answer in zip(reward_scores.total, answers, strict=True)
            ]
        self.judging_s += time.perf_counter() - start
        return reward_scores

    def decode(self, answer: RolloutCompletion) -> str:
        """Return the text of a completion; of a conversation, its last turn."""
        return self.text.decode(answer.last[:-1] if answer.ended else answer.last, special=False)

    def _attempt(self, example: Example, answer: RolloutCompletion) -> RewardCompletion:
        return RewardCompletion(example, self.decode(answer), len(answer.logprobs), answer.ended, answer.turns)
