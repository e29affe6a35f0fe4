"""Control of policy training by its log: the adaptive KL coefficient, and early stopping.

All of it follows from the log alone, so that a resumed training decides as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from luthier.tune.policy import PolicyObjective
from luthier.tune.rollout.generate import RewardScores

RATE = 0.1
"""Gain of the adaptive KL controller (Ziegler et al., 2019)."""
MOST = 0.2
"""Maximum relative distance from the target that counts."""
SHOWN_TIMES = 8
"""Number of times that the answers to the same prompts are logged."""


class PolicyTrainingMonitor:
    """Watches policy training: warns of reward errors, adapts the KL coefficient and decides early stopping."""

    def __init__(self, objective: PolicyObjective, warn: Callable[[str], None]) -> None:
        self._objective, self._warn = objective, warn
        self.coefficient = objective.holding.coefficient if objective.holding is not None else 0.0
        """What a nat of divergence costs at the next step."""
        self._failed: set[str] = set()
        self._rewards: list[float] = []
        self._best: tuple[int, float, float] | None = None
        self._worse = 0

    def faults(self, scores: RewardScores) -> None:
        """Warn of the first error of each reward."""
        for name, what in scores.faults.items():
            if name not in self._failed:
                self._failed.add(name)
                self._warn(f"{what}; such answers are left out and counted (reward_faults)")

    def record_step(self, record: Mapping[str, Any]) -> str:
        """Take note of a step; returns why training stops after it."""
        self._adapt(record.get("kl"))
        if record.get("reward") is not None:
            self._rewards.append(record["reward"])
        return self._too_far(record) or self._hacked(record)

    def _adapt(self, apart: float | None) -> None:
        kl = self._objective.holding
        if kl is None or kl.target is None or apart is None:
            return
        distance = min(MOST, max(-MOST, apart / kl.target - 1))
        self.coefficient *= 1 + RATE * distance

    def _too_far(self, record: Mapping[str, Any]) -> str:
        most, apart = self._objective.stop.kl, record.get("kl")
        if most is None or apart is None or apart <= most:
            return ""
        return f"its answers are {apart:.3g} nats a token away from where it began, and {most:g} are allowed (stop.kl)"

    def _hacked(self, record: Mapping[str, Any]) -> str:
        """Return whether the held-out reward fell while the training reward rose."""
        patience, gold = self._objective.stop.hacking, record.get("held_out_reward")
        if patience is None or gold is None:
            return ""
        mean_reward = sum(self._rewards) / len(self._rewards) if self._rewards else 0.0
        self._rewards.clear()
        if self._best is None or gold >= self._best[1]:
            self._best, self._worse = (int(record["step"]), gold, mean_reward), 0
            return ""
        step, most, then = self._best
        self._worse = self._worse + 1 if mean_reward > then else 0
        if self._worse < patience:
            return ""
        fell = f"the held-out reward fell from {most:.3g} after step {step} to {gold:.3g}"
        return f"{fell}, while the reward that is learnt rose from {then:.3g} to {mean_reward:.3g} (stop.hacking)"


def is_sample_step(step: int, steps: int) -> bool:
    """Return whether sample answers are logged before a step (from 0)."""
    return step % max(1, steps // SHOWN_TIMES) == 0
