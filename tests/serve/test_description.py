"""The description of the API is one that programs can follow: whatever they send by it, the server never fails."""

from __future__ import annotations

import pytest

from calling import called
from serving import Served


@pytest.fixture
def described(served: Served) -> str:
    return f"{served.root}/openapi.json"


def test_it_names_every_route_and_body(served: Served, described: str) -> None:
    told = served.get("/openapi.json").json()
    assert told["openapi"].startswith("3.")
    bodies = {
        path: verbs["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for path, verbs in told["paths"].items()
        if "post" in verbs and path != "/v1/audio/transcriptions"
    }
    form = told["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"file", "model", "language", "prompt", "response_format", "temperature"} == set(form["properties"])
    assert bodies == {
        "/v1/chat/completions": "ChatRequestBody",
        "/v1/completions": "CompletionRequestBody",
        "/v1/embeddings": "EmbeddingsBody",
    }
    assert {"ChatRequestBody", "MessageBody", "ToolBody", "CompletionRequestBody", "EmbeddingsBody"} <= set(
        told["components"]["schemas"]
    )
    assert told["components"]["schemas"]["ChatRequestBody"]["additionalProperties"] is False


@pytest.mark.filterwarnings("ignore")  # schemathesis is not ours
@pytest.mark.parametrize("examples", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_nothing_that_follows_it_makes_the_server_fail(described: str, examples: int) -> None:
    seen, failed = called(described, examples)
    assert seen
    assert not failed, failed[:3]
