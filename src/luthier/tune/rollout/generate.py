"""Sample completions from the policy, and score them with rewards.

The decoder of `luthier.models.generation` samples, each completion from its own random stream. Every reward runs under
a deadline; failures are named and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.system.process import PluginCallFailed, call_plugin_with_timeout
from luthier.models.generate import decode_requests
from luthier.models.generation.engine import (
    GREEDY,
    PORTION_ALONE,
    ContinuousBatchingDecoder,
    GenerationRequest,
    SamplingParams,
)
from luthier.models.generation.kv_cache import BLOCK
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from luthier.tune.rollout.settings import HELD_TOKENS

if TYPE_CHECKING:
    from luthier.chat.messages import Example, Message
    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.load import LoadedModel

_SEEDS = (1 << 40) - 1


class RolloutPrompt(NamedTuple):
    """A prompt and the random stream of its completion; without a stream, the completion is greedy."""

    ids: Sequence[int]
    stream: int | None
    example: Example | None = None
    """The example of the question, for an environment that replies to it."""


@dataclass
class RolloutCompletion:
    """A completion of a prompt."""

    prompt: Sequence[int]
    ids: list[int] = field(default_factory=list)
    """Token ids, with the end token where there is one; in a conversation, the environment's replies included."""
    logprobs: list[float] = field(default_factory=list)
    """Log-probability of each token when it was sampled; none for the environment's tokens."""
    ended: bool = False
    """Whether the last turn ended with an end token."""
    environment_spans: list[tuple[int, int]] = field(default_factory=list)
    """Begin and end of each of the environment's replies in `ids`."""
    turns: tuple[Message, ...] = ()
    """All turns of a conversation, the last one included; empty for a single turn."""

    @property
    def written(self) -> list[bool]:
        """For each id, whether the model wrote it."""
        own = [True] * len(self.ids)
        for begin, end in self.environment_spans:
            own[begin:end] = [False] * (end - begin)
        return own

    @property
    def last(self) -> list[int]:
        """Ids of the last turn."""
        return self.ids[self.environment_spans[-1][1] :] if self.environment_spans else self.ids


def generate_completions(
    loaded: LoadedModel, text: ChatTokenizer, prompts: Sequence[RolloutPrompt], max_new_tokens: int
) -> list[RolloutCompletion]:
    """Return a completion of each prompt; shared prefixes are computed once."""
    answers = [RolloutCompletion(prompt.ids) for prompt in prompts]
    asks = [_build_request(prompt, text, max_new_tokens) for prompt in prompts]
    needed_tokens = sum(len(prompt.ids) + max_new_tokens + BLOCK for prompt in prompts)  # rooms are whole blocks
    most = max((len(prompt.ids) + max_new_tokens + BLOCK for prompt in prompts), default=0)
    decoder = ContinuousBatchingDecoder(
        loaded, tokens=max(most, min(HELD_TOKENS, needed_tokens)), portion=PORTION_ALONE
    )
    for index, output in decode_requests(decoder, asks):
        answer = answers[index]
        answer.ids.append(output.token)
        answer.logprobs.append(output.logprob)
        answer.ended = output.finish == "stop"
    return answers


def _build_request(prompt: RolloutPrompt, text: ChatTokenizer, max_new_tokens: int) -> GenerationRequest:
    sampling = GREEDY if prompt.stream is None else SamplingParams(temperature=1.0, seed=prompt.stream)
    return GenerationRequest(ids=prompt.ids, max_new_tokens=max_new_tokens, stop=text.end_ids, sampling=sampling)


def create_random_stream(*named: int) -> int:
    """Create a random stream from the numbers that identify it, such as seed, step and sample."""
    import xxhash

    return xxhash.xxh3_64_intdigest(",".join(map(str, named)).encode()) & _SEEDS


@dataclass
class RewardScores:
    """The rewards of some completions: each reward, their weighted sum, and errors."""

    total: list[float]
    """NaN for a completion that is left out."""
    parts: dict[str, list[float]]
    """Scores by the name of the reward; NaN where it failed."""
    faults: dict[str, str] = field(default_factory=dict)
    """The first error of each reward that had one."""

    @property
    def left_out(self) -> int:
        """Number of completions without a sum."""
        return sum(map(math.isnan, self.total))


def compute_rewards(
    rewards: Sequence[Reward], attempts: Sequence[RewardCompletion], context: RewardContext
) -> RewardScores:
    """Return the rewards of some completions, in order."""
    scores = RewardScores([0.0] * len(attempts), {})
    for reward in rewards:
        part = _part(reward, attempts, context, scores.faults)
        scores.parts[reward.name] = part
        scores.total = [total + reward.weight * entry for total, entry in zip(scores.total, part, strict=True)]
    return scores


def _part(
    reward: Reward, attempts: Sequence[RewardCompletion], context: RewardContext, faults: dict[str, str]
) -> list[float]:
    """Return one reward of all completions; when it fails on all of them together, of one after another."""
    scores, why = _call_reward(reward, attempts, context)
    if why:
        alone = [_call_reward(reward, [attempt], context) for attempt in attempts]
        scores = [values[0] for values, _ in alone]
        reasons = [reason for _, reason in alone]
    else:
        reasons = ["" if math.isfinite(value) else f"gave {value}" for value in scores]
    for attempt, reason in zip(attempts, reasons, strict=True):
        if reason:
            _record_fault(reward, attempt, reason, faults)
    return [value if math.isfinite(value) else math.nan for value in scores]


def _call_reward(
    reward: Reward, attempts: Sequence[RewardCompletion], context: RewardContext
) -> tuple[list[float], str]:
    """Return a reward's scores, or NaN and the error; errors about the user's input are raised."""
    try:
        scores = call_plugin_with_timeout(
            reward.deadline_s, lambda: [float(value) for value in reward.score(attempts, context)]
        )
    except PluginCallFailed as failed:
        return [math.nan] * len(attempts), str(failed)
    if len(scores) != len(attempts):
        return [math.nan] * len(attempts), f"gave {len(scores)} numbers for {len(attempts)} answers"
    return scores, f"gave {scores[0]}" if len(scores) == 1 and not math.isfinite(scores[0]) else ""


def _record_fault(reward: Reward, attempt: RewardCompletion, reason: str, faults: dict[str, str]) -> None:
    """Record an error, or stop for it."""
    example = attempt.example
    what = f"the reward {reward.name} failed on an answer to example {example.id}: {reason}"
    if reward.on_fault == "stop":
        where = SourceLocation(file=example.origin.file, line=example.origin.line, field="objective.rewards")
        hint = f"mend it, or set `on_fault: leave_out` to go on without such answers; the answer began {_head(attempt)}"
        raise ModelError(what, where=where, hint=hint)
    faults.setdefault(reward.name, what)


def _head(attempt: RewardCompletion) -> str:
    return repr(attempt.text[:60])
