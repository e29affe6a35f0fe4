"""What the answers of a model behind an endpoint cannot have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, SourceLocation
from luthier.metrics.metric import Need

if TYPE_CHECKING:
    from luthier.core.step import PlanContext


def predict_missing_metric_inputs(plan_context: PlanContext, normalize: str) -> frozenset[Need]:
    """Return the metric inputs (label scores, log-probabilities) that a model cannot give, which may not be made
    yet."""
    from luthier.models.load import is_remote_input
    from luthier.models.sources.endpoint import EndpointModelSource

    if (artifact := plan_context.inputs.get("model")) is not None:
        return find_missing_metric_inputs(artifact, normalize)
    if not is_remote_input(plan_context):
        return frozenset()
    source = getattr(plan_context.upstream.get("model"), "source", None)
    return _untold(normalize, by_text=isinstance(source, EndpointModelSource) and source.labels == "text")


def find_missing_metric_inputs(model: Artifact, normalize: str) -> frozenset[Need]:
    """Return the metric inputs (label scores, log-probabilities) that a model behind an endpoint cannot give; empty for
    local weights."""
    from luthier.models.load import is_endpoint

    if not is_endpoint(model):
        return frozenset()
    from luthier.models.lm.openai_client import read_endpoint

    return _untold(normalize, by_text=read_endpoint(model).labels == "text")


def _untold(normalize: str, *, by_text: bool) -> frozenset[Need]:
    """What an endpoint does not tell, by whether it is only asked to write a label."""
    if normalize != "sum":
        raise RecipeError("changes nothing for an endpoint; leave it out", where=SourceLocation(field="normalize"))
    return frozenset({"logprobs", "label_scores"}) if by_text else frozenset({"logprobs"})
