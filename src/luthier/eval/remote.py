"""What the answers of a model behind an endpoint cannot have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, Where
from luthier.metrics.metric import Need

if TYPE_CHECKING:
    from luthier.core.step import Outlook


def lacking_ahead(outlook: Outlook, normalise: str) -> frozenset[Need]:
    """The same of a model that may not be made yet."""
    from luthier.models.load import is_remote
    from luthier.models.sources.endpoint import Endpoint

    if (made := outlook.inputs.get("model")) is not None:
        return lacking(made, normalise)
    if not is_remote(outlook):
        return frozenset()
    source = getattr(outlook.upstream.get("model"), "source", None)
    return _untold(normalise, by_text=isinstance(source, Endpoint) and source.labels == "text")


def lacking(model: Artifact, normalise: str) -> frozenset[Need]:
    """What the answers of a model cannot have: nothing when its weights are here."""
    from luthier.models.load import is_endpoint

    if not is_endpoint(model):
        return frozenset()
    from luthier.models.lm.openai_client import endpoint_of

    return _untold(normalise, by_text=endpoint_of(model).labels == "text")


def _untold(normalise: str, *, by_text: bool) -> frozenset[Need]:
    """What an endpoint does not tell, by whether it is only asked to write a label."""
    if normalise != "sum":
        raise RecipeError("changes nothing for an endpoint; leave it out", where=Where(field="normalise"))
    return frozenset({"logprobs", "label_scores"}) if by_text else frozenset({"logprobs"})
