"""Policy objectives: the shared base, clipped losses and their terms.

The losses are pure functions of log-probabilities. A surrogate has the gradient of the expected reward where the model
equals the policy that sampled; `old` is the log-probability of each token under that policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.chat.messages import Example, prompt_of
from luthier.core.param_space import ParamDistribution
from luthier.tune.objective import (
    NOTHING,
    REFERENCE,
    Loss,
    LossTerms,
    Objective,
    ObjectiveContext,
    TrainingExample,
    row_tokens,
)
from luthier.tune.reward import Reward
from luthier.tune.rollout.settings import EarlyStoppingSettings, KlSettings, RolloutSettings

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.chat.tokenizer import ChatTokenizer
    from luthier.models.packing.pack import Pack, TokenRow
    from luthier.tune.rollout.scores import RolloutBatch


def compute_clipped_loss(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A), of any shape (Schulman et al., 2017)."""
    bounded = ratio.clamp(1 - low, 1 + high)
    return -(ratio * advantage).minimum(bounded * advantage)


def clip_ranges(*fields: str) -> dict[str, ParamDistribution]:
    """Return the search space of clipping ranges: papers use 0.1 to 0.4."""
    return {name: ParamDistribution(0.1, 0.4) for name in fields}


def mark_clipped_tokens(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """Return 1 where the clipped surrogate has no gradient, else 0."""
    beyond = ((ratio < 1 - low) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0))
    return beyond.to(ratio)


def average_row_log_ratio(log_ratio: Tensor, pack: Pack) -> Tensor:
    """Return (N,) the mean log-ratio of each token's row, so that a whole answer has one ratio (GSPO, Zheng et al.,
    2025).
    """
    total = log_ratio.new_zeros(pack.rows).index_add(0, pack.path, log_ratio)
    return (total / row_tokens(pack).clamp(min=1))[pack.path]


def truncate_importance_ratio(old: Tensor, written: Tensor, most: float) -> Tensor:
    """Return (N,) min(p/q, most): the probability of a token under the training forward pass over that under the engine
    that sampled it, truncated (truncated importance sampling, Yao et al., 2025).
    """
    return (old - written).exp().clamp(max=most)


def estimate_kl(logp: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """Return (N,) the `k2` or `k3` estimate of each token (Schulman, 2020)."""
    apart = logp - reference
    return 0.5 * apart**2 if estimator == "k2" else (-apart).expm1() + apart


ADVANTAGE, WRITTEN, OLD, SHARE, KL, RETURN, VALUE = "advantage", "written", "old", "share", "kl", "return", "value"
"""Keys of a row's `token_values`, each with one number for each token of a completion: its advantage; its
log-probability when it was sampled; that under the training forward pass with the same weights (where they have moved
since); its share in a mean over the step's tokens, times the denominator; the KL coefficient; its return; and the
critic's value before it."""


class PolicyObjective(Objective):
    """The base of reinforcement learning objectives: sample answers, score them with rewards, and raise the probability
    of the better ones."""

    draws: ClassVar[bool] = True
    other_names: ClassVar[Mapping[str, str]] = {
        "num_generations": "rollout.num_generations",
        "max_completion_length": "rollout.max_completion_length",
        "max_prompt_length": "rollout.max_prompt_length",
        "steps_per_generation": "rollout.steps_per_generation",
        "mask_truncated_completions": "rollout.truncated",
        "reward_funcs": "rewards",
    }

    rewards: tuple[Reward, ...] = Field(min_length=1)
    """What makes an answer good; their weighted sum is learnt."""
    rollout: RolloutSettings = RolloutSettings()
    """How answers are drawn."""
    gold: tuple[Reward, ...] = ()
    """Rewards of the held-out answers; `rewards` when not given. A policy cannot overfit to a reward that it is never
    trained on."""
    stop: EarlyStoppingSettings = EarlyStoppingSettings()
    """When training ends before its last step."""
    shown: int = Field(default=2, ge=0)
    """Number of prompts whose greedy answer is logged now and then, to be read over time in the report."""

    @field_validator("rewards", "gold")
    @classmethod
    def _told_apart(cls, rewards: tuple[Reward, ...]) -> tuple[Reward, ...]:
        names = [reward.name for reward in rewards]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rewards are called {twice[0]!r}; give one of them a `label`")
        return rewards

    @model_validator(mode="after")
    def _has_others(self) -> Self:
        if self.compares and self.rollout.num_generations < 2:
            raise ValueError("an answer is compared with others to the same prompt: at least 2 `num_generations`")
        if self.rollout.redraw and not self.compares:
            what = f"under {self.kind} as it is set answers that are all worth the same teach as others do"
            raise ValueError(f"{what}, and `redraw` would leave out what always succeeds or always fails; leave it out")
        return self

    @property
    def compares(self) -> bool:
        """Return whether an answer gives no gradient without others to the same prompt."""
        return False

    @property
    def judges(self) -> tuple[Reward, ...]:
        """The rewards of held-out answers."""
        return self.gold or self.rewards

    @property
    def holding(self) -> KlSettings | None:
        """The KL penalty towards the initial model; None without one."""
        return None

    @property
    def apart(self) -> bool:
        """Whether each reward is compared separately before they are added up."""
        return False

    @property
    def needs_initial_policy(self) -> bool:
        """Whether the log-probabilities of the answers under the initial model are needed."""
        return self.holding is not None or self.stop.kl is not None

    def build_training_examples(
        self, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext = NOTHING
    ) -> list[TrainingExample]:
        """Return the prompt of each example; completions are sampled later."""
        prompts = text.prompts([prompt_of(entry) for entry in examples], [entry.tools for entry in examples])
        return [self._build_prompt_example(example, ids) for example, ids in zip(examples, prompts, strict=True)]

    def _build_prompt_example(self, example: Example, ids: list[int]) -> TrainingExample:
        from luthier.models.packing.pack import TokenRow

        limit = self.rollout.max_prompt_length
        if len(ids) > limit:
            return TrainingExample(id=example.id, cut=len(ids), nothing=f"its prompt is longer than {limit} tokens")
        return TrainingExample(id=example.id, rows=(TokenRow(ids, [0.0] * len(ids), example.id),))

    @abstractmethod
    def advantages(self, judged: RolloutBatch) -> list[list[float]]:
        """Return for each answer in turn the advantage of each of its trained tokens."""

    def compute_token_values(self, judged: RolloutBatch) -> dict[str, list[list[float]]]:
        """Return what the loss needs of the rewards: by name, for each answer in turn a number for each
        trained token.
        """
        return {ADVANTAGE: self.advantages(judged)}

    def arrange_rows(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        """Return the rows of a step that have a gradient, in the order in which they are packed."""
        return [row for row in rows if self.has_gradient(row)]

    @property
    def trained_completions(self) -> int:
        """Maximum number of answers to a prompt that are trained on."""
        return self.rollout.num_generations

    def weight(self, tokens: int) -> float:
        """Return the weight of each token of an answer of `tokens` tokens."""
        return 1.0 / max(1, tokens)

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the number of answers of the step, including those that are not trained on."""
        return float(len(rows))

    def has_gradient(self, row: TokenRow) -> bool:
        """Return whether a row has a gradient."""
        return any(row.token_values.get(ADVANTAGE, ())) or any(row.token_values.get(KL, ()))


class PolicyLoss(PolicyObjective):
    """The base of policy objectives with a token-level advantage and an optional KL penalty."""

    other_names: ClassVar[Mapping[str, str]] = {"beta": "kl.coefficient"}

    kl: KlSettings | None = None
    """The KL penalty towards the initial model; none when not given."""
    correct: float | None = Field(default=2.0, gt=1)
    """Upper bound of the importance ratio between the training forward pass and the sampling engine, whose numerics
    differ (in bfloat16 by up to several per cent; truncated importance sampling). None: no correction."""

    @property
    def holding(self) -> KlSettings | None:
        """Return `kl`."""
        return self.kl

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """Return the surrogate, corrected for the sampling engine, and the KL penalty."""
        token_values = {name: value.to(logp) for name, value in pack.token_values.items()}
        old = token_values.get(OLD, logp.detach())
        each, beyond = self.surrogate(logp, old, token_values[ADVANTAGE], pack)
        if self.correct is not None:
            each = each * truncate_importance_ratio(old, token_values[WRITTEN], self.correct)
        weights = pack.weights.to(logp)
        parts = [LossTerms.of_tokens(each, weights, pack)]
        if self.kl is not None and self.kl.estimator != "k1":
            apart = estimate_kl(logp, token_values[REFERENCE], self.kl.estimator)
            if self.kl.unbiased:
                ratio = (logp - old).exp()
                apart = apart * (ratio if self.kl.estimator == "k3" else ratio.detach())
            parts.append(LossTerms.of_tokens(apart, weights * token_values[KL], pack))
        gap = (old - token_values[WRITTEN]).abs()
        measures = {"clipped": beyond, "written_apart": gap}
        return Loss(parts, {name: value * token_values[SHARE] for name, value in measures.items()})

    @abstractmethod
    def surrogate(self, logp: Tensor, old: Tensor, advantage: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        """Return (N,) each token's term before weighting, and (N,) 1 where it is clipped."""


class TokenPolicyLoss(PolicyLoss):
    """The base of policy objectives whose loss is averaged over all trained tokens of a step."""

    def weight(self, tokens: int) -> float:
        """Return 1: every token counts the same."""
        return 1.0

    def denominator(self, rows: Sequence[TokenRow]) -> float:
        """Return the number of trained tokens of the step."""
        return float(max(1, sum(len(row.targets) for row in rows)))


class ActorCritic(TokenPolicyLoss):
    """The base of policy objectives with a critic: a second adapter with a value head over the same frozen base
    (`luthier.tune.training.critic`).
    """

    value_clip: float | None = Field(default=0.2, gt=0)
    """Clipping range of a value around its value when the answers were sampled. None: no clipping."""
    value_weight: float = Field(default=0.5, gt=0)
    """Weight of the critic's loss, which matters where `max_grad_norm` clips both gradients together."""
    value_rate: float = Field(default=1.0, gt=0)
    """Factor on the learning rate of the critic."""
    value_start: Literal["auto", "zero"] = "auto"
    """Initial weights of the critic. `auto`: the adapter and head of the step's `reward_model`, where that has the same
    base model. `zero`: a new adapter, and all values 0."""

    def value_loss(self, values: Tensor, pack: Pack) -> Loss:
        """Return ½ max((v - R)², (clip(v, V - ε, V + ε) - R)²) from (N,) values, one term a token; as a measure, its
        mean.
        """
        token_values = {name: pack.token_values[name].to(values) for name in (RETURN, VALUE, SHARE)}
        far = (values - token_values[RETURN]) ** 2
        if self.value_clip is not None:
            bounded = values.clamp(token_values[VALUE] - self.value_clip, token_values[VALUE] + self.value_clip)
            far = far.maximum((bounded - token_values[RETURN]) ** 2)
        weights = 0.5 * self.value_weight * pack.weights.to(values)
        return Loss([LossTerms.of_tokens(far, weights, pack)], {"value_loss": 0.5 * far.detach() * token_values[SHARE]})
