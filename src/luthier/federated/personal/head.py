"""Heads that stay at their sites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from luthier.federated.aggregator import Aggregator
from luthier.federated.personal.part import PersonalPart
from luthier.models.shapes import HEADS, is_head

if TYPE_CHECKING:
    from luthier.federated.privacy import FederatedPrivacy
    from luthier.models.describe import ModelDescription
    from luthier.tune.steps.tune import Tune


class PersonalHead(PersonalPart):
    """Keep the output head at each site and share everything below it (FedPer, Arivazhagan et al., 2019): for sites
    that name classes otherwise, or see other shares of them. Both are trained in the same steps."""

    kind: Literal["head"] = "head"

    def find_obstacle(self, tune: Tune, aggregator: Aggregator, privacy: FederatedPrivacy | None) -> str:
        """A training in which no head moves."""
        settings = tune.technique.settings()
        targets = settings.get("target_modules") or ()
        at_head = not isinstance(targets, str) and not set(HEADS).isdisjoint(targets)
        if at_head or tune.objective.wants_head() or tune.technique.kind == "full" or settings.get("head"):
            return ""
        return (
            f"{tune.technique.kind} with {tune.objective.kind} trains no head that could stay at a site; take "
            "`objective: {kind: classify, head: sequence}`, or `personal: adapter`"
        )

    def find_model_obstacle(self, tune: Tune, model: ModelDescription) -> str:
        """A head that is one with the embeddings, which all sites share."""
        if tune.objective.wants_head() or not model.tied or "target_modules" in tune.technique.settings():
            return ""
        return "the output head of this model is one with its embeddings, which travel; take `personal: adapter`"

    def keeps(self, name: str) -> bool:
        """The output head, and adapters at it."""
        return is_head(name)

    def describe(self, tune: Tune, model: ModelDescription | None) -> str:
        """The head, and its size where the model is known."""
        size = ""
        if model is not None:
            each = "class" if tune.objective.wants_head() else "token"
            size = f", {4 * model.hidden_size / 1e3:.1f} kB for each {each}"
        return (
            f"the head stays at each site and never travels{size}; the shared model has a head as it began, and each "
            "site's own model is a step `site_model`"
        )
