"""Right or wrong, by the form of the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from luthier.metrics.kinds.structured import JsonValid
from luthier.tune.reward import Reward, RewardCompletion, RewardContext
from luthier.tune.rewards.metric import score_with_metric


class JsonSchemaReward(Reward):
    """1 for an answer that is JSON and obeys a schema, else 0."""

    kind: Literal["json_schema"] = "json_schema"

    obeys: dict[str, Any] | None = None
    """A JSON Schema, with references only within it (`#/…`); any JSON will do when not given."""
    fenced: bool = True
    """Whether the JSON may stand in a fence (```), with words around it."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """1 or 0 for each answer."""
        valid = JsonValid(obeys=self.obeys, fenced=self.fenced)
        return score_with_metric(valid, attempts, held_against=False)
