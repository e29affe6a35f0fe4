"""Halves of low-rank adapters that stay at their sites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.federated.aggregator import UP, Aggregator, RoundNumbers
from luthier.federated.personal.part import PersonalPart
from luthier.tune.low_rank import LowRankTechnique

if TYPE_CHECKING:
    from luthier.federated.privacy import FederatedPrivacy
    from luthier.models.describe import ModelDescription
    from luthier.tune.steps.tune import Tune

_LENGTHS = ".lora_magnitude_vector."
"""DoRA's lengths go with B, as in LoRA+."""


class PersonalLoraB(PersonalPart):
    """Share A of each low-rank adapter and keep B at each site (FedSA-LoRA, Guo et al., 2024): A learns which
    directions of the input matter at all sites, and B what each site makes of them. A travels alone, and its mean is
    exact."""

    kind: Literal["lora_b"] = "lora_b"

    def find_obstacle(self, tune: Tune, aggregator: Aggregator, privacy: FederatedPrivacy | None) -> str:
        """A training without B."""
        if isinstance(tune.technique, LowRankTechnique):
            return ""
        return f"{tune.technique.kind} has no factor B that could stay at a site; take lora, or leave `personal` out"

    def find_sum_obstacle(self, tune: Tune, aggregator: Aggregator) -> str:
        """Sums of products need B, and `ffa` trains nothing else."""
        if aggregator.kind == "mean":
            return ""
        why = "trains B alone, so nothing would travel" if aggregator.kind == "ffa" else "needs B of each site"
        return f"with `personal: lora_b` B stays at each site, and {aggregator.kind} {why}; take mean"

    def keeps(self, name: str) -> bool:
        """B, and DoRA's lengths."""
        return UP in name or _LENGTHS in name

    def count_numbers(self, aggregator: Aggregator, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """A alone, and what is no factor."""
        return aggregator.count_numbers(down, 0, other, sites)

    def describe(self, tune: Tune, model: ModelDescription | None) -> str:
        """B, and that the shared model does nothing without it."""
        return (
            "B of each adapter stays at each site and never travels; the shared model answers as its base does, and "
            "each site's own model is a step `site_model`"
        )
