"""The description covers files and jobs: whatever is sent by it, the server never fails."""

from __future__ import annotations

import pytest

from calling import called
from tests.api.conftest import Open


def test_it_names_every_route(place: Open) -> None:
    told = place.ask("GET", "/openapi.json").json()
    paths = {path: sorted(verbs) for path, verbs in told["paths"].items()}
    assert paths["/v1/files"] == ["get", "post"]
    assert paths["/v1/files/{file_id}"] == ["delete", "get"]
    assert paths["/v1/files/{file_id}/content"] == ["get"]
    assert paths["/v1/fine_tuning/jobs"] == ["get", "post"]
    for what in ("cancel", "pause", "resume"):
        assert paths[f"/v1/fine_tuning/jobs/{{fine_tuning_job_id}}/{what}"] == ["post"]
    body = told["paths"]["/v1/fine_tuning/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].endswith("/FineTuningJobRequest")
    assert told["components"]["schemas"]["FineTuningJobRequest"]["additionalProperties"] is False
    answers = [
        set(one["responses"]) for path, verbs in told["paths"].items() if "/v1/" in path for one in verbs.values()
    ]
    assert all({"4XX", "5XX"} <= codes and "422" not in codes for codes in answers), "a wrong request gets a 400"


@pytest.mark.filterwarnings("ignore")  # schemathesis is not ours
@pytest.mark.parametrize("examples", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_nothing_that_follows_it_makes_the_server_fail(place: Open, examples: int) -> None:
    headers = {"Authorization": f"Bearer {place.keys['ben']}"}
    url, ours = f"{place.served.root}/openapi.json", ("/files", "/fine_tuning")
    seen, failed = called(url, examples, headers, lambda path: any(one in path for one in ours))
    assert not failed, failed[:3]
    assert len(seen) == 10
