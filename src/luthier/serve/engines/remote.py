"""A model behind another server's OpenAI-compatible address: asked there, watched and named here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.serve.engine import ModelRunner, ServingEngine


class RemoteEngine(ServingEngine):
    """Pass requests on to the endpoint that a model was said to be (`source: {kind: endpoint, url: …, model: …}`).

    What that server refuses is refused with its words. A prompt that was chosen for the model stands in front of each
    conversation, as it does everywhere else.
    """

    kind: Literal["remote"] = "remote"

    max_num_seqs: int = Field(default=32, ge=1)
    """Requests that are under way there at the same time, at most; others wait."""
    max_queue_size: int = Field(default=64, ge=1)
    """Requests that wait, at most; whoever comes then is told to come back (429)."""

    def open(self, model: Artifact) -> ModelRunner:
        """Store the address; the endpoint is not called yet."""
        from luthier.chat.prompt import PromptPrefix
        from luthier.models.load import ENDPOINT, find_origin_artifact, get_model_name, is_endpoint
        from luthier.models.sources.endpoint import EndpointModelSource
        from luthier.serve.upstream import UpstreamModel

        if not is_endpoint(model):
            raise ModelError(f"{get_model_name(model)} is no endpoint", hint="serve it with the engine `torch`")
        settings = EndpointModelSource.model_validate(find_origin_artifact(model).read_json(ENDPOINT))
        return UpstreamModel(settings, PromptPrefix.of(model), self.max_num_seqs, self.max_queue_size, model.digest)
