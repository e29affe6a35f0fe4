"""A small honest bench for tests of policies: given answers and rewards, made into rows by the real rollout."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.models.packing.pack import TokenRow
from luthier.tune.policy import ActorCritic, PolicyObjective
from luthier.tune.rollout.generate import RewardScores, RolloutCompletion, RolloutPrompt
from luthier.tune.rollout.rollout import RolloutBatchSource
from luthier.tune.rollout.sampler import PromptDataset
from luthier.tune.training.reference_logprobs import compute_row_logprobs
from luthier.tune.training.schedule import BatchSampler
from tuning import examples

END = 2
"""The id at which the tiny model ends an answer."""
REGEX = {"kind": "regex", "pattern": "e"}


@dataclass
class Script:
    """Prompts, and for each the answers that will be given to it with their rewards."""

    prompts: list[list[int]]
    answers: list[list[list[int]]]
    rewards: list[list[float]]
    written: list[list[list[float]]] = field(default_factory=list)
    """Log-probabilities when the answers were written; all -1 when not given."""
    parts: list[list[list[float]]] = field(default_factory=list)
    """By reward what each answer is worth to it; the rewards themselves when not given."""

    @classmethod
    def drawn(cls, prompts: int = 3, samples: int = 4, seed: int = 0, longest: int = 6) -> Script:
        """Random ids, lengths and rewards."""
        chance = random.Random(seed)
        asked = [[chance.randrange(3, 400) for _ in range(20)] for _ in range(prompts)]
        said = [[[chance.randrange(3, 400) for _ in range(chance.randint(1, longest - 1))] + [END]
                 for _ in range(samples)] for _ in range(prompts)]  # fmt: skip
        worth = [[float(chance.randrange(4)) for _ in range(samples)] for _ in range(prompts)]
        return cls(asked, said, worth)


class Actor:
    """Plays a script in the place of a desk: gives the answers, tells their rewards."""

    def __init__(self, script: Script, model: Any) -> None:
        self._script, self.model = script, model

    def answer(self, prompts: Sequence[RolloutPrompt]) -> list[RolloutCompletion]:
        """The answers that stand in the script, in order."""
        script = self._script
        flat = [ids for some in script.answers for ids in some]
        told = [logps for some in script.written for logps in some] or [[-1.0] * len(ids) for ids in flat]
        return [RolloutCompletion(asked.ids, list(ids), list(logps), ids[-1] == END)
                for asked, ids, logps in zip(prompts, flat, told, strict=True)]  # fmt: skip

    def judge(
        self, rewards: Sequence[Any], examples: Sequence[Any], answers: Sequence[RolloutCompletion]
    ) -> RewardScores:
        """The rewards that stand in the script."""
        flat = [value for some in self._script.rewards for value in some]
        parts = [[value for some in part for value in some] for part in self._script.parts] or [flat] * len(rewards)
        return RewardScores(flat, {reward.name: part for reward, part in zip(rewards, parts, strict=True)})


class Guess:
    """Stands in a critic's place: a number for each learnt token, which follows from the token."""

    def read(self, rows: Sequence[TokenRow], tokens: int) -> list[list[float]]:
        """Between -1 and 1."""
        return [[(7 * row.ids[at] % 21 - 10) / 10 for at in row.targets] for row in rows]


def rollout(policy: PolicyObjective, script: Script, model: Any) -> RolloutBatchSource:
    """The real rollout over a script."""
    count = len(script.prompts)
    rows = [TokenRow(ids, [0.0] * len(ids), f"prompt {at}") for at, ids in enumerate(script.prompts)]
    asked = PromptDataset(lambda number: [rows[number]], lambda numbers: [examples(count)[at] for at in numbers], count)
    sampler = BatchSampler(seed=0, count=count, epochs=1, batch_size=count, first=_in_order(count), first_epochs=1)
    critic: Any = Guess() if isinstance(policy, ActorCritic) else None
    actor: Any = Actor(script, model)
    return RolloutBatchSource(policy, actor, asked, sampler, 1 << 14, warn=_refuse, critic=critic)


def written(model: Any, script: Script) -> list[list[list[float]]]:
    """How likely a script's answers are to a model."""
    rows = [
        TokenRow([*prompt, *ids], [0.0] * len(prompt) + [1.0] * len(ids))
        for prompt, some in zip(script.prompts, script.answers, strict=True)
        for ids in some
    ]
    found = iter(compute_row_logprobs(model, rows, 1 << 14))
    return [[next(found) for _ in some] for some in script.answers]


def _in_order(count: int) -> Any:
    import numpy

    return numpy.arange(count)


def _refuse(what: str) -> None:
    raise AssertionError(what)


def policy_of(kind: str, script: Script, **fields: Any) -> PolicyObjective:
    """A policy for as many samples as a script has."""
    from luthier.core.component import components_by_kind
    from luthier.tune.objective import Objective

    drawing = {"num_generations": len(script.answers[0]), "max_completion_length": 6, **fields.pop("rollout", {})}
    told = {"kind": kind, "rewards": [REGEX], "shown": 0, "rollout": drawing, **fields}
    made = components_by_kind(Objective)[kind].model_validate(told)
    assert isinstance(made, PolicyObjective)
    return made
