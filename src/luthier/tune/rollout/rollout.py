"""Rollouts: at each step, sample completions of the step's prompts, score them, and turn them into training rows.

The completions depend only on recipe, seed, step and the weights before it. Where several steps train on the same
completions, a training resumes only before the first of these steps and samples again. Held-out prompts are answered
greedily and scored by rewards, which may differ from those of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.chat.media import MEDIA_IDS
from luthier.models.packing.logprobs import disable_dropout
from luthier.models.packing.pack import TokenRow
from luthier.tune.objective import REFERENCE, BatchSource, TrainingBatch
from luthier.tune.policy import ADVANTAGE, KL, OLD, RETURN, SHARE, VALUE, WRITTEN, PolicyObjective
from luthier.tune.reward import RewardContext
from luthier.tune.rollout.generate import RewardScores, RolloutCompletion, RolloutPrompt, create_random_stream
from luthier.tune.rollout.metrics import PolicyTrainingMonitor, is_sample_step
from luthier.tune.rollout.sampler import PromptDataset, RolloutSampler
from luthier.tune.rollout.scores import RolloutBatch
from luthier.tune.training.memory import ParallelPacks, find_largest_packs
from luthier.tune.training.reference_logprobs import compute_row_logprobs
from luthier.tune.training.trainer import use_weights

if TYPE_CHECKING:
    from luthier.tune.rollout.scores import Table
    from luthier.tune.training.critic import Critic
    from luthier.tune.training.schedule import BatchSampler

EQUAL = "the answers to each of its prompts are all worth the same"
UNLEARNT = "none of its answers is learnt: each was cut off (at rollout.max_new_tokens) or left out"


@dataclass
class _Group:
    """The completions of one prompt, and their rewards."""

    index: int
    answers: list[RolloutCompletion]
    scores: RewardScores

    def flat(self, *, apart: bool) -> bool:
        """Return whether all completions have the same sum of rewards, or (`apart`) the same value of each reward."""
        here = [at for at, total in enumerate(self.scores.total) if not math.isnan(total)]
        columns = self.scores.parts.values() if apart else [self.scores.total]
        return not here or all(len({column[at] for at in here}) == 1 for column in columns)


class RolloutBatchSource(BatchSource):
    """The batch source of policy training: samples completions, scores them and turns them into token rows."""

    def __init__(
        self, objective: PolicyObjective, rollout_sampler: RolloutSampler, questions: PromptDataset,
        sampler: BatchSampler, tokens: int, warn: Callable[[str], None], critic: Critic | None = None,
    ) -> None:  # fmt: skip
        """Build the source.

        `tokens` is the size of a microbatch where only log-probabilities are computed; `warn` gets the first error of
        each reward.
        """
        self._critic = critic
        self._objective, self._rollout_sampler, self._questions, self._sampler = (
            objective,
            rollout_sampler,
            questions,
            sampler,
        )
        self._tokens, self._drawing = tokens, objective.rollout
        self._phase: tuple[int, dict[int, list[_Group]], dict[int, list[TokenRow]]] | None = None
        self._watched = PolicyTrainingMonitor(objective, warn)
        self._start = _copy_trainable_weights(rollout_sampler.model) if objective.needs_initial_policy else {}

    def can_resume_at(self, step: int) -> bool:
        """Return whether completions are sampled for this step."""
        return step % self._drawing.steps_per_generation == 0

    def record_step(self, record: Mapping[str, Any]) -> str:
        """Adapt the KL coefficient, and return why training stops."""
        return self._watched.record_step(record)

    def largest(self, tokens: int, lanes: int = 1) -> ParallelPacks:
        """Return the largest packs when every completion has the maximum length."""
        return find_largest_packs(
            _Longest(self._questions, self._sampler, self._objective), self._sampler, tokens, lanes
        )

    def draw(self, step: int) -> TrainingBatch:
        """Return the scored completions of a step as rows; those without a gradient are counted and not read."""
        groups, rows = self._sample_step(step)
        measures = self._measures(groups, rows)
        moving = self._objective.arrange_rows(rows)
        samples = self._samples(step) if is_sample_step(step, self._sampler.steps) else ()
        nothing = "" if moving else EQUAL if any(row.targets for row in rows) else UNLEARNT
        taken = [group.index for group in groups]
        instead = tuple(taken) if taken != self._sampler.get_batch_indices(step) else ()
        return TrainingBatch(moving, self._objective.denominator(rows), measures, nothing, samples, instead)

    def _sample_step(self, step: int) -> tuple[list[_Group], list[TokenRow]]:
        first = step - step % self._drawing.steps_per_generation
        if self._phase is None or self._phase[0] != first:
            steps = range(first, min(first + self._drawing.steps_per_generation, self._sampler.steps))
            groups = self._groups(first, steps)
            rows = {entry: self._build_rows(groups[entry]) for entry in steps}
            self._phase = first, groups, self._told_of_weights(first, rows)
        return self._phase[1][step], self._phase[2][step]

    def _groups(self, first: int, steps: range) -> dict[int, list[_Group]]:
        """Return the scored completions of some steps, all sampled at once."""
        indices_by_step = {step: self._sampler.get_batch_indices(step) for step in steps}
        indices = list(chain.from_iterable(indices_by_step.values()))
        sampled = iter(self._sample_groups(first, 0, indices))
        groups = {step: [next(sampled) for _ in indices_by_step[step]] for step in steps}
        return {step: self._resample_flat_groups(step, groups[step]) for step in steps}

    def _resample_flat_groups(self, step: int, groups: list[_Group]) -> list[_Group]:
        """Replace groups without a gradient by those of other prompts, as often as is allowed."""
        others = iter(_order(self._sampler, step, {group.index for group in groups}))
        for again in range(1, self._drawing.redraw + 1):
            flat = [at for at, group in enumerate(groups) if group.flat(apart=self._objective.apart)]
            indices = [index for _, index in zip(flat, others, strict=False)]
            for at, group in zip(flat, self._sample_groups(step, again, indices), strict=False):
                groups[at] = group
        return groups

    def _sample_groups(self, step: int, again: int, indices: Sequence[int]) -> list[_Group]:
        count, seed = self._drawing.num_generations, self._sampler.seed
        examples = [entry for entry in self._questions.examples(indices) for _ in range(count)]
        ids = [ids for ids in self._questions.prompts(indices) for _ in range(count)]
        stream_keys = [(position, index, sample) for position, index in enumerate(indices) for sample in range(count)]
        prompts = [
            RolloutPrompt(prompt_ids, create_random_stream(seed, step, again, *named), example)
            for prompt_ids, named, example in zip(ids, stream_keys, examples, strict=True)
        ]
        answers = self._rollout_sampler.answer(prompts)
        scores = self._rollout_sampler.judge(self._objective.rewards, examples, answers)
        self._watched.faults(scores)
        return [
            _Group(index, answers[at : at + count], _slice_scores(scores, slice(at, at + count)))
            for index, at in zip(indices, range(0, len(answers), count), strict=True)
        ]

    def _build_rows(self, groups: list[_Group]) -> list[TokenRow]:
        """Return all completions of a step as rows with their advantages, except those that are left out."""
        answers = [answer for group in groups for answer in group.answers]
        table = np.array([group.scores.total for group in groups], dtype=np.float64)
        keys = [self._questions.rows(group.index)[0].key for group in groups for _ in group.answers]
        trained = [self._is_learnt(answer) for answer in answers]
        rows = [self._build_row(*entry) for entry in zip(answers, keys, trained, strict=True)]
        rows = self._told_of_start(rows)
        lengths = np.array([len(row.targets) for row in rows]).reshape(table.shape)
        values = self._critic.read(rows, self._tokens) if self._critic is not None else None
        judged = RolloutBatch(table, lengths, self._costs(rows), values, *self._by_reward(groups))
        for name, token_values in self._objective.compute_token_values(judged).items():
            rows = [_add_token_values(row, name, some) for row, some in zip(rows, token_values, strict=True)]
        rows = [row for row, total in zip(rows, table.ravel(), strict=True) if not math.isnan(total)]
        return self._add_token_shares(rows)

    def _by_reward(self, groups: list[_Group]) -> tuple[Table | None, list[float]]:
        """Return the scores of each reward and its weight, where rewards are compared separately."""
        if not self._objective.apart:
            return None, []
        parts = np.array([list(group.scores.parts.values()) for group in groups], dtype=np.float64)
        return parts.transpose(0, 2, 1), [reward.weight for reward in self._objective.rewards]

    def _is_learnt(self, answer: RolloutCompletion) -> bool:
        return answer.ended or self._drawing.truncated != "mask"

    def _build_row(self, answer: RolloutCompletion, key: str, trained: bool) -> TokenRow:
        weight = self._objective.weight(len(answer.logprobs)) if trained else 0.0
        weights = [0.0] * len(answer.prompt) + [weight if own else 0.0 for own in answer.written]
        return TokenRow(
            [*answer.prompt, *answer.ids], weights, key, token_values={WRITTEN: answer.logprobs if trained else []}
        )

    def _told_of_start(self, rows: list[TokenRow]) -> list[TokenRow]:
        """Return the rows with their log-probabilities under the initial model, where these are needed."""
        if not self._objective.needs_initial_policy:
            return rows
        with use_weights(self._rollout_sampler.model, self._start):
            logprobs = compute_row_logprobs(self._rollout_sampler.model, rows, self._tokens)
        kl = self._objective.holding
        costs = self._watched.coefficient if kl is not None and kl.estimator != "k1" else 0.0
        return [
            _add_token_values(_add_token_values(row, REFERENCE, some), KL, [costs] * len(some))
            for row, some in zip(rows, logprobs, strict=True)
        ]

    def _costs(self, rows: list[TokenRow]) -> list[list[float]] | None:
        """Return the KL penalty that is subtracted from each token's reward."""
        kl = self._objective.holding
        if kl is None or kl.estimator != "k1":
            return None
        return [[self._watched.coefficient * apart for apart in _compute_log_ratios(row)] for row in rows]

    def _add_token_shares(self, rows: list[TokenRow]) -> list[TokenRow]:
        """Return the rows with each token's share in a mean over all tokens that are read."""
        read = sum(len(row.targets) for row in rows if self._objective.has_gradient(row))
        share = self._objective.denominator(rows) / max(1, read)
        return [_add_token_values(row, SHARE, [share] * len(row.targets)) for row in rows]

    def _told_of_weights(self, first: int, rows: dict[int, list[TokenRow]]) -> dict[int, list[TokenRow]]:
        """Return the rows of all steps but the first with their log-probabilities under the current weights, before
        those steps move them.
        """
        later = [row for step in rows if step != first for row in rows[step]]
        if not later:
            return rows
        logprobs = iter(compute_row_logprobs(self._rollout_sampler.model, later, self._tokens))
        return {
            step: some if step == first else [_add_token_values(row, OLD, next(logprobs)) for row in some]
            for step, some in rows.items()
        }

    def _measures(self, groups: list[_Group], rows: list[TokenRow]) -> dict[str, float]:
        """Return the measures of a step's completions before the update."""
        answers = [answer for group in groups for answer in group.answers]
        scores = [group.scores for group in groups]
        written = [value for answer in answers for value in answer.logprobs]
        measures = {"reward": _mean(total for score in scores for total in score.total)}
        for name in scores[0].parts:
            measures[f"reward_{name}"] = _mean(value for score in scores for value in score.parts[name])
        measures |= {
            "reward_spread": _mean(np.nanstd(score.total) for score in scores if score.left_out < len(score.total)),
            "reward_faults": float(sum(score.left_out for score in scores)),
            "equal_prompts": _mean(float(group.flat(apart=self._objective.apart)) for group in groups),
            "entropy": -_mean(written),
            "length": _mean(float(len(answer.logprobs)) for answer in answers),
            "truncated": _mean(float(not answer.ended) for answer in answers),
        }
        if self._drawing.environment is not None:
            measures["turns"] = _mean(len(answer.environment_spans) + 1.0 for answer in answers)
        if self._objective.needs_initial_policy:
            measures["kl"] = _mean(apart for row in rows for apart in _compute_log_ratios(row))
        return measures | ({"kl_coefficient": self._watched.coefficient} if self._objective.holding is not None else {})

    def _samples(self, step: int) -> tuple[dict[str, Any], ...]:
        """Return greedy answers to the first prompts, before a step."""
        numbers = range(min(self._objective.shown, self._questions.count))
        if not numbers:
            return ()
        examples = self._questions.examples(numbers)
        pairs = zip(self._questions.prompts(numbers), examples, strict=True)
        answers = self._rollout_sampler.answer([RolloutPrompt(ids, None, example) for ids, example in pairs])
        scores = self._rollout_sampler.judge(self._objective.rewards, examples, answers)
        return tuple(
            {
                "id": example.id,
                "answer": _render_answer(answer, self._rollout_sampler),
                "reward": None if math.isnan(total) else total,
            }
            for example, answer, total in zip(examples, answers, scores.total, strict=True)
        )


def _render_answer(answer: RolloutCompletion, rollout_sampler: RolloutSampler) -> str:
    """Return a completion as text: a conversation with its speakers."""
    if len(answer.turns) < 2:
        return rollout_sampler.decode(answer)
    return "\n".join(f"{turn.role}: {turn.content}" for turn in answer.turns)


class _Longest:
    """Examples in which every completion has the maximum length, to probe memory."""

    def __init__(self, questions: PromptDataset, sampler: BatchSampler, objective: PolicyObjective) -> None:
        self._questions, self._objective, self._new = questions, objective, objective.rollout.longest
        self.sizes = np.array(
            [
                len(questions.rows(number)[0].ids) + self._new * objective.trained_completions
                for number in range(sampler.count)
            ]
        )

    def rows(self, number: int) -> list[TokenRow]:
        """Return the prompt with completions that differ from the first token on."""
        (prompt,) = self._questions.rows(number)
        count, new = self._objective.trained_completions, self._new
        words = [token for token in prompt.ids if token < MEDIA_IDS]
        weights = [0.0] * len(prompt.ids) + [1.0] * new
        token_values = {name: [1.0] * new for name in (ADVANTAGE, WRITTEN, SHARE, KL, REFERENCE, OLD, RETURN, VALUE)}
        rows = [
            TokenRow(
                [*prompt.ids, *([words[(at + number) % len(words)]] * new)],
                weights,
                prompt.key,
                token_values=token_values,
            )
            for at in range(count)
        ]
        return self._objective.arrange_rows(rows)


def _copy_trainable_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of the trainable weights."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def _order(sampler: BatchSampler, step: int, but: set[int]) -> list[int]:
    """Return other examples, in a random order for a step."""
    drawn = np.random.Generator(np.random.PCG64([sampler.seed, step, 1])).permutation(sampler.count)
    return [int(index) for index in drawn if int(index) not in but]


def _slice_scores(scores: RewardScores, part: slice) -> RewardScores:
    return RewardScores(scores.total[part], {name: values[part] for name, values in scores.parts.items()})


def _add_token_values(row: TokenRow, name: str, values: Sequence[float]) -> TokenRow:
    return replace(row, token_values={**row.token_values, name: values})


def _compute_log_ratios(row: TokenRow) -> list[float]:
    """Return log p - log q of each trained token: under the sampling policy, and under the initial model."""
    return [p - q for p, q in zip(row.token_values[WRITTEN], row.token_values[REFERENCE], strict=True)]


def _mean(values: Any) -> float:
    """Return the mean of the values that are not NaN; NaN for none."""
    present = [float(value) for value in values if not math.isnan(value)]
    return math.fsum(present) / len(present) if present else math.nan


class RolloutEvaluator:
    """Measures a policy's mean reward on held-out prompts."""

    def __init__(
        self,
        objective: PolicyObjective,
        rollout_sampler: RolloutSampler,
        questions: PromptDataset,
        reward_context: RewardContext | None = None,
    ) -> None:
        self._objective, self._rollout_sampler, self._questions, self._ctx = (
            objective,
            rollout_sampler,
            questions,
            reward_context,
        )

    def take(self, model: Any, tokens: int) -> dict[str, float]:
        """Return `held_out_reward`, each reward by its name, and `held_out_loss` (minus the first)."""
        numbers = range(self._questions.count)
        examples = self._questions.examples(numbers)
        with disable_dropout(model):
            pairs = zip(self._questions.prompts(numbers), examples, strict=True)
            answers = self._rollout_sampler.answer([RolloutPrompt(ids, None, example) for ids, example in pairs])
        scores = self._rollout_sampler.judge(self._objective.judges, examples, answers, self._ctx)
        reward = _mean(scores.total)
        parts = {f"held_out_reward_{name}": _mean(values) for name, values in scores.parts.items()}
        return {"held_out_loss": -reward, "held_out_reward": reward, **parts}
