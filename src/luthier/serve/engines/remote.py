"""A model behind another server's OpenAI-compatible address: asked there, watched and named here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError
from luthier.serve.engine import Answering, Engine


class Remote(Engine):
    """Pass requests on to the endpoint that a model was said to be (`source: {kind: endpoint, url: …, model: …}`).

    What that server refuses is refused with its words. A prompt that was chosen for the model stands in front of each
    conversation, as it does everywhere else.
    """

    kind: Literal["remote"] = "remote"

    at_once: int = Field(default=32, ge=1)
    """Requests that are under way there at the same time, at most; others wait."""
    waiting: int = Field(default=64, ge=1)
    """Requests that wait, at most; whoever comes then is told to come back (429)."""

    def open(self, model: Artifact) -> Answering:
        """Write down where it is; nothing is asked yet."""
        from luthier.models.load import ENDPOINT, is_endpoint, name_of, origin_artifact
        from luthier.models.sources.endpoint import Endpoint
        from luthier.serve.elsewhere import Elsewhere
        from luthier.text.prompt import Prompt

        if not is_endpoint(model):
            raise ModelError(f"{name_of(model)} is no endpoint", remedy="serve it with the engine `torch`")
        settings = Endpoint.model_validate(origin_artifact(model).read_json(ENDPOINT))
        return Elsewhere(settings, Prompt.of(model), self.at_once, self.waiting, model.digest)
