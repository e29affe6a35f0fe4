"""Held-out prompts of a policy: the likeliest answer to each, judged by rewards that it need never have seen."""

from __future__ import annotations

from typing import Any

from luthier.models.logprobs import answering
from luthier.tune.policy import Policy
from luthier.tune.reward import Bench
from luthier.tune.rollout.desk import Desk, Questions
from luthier.tune.rollout.rollout import _mean
from luthier.tune.rollout.writing import Prompt


class Trial:
    """What is measured, and on what."""

    def __init__(self, objective: Policy, desk: Desk, questions: Questions, bench: Bench | None = None) -> None:
        self._objective, self._desk, self._questions, self._bench = objective, desk, questions, bench

    def take(self, model: Any, tokens: int) -> dict[str, float]:
        """`held_out_reward`, each reward by its name, and `held_out_loss`, which is minus the first."""
        numbers = range(self._questions.count)
        examples = self._questions.examples(numbers)
        with answering(model):
            asked = zip(self._questions.prompts(numbers), examples, strict=True)
            answers = self._desk.answer([Prompt(ids, None, example) for ids, example in asked])
        scores = self._desk.judge(self._objective.judges, examples, answers, self._bench)
        reward = _mean(scores.total)
        parts = {f"held_out_reward_{name}": _mean(values) for name, values in scores.parts.items()}
        return {"held_out_loss": -reward, "held_out_reward": reward, **parts}
