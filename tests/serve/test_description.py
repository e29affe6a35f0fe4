"""The description of the API is one that programs can follow: whatever they send by it, the server never fails."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

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
        if "post" in verbs
    }
    assert bodies == {
        "/v1/chat/completions": "Chat",
        "/v1/completions": "Completion",
        "/v1/embeddings": "Embedding",
    }
    assert {"Chat", "Turn", "Offer", "Completion", "Embedding"} <= set(told["components"]["schemas"])
    assert told["components"]["schemas"]["Chat"]["additionalProperties"] is False


@pytest.mark.filterwarnings("ignore")  # schemathesis is not ours
@pytest.mark.parametrize("examples", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_nothing_that_follows_it_makes_the_server_fail(described: str, examples: int) -> None:
    schema = schemathesis.openapi.from_url(described)
    failed = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            response = case.call(timeout=30)
            if response.status_code >= 500:
                failed.append((case.method, case.path, case.body, response.text))

        check()
    assert not failed, failed[:3]
