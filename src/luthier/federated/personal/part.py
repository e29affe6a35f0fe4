"""The role `personal_part`: which part of a model each site keeps for itself, so that it never travels.

A part is either some of the weights that the rounds train, or an adapter that a site trains when the rounds are over.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from luthier.core.component import Component
from luthier.federated.aggregator import Aggregator, RoundNumbers

if TYPE_CHECKING:
    from luthier.federated.privacy import FederatedPrivacy
    from luthier.models.describe import ModelDescription
    from luthier.tune.steps.tune import Tune


class PersonalPart(Component):
    """The base class of personal parts."""

    role: ClassVar[str] = "personal_part"
    home: ClassVar[str] = "luthier.federated.personal"

    @abstractmethod
    def find_obstacle(self, tune: Tune, aggregator: Aggregator, privacy: FederatedPrivacy | None) -> str:
        """Return why it cannot stay at the sites in such a federation; empty when it can."""

    def find_sum_obstacle(self, tune: Tune, aggregator: Aggregator) -> str:
        """Return why an aggregator cannot sum the remaining weights; empty when it can."""
        return aggregator.refuses(tune.technique)

    def find_model_obstacle(self, tune: Tune, model: ModelDescription) -> str:
        """Return why it is not a part of a model; empty when it is one."""
        return ""

    def keeps(self, name: str) -> bool:
        """Return whether a parameter trained in the rounds stays at each site."""
        return False

    def build_tune(self, tune: Tune) -> Tune | None:
        """Return the training of each site after the last round, on top of the shared model; None: none."""
        return None

    def count_numbers(self, aggregator: Aggregator, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """Return the numbers that are sent in a round, given those of A, of B and of other weights."""
        return aggregator.count_numbers(down, up, other, sites)

    @abstractmethod
    def describe(self, tune: Tune, model: ModelDescription | None) -> str:
        """Describe the personal part, for the plan."""
