"""Tuning at Amazon Bedrock, against moto's Bedrock and S3; what is sent is read by botocore's own model of the API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator
from moto.bedrock.models import bedrock_backends
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from luthier.core.errors import DataError, ModelError
from luthier.models.load import ENDPOINT, is_endpoint
from luthier.tune.hosted import client as hosted_client
from luthier.tune.hosted.client import ProviderClient
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import TechniqueBase
from luthier.tune.techniques.bedrock import BedrockTechnique
from tuning import TuneEnv, chat, examples, make_env

ACCOUNT, REGION, BUCKET = "123456789012", "us-east-1", "rows-of-mine"
SECRET = "wJalrXUtnFEMI-very-secret"
ARN = f"arn:aws:iam::{ACCOUNT}:role/tuner"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setattr(hosted_client, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    found = "http://{}:{}".format(*server.get_host_and_port())
    httpx.post(f"{found}/moto-api/reset")
    s3_backends[ACCOUNT]["aws"].create_bucket(BUCKET, REGION)
    monkeypatch.setattr(BedrockTechnique, "read_events", finish)
    yield found
    httpx.post(f"{found}/moto-api/reset")
    server.stop()


def jobs() -> dict[str, Any]:
    return bedrock_backends[ACCOUNT][REGION].model_customization_jobs  # type: ignore[no-any-return]


def finish(self: Any, client: ProviderClient, job_id: str) -> list[Any]:
    """moto's jobs never end by themselves."""
    if jobs()[job_id].status == "InProgress":
        jobs()[job_id].status = "Completed"
    return []


@pytest.fixture
def env(tmp_path: Path) -> TuneEnv:
    return make_env(tmp_path)


def step(url: str, **fields: Any) -> Tune:
    usual = {"kind": "bedrock", "model": "amazon.nova-micro-v1:0", "url": url, "region": REGION}
    more = {
        "storage_url": url.replace("127.0.0.1", "localhost"),
        "bucket": BUCKET,
        "role_arn": ARN,
        "upload": True,
        "poll_s": 0.01,
        "patience_s": 5.0,
    }
    return Tune(data="data", technique=TechniqueBase.parse({**usual, **more, **fields}))


def again(env: TuneEnv, wanted: Tune) -> Any:
    env.store.remove(env.tune_digest(wanted))
    for path in env.store.begin(env.tune_digest(wanted))[1].iterdir():
        path.unlink()
    return env.classify(wanted)


def test_rows_and_job_are_as_bedrock_wants_them(url: str, env: TuneEnv) -> None:
    made = env.classify(step(url, epochs=2, learning_rate=1e-5, deployment="arn:mine"))
    assert is_endpoint(made)
    assert made.read_json(ENDPOINT)["model"] == "arn:mine"
    assert made.read_json(ENDPOINT)["url"] == "https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1"
    [job] = jobs().values()
    assert job.hyper_parameters == {"epochCount": "2", "learningRate": "1e-05"}
    record = made.read_json("job.json")
    assert job.training_data_config == {"s3Uri": record["file"]}
    key = record["file"].partition(f"{BUCKET}/")[2]
    rows = s3_backends[ACCOUNT]["aws"].buckets[BUCKET].keys[key].value.decode().splitlines()
    first = examples(1)[0].messages
    assert json.loads(rows[0]) == {
        "schemaVersion": "bedrock-conversation-2024",
        "system": [{"text": first[0].content}],
        "messages": [{"role": one.role, "content": [{"text": one.content}]} for one in first[1:]],
    }
    assert len(rows) == 48
    for path in env.store.root.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    assert not [event for event in env.heard if SECRET in event.text + event.details]


def test_the_body_passes_botocores_own_validator(url: str, env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    post = ProviderClient.post

    def keep(self: Any, path: str, body: Any, **params: str) -> Any:
        sent.append(body)
        return post(self, path, body, **params)

    monkeypatch.setattr(ProviderClient, "post", keep)
    env.classify(step(url))
    shape = get_session().get_service_model("bedrock").operation_model("CreateModelCustomizationJob").input_shape
    assert not ParamValidator().validate(sent[0], shape).has_errors()
    assert sent[0].keys() <= shape.members.keys()


def test_a_job_is_found_again_and_a_failed_one_is_not(url: str, env: TuneEnv) -> None:
    one = env.classify(step(url)).read_json("job.json")
    assert again(env, step(url)).read_json("job.json") == one
    assert len(jobs()) == 1
    jobs()[one["job"]].status = "Failed"
    two = again(env, step(url)).read_json("job.json")
    assert two["job"] == f"{one['job']}-2"
    assert len(jobs()) == 2


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_run_that_is_killed_around_the_creation_goes_on_with_one_job(
    at: str, url: str, env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = BedrockTechnique.create_job

    def die(self: Any, *args: Any) -> Any:
        if at == "after":
            create(self, *args)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(BedrockTechnique, "create_job", die)
        with pytest.raises(SystemExit):
            env.classify(step(url))
    env.classify(step(url))
    assert len(jobs()) == 1


def test_an_interrupted_job_is_stopped(url: str, env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(BedrockTechnique, "read_events", interrupt)
    with pytest.raises(KeyboardInterrupt):
        env.classify(step(url, on_interrupt="cancel"))
    assert [job.status for job in jobs().values()] == ["Stopped"]


def test_what_bedrock_refuses_is_told_before(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="takes files of 8 rows and more, and there are 3; nothing was uploaded"):
        make_env(tmp_path / "b", examples(3)).classify(step(url))
    double = chat("a", "b")
    double = double.model_copy(update={"messages": (*double.messages[:2], *double.messages[1:])})
    with pytest.raises(DataError, match="the user begins"):
        make_env(tmp_path / "c", [*examples(9), double]).classify(step(url))
    assert not jobs()


def test_a_bucket_that_is_not_there_and_missing_credentials_are_said(
    url: str, env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"(?s)answered 404.*NoSuchBucket"):
        env.classify(step(url, bucket="another"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(ModelError, match="no credentials of AWS"):
        env.classify(step(url))
