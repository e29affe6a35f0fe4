"""Objectives that learn from what the model itself writes: what they have in common, whatever their surrogate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from luthier.text.messages import Example, prompt_of
from luthier.tune.objective import NOTHING, REFERENCE, About, Lesson, Loss, Objective
from luthier.tune.reward import Reward
from luthier.tune.rollout.settings import Drawing, Kl, Stopping
from luthier.tune.surrogate import divergence, truncated

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.pack import Pack, Row
    from luthier.text.ids import Text
    from luthier.tune.rollout.judged import Judged

ADVANTAGE, WRITTEN, OLD, SHARE, KL, RETURN, VALUE = "advantage", "written", "old", "share", "kl", "return", "value"
"""What a row tells of each token of an answer: by how much it was better than expected; its log-probability when it was
written, and to the training reading of the same weights (where they have moved since); its part in a mean over the
step's tokens, times the denominator; what a nat of divergence costs; and what came in the end, and what a critic
expected before the token."""


class Policy(Objective):
    """Draws answers, has them judged, and makes those likelier that are better than expected."""

    draws: ClassVar[bool] = True
    other_names: ClassVar[Mapping[str, str]] = {
        "num_generations": "rollout.samples", "max_completion_length": "rollout.max_new_tokens",
        "max_prompt_length": "rollout.max_prompt_tokens", "steps_per_generation": "rollout.steps",
        "mask_truncated_completions": "rollout.truncated", "reward_funcs": "rewards",
    }  # fmt: skip

    rewards: tuple[Reward, ...] = Field(min_length=1)
    """What makes an answer good; their weighted sum is learnt."""
    rollout: Drawing = Drawing()
    """How answers are drawn."""
    gold: tuple[Reward, ...] = ()
    """What the held-out answers are judged by; `rewards` when not given. A policy cannot learn to please a reward that
    it never sees."""
    stop: Stopping = Stopping()
    """When training ends before its last step."""
    shown: int = Field(default=2, ge=0)
    """Prompts whose greedy answer is written into the log now and then, to be read over time in the report."""

    @field_validator("rewards", "gold")
    @classmethod
    def _told_apart(cls, rewards: tuple[Reward, ...]) -> tuple[Reward, ...]:
        names = [reward.name for reward in rewards]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rewards are called {twice[0]!r}; give one of them a `label`")
        return rewards

    @model_validator(mode="after")
    def _has_others(self) -> Self:
        if self.compares and self.rollout.samples < 2:
            raise ValueError("an answer is compared with others to the same prompt: at least 2 `samples`")
        if self.rollout.redraw and not self.compares:
            what = f"under {self.kind} as it is set answers that are all worth the same teach as others do"
            raise ValueError(f"{what}, and `redraw` would leave out what always succeeds or always fails; leave it out")
        return self

    @property
    def compares(self) -> bool:
        """Whether an answer teaches nothing without others to the same prompt."""
        return False

    @property
    def judges(self) -> tuple[Reward, ...]:
        """The rewards of held-out answers."""
        return self.gold or self.rewards

    @property
    def holding(self) -> Kl | None:
        """What divergence from where the model began costs; None where it costs nothing."""
        return None

    @property
    def apart(self) -> bool:
        """Whether each reward is compared by itself, before they are added up."""
        return False

    @property
    def refers(self) -> bool:
        """Whether it must be known how likely the answers were to the model as it began."""
        return self.holding is not None or self.stop.kl is not None

    def lessons(self, examples: Sequence[Example], text: Text, about: About = NOTHING) -> list[Lesson]:
        """For each example its prompt; what is learnt is written later."""
        prompts = text.prompts([prompt_of(one) for one in examples], [one.tools for one in examples])
        return [self._asked(example, ids) for example, ids in zip(examples, prompts, strict=True)]

    def _asked(self, example: Example, ids: list[int]) -> Lesson:
        from luthier.models.pack import Row

        limit = self.rollout.max_prompt_tokens
        if len(ids) > limit:
            return Lesson(id=example.id, cut=len(ids), nothing=f"its prompt is longer than {limit} tokens")
        return Lesson(id=example.id, rows=(Row(ids, [0.0] * len(ids), example.id),))

    @abstractmethod
    def advantages(self, judged: Judged) -> list[list[float]]:
        """For each answer in turn, by how much each of its learnt tokens was better than expected."""

    def told(self, judged: Judged) -> dict[str, list[list[float]]]:
        """What the rows bear of their judgment: by name, for each answer in turn a number for each learnt token."""
        return {ADVANTAGE: self.advantages(judged)}

    def arranged(self, rows: Sequence[Row]) -> list[Row]:
        """Those of a step's rows that are learnt, as they are read together."""
        return [row for row in rows if self.moves(row)]

    @property
    def learnt(self) -> int:
        """Answers to a prompt that are learnt, at most."""
        return self.rollout.samples

    def weight(self, tokens: int) -> float:
        """How much each token of an answer of so many counts."""
        return 1.0 / max(1, tokens)

    def denominator(self, rows: Sequence[Row]) -> float:
        """The answers of the step, those included that are not learnt."""
        return float(len(rows))

    def moves(self, row: Row) -> bool:
        """Whether a row has any gradient."""
        return any(row.told.get(ADVANTAGE, ())) or any(row.told.get(KL, ()))


class Surrogate(Policy):
    """A policy whose every token is learnt by its advantage, and may be held near to where the model began."""

    other_names: ClassVar[Mapping[str, str]] = {"beta": "kl.coefficient"}

    kl: Kl | None = None
    """How the model is held near to where it began; not at all when not given."""
    correct: float | None = Field(default=2.0, gt=1)
    """Writing and training compute in another order, in bfloat16 by up to several per cent: a token counts by how much
    likelier it is to the reading that learns, at most so much (truncated importance sampling). None: all count 1."""

    @property
    def holding(self) -> Kl | None:
        """What is set."""
        return self.kl

    def loss(self, logp: Tensor, pack: Pack, reference: Tensor | None) -> Loss:
        """The surrogate, corrected for how tokens were written, and what divergence costs."""
        told = {name: value.to(logp) for name, value in pack.told.items()}
        old = told.get(OLD, logp.detach())
        each, beyond = self.surrogate(logp, old, told[ADVANTAGE], pack)
        if self.correct is not None:
            each = each * truncated(old, told[WRITTEN], self.correct)
        weights = pack.weights.to(logp)
        total = (weights * each).sum()
        if self.kl is not None and self.kl.estimator != "k1":
            apart = divergence(logp, told[REFERENCE], self.kl.estimator)
            if self.kl.unbiased:
                ratio = (logp - old).exp()
                apart = apart * (ratio if self.kl.estimator == "k3" else ratio.detach())
            total = total + (weights * told[KL] * apart).sum()
        gap = (old - told[WRITTEN]).abs()
        return Loss(
            total,
            {name: float((value * told[SHARE]).sum()) for name, value in (("clipped", beyond), ("written_apart", gap))},
        )

    @abstractmethod
    def surrogate(self, logp: Tensor, old: Tensor, advantage: Tensor, pack: Pack) -> tuple[Tensor, Tensor]:
        """(N,) what each token adds to the loss before it is weighed, and (N,) 1 where it is clipped."""


class ByToken(Surrogate):
    """A policy whose loss is a mean over the learnt tokens of a step, however they lie in answers."""

    def weight(self, tokens: int) -> float:
        """Every token counts the same."""
        return 1.0

    def denominator(self, rows: Sequence[Row]) -> float:
        """The learnt tokens of the step."""
        return float(max(1, sum(len(row.targets) for row in rows)))
