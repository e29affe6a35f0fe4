"""Jobs of SageMaker, Vertex AI and Azure Machine Learning: what is sent, by the owners' own parsers and by a server
that answers as they do; what is refused; what never becomes structure, and what no order holds."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_apis import SETTINGS, CloudApis, cloud_apis
from luthier.core.errors import InputError, SystemResourceError
from luthier.core.remote_store import open_store
from luthier.core.store import Store
from luthier.recipe import scheduler_api
from luthier.recipe.batch import BatchExecutor, BatchJob
from luthier.recipe.executor import parse_executor
from luthier.recipe.executors import azureml, vertex
from luthier.recipe.executors.azureml import AzureMLExecutor
from luthier.recipe.executors.sagemaker import SageMakerExecutor
from luthier.recipe.executors.vertex import VertexExecutor
from luthier.recipe.scheduler_api import SchedulerTimeoutError
from tests.test_every_executor import WHY_NOT, Site, scheduler

KINDS = sorted(SETTINGS)
NAME = "luthier-0123456789abcdef"
ROW = "row of a person"
FULL: dict[str, dict[str, Any]] = {
    "sagemaker": {
        "nodes": 2, "processes_per_node": 4, "spot": True, "hours": 2, "env": {"MODE": "a b"}, "region": "us-east-1",
        "checkpoints": "s3://work/c", "subnets": ["subnet-0a"], "security_groups": ["sg-0a"],
    },
    "vertex": {
        "nodes": 3, "accelerator": "NVIDIA_L4", "accelerators": 2, "spot": True, "env": {"MODE": "a b"},
        "service_account": "tuner@proj.iam.gserviceaccount.com", "network": "projects/1/global/networks/inner",
    },
    "azureml": {
        "nodes": 2, "processes_per_node": 4, "spot": True, "env": {"MODE": "a b"}, "instance": "Standard_D2",
        "identity": "user",
    },
}  # fmt: skip


def job(location: str = "s3://stores/x/tasks/0/task.json") -> BatchJob:
    """A job whose task holds a row."""
    return BatchJob(NAME, json.dumps({"text": ROW}), Path("output"), location)


def make(kind: str, **settings: Any) -> Any:
    """An executor with the least settings, and some more."""
    return parse_executor(json.dumps({"kind": kind, **SETTINGS[kind], "poll_s": 0.1, **settings}))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if reason := WHY_NOT[request.param]:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CloudApis, str]]:
    """The server that this process has credentials for."""
    with cloud_apis(tmp_path / "cloud") as (apis, url, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for module in (vertex, azureml):
            module._find_credentials.cache_clear()
        yield apis, url


def connected(kind: str, url: str, **settings: Any) -> BatchExecutor:
    """An executor that speaks with the server."""
    found: BatchExecutor = make(kind, **({} if kind == "sagemaker" else {"endpoint": url}), **settings)
    return found


@pytest.mark.matrix("vertex")
def test_the_doctor_runs_a_job_that_reads_its_task_from_a_bucket(tmp_path: Path, kind: str) -> None:
    site = Site(tmp_path)
    folder = site.recipe("well", "well")
    with scheduler(kind, site) as (asked, environment):
        site.environment |= environment
        store = f"{site.environment.pop('STORES')}/well"
        site.environment["LUTHIER_STORE"] = store
        process = site.start(folder, "doctor", "--on", asked, "--job", "--json")
        out, err = process.communicate(timeout=200)
        checks = {check["what"]: check for check in json.loads(out)["findings"]}
        assert process.returncode == (2 if checks["GPU of the job"]["state"] == "missing" else 0), out + err
        assert {checks[what]["state"] for what in ("job", "code", "store of the job")} == {"good"}
        assert checks["store"]["came"].startswith(store)


def wait_for_end(executor: BatchExecutor) -> str:
    """What is said of the job when it has ended."""
    for _ in range(300):
        status = executor.find(NAME)
        if status is not None and status.state == "ended":
            return status.reason
        time.sleep(0.1)
    raise AssertionError("it never ended")


def order_of(kind: str, **settings: Any) -> dict[str, Any]:
    """What is sent for a job."""
    found: dict[str, Any] = make(kind, **settings).order(job(), *([1] if kind == "sagemaker" else []))
    return found


def test_an_order_holds_the_place_of_the_task_alone(kind: str) -> None:
    text = json.dumps(order_of(kind, **FULL[kind]))
    assert ROW not in text
    assert text.count("s3://stores/x/tasks/0/task.json") == (2 if kind == "vertex" else 1)  # once for each pool


def test_sagemaker_is_asked_for_what_the_settings_say() -> None:
    order = order_of("sagemaker", **FULL["sagemaker"])
    assert order["TrainingJobName"] == f"{NAME}-1"
    algorithm = order["AlgorithmSpecification"]
    assert algorithm["ContainerEntrypoint"][1:] == ["-P", "-m", "luthier", "make", "--processes", "4"]
    assert order["ResourceConfig"] == {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 50}
    assert order["StoppingCondition"] == {"MaxRuntimeInSeconds": 7200, "MaxWaitTimeInSeconds": 14400}
    assert order["Environment"] == {"LUTHIER_CACHE": "/opt/ml/checkpoints", "MODE": "a b"}
    assert order["CheckpointConfig"]["S3Uri"] == f"s3://work/c/{NAME}"


def test_sagemaker_of_moto_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto")
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "word")):
        monkeypatch.setenv(name, value)
    with moto.mock_aws():
        executor = make("sagemaker", **FULL["sagemaker"])
        assert executor.find(NAME) is None
        executor.submit(job())
        executor.submit(job())
        status = executor.find(NAME)
        assert status is not None
        assert status.reason == "Completed"
        executor.cancel_job(NAME)
        assert executor.read_output(NAME) == ""


def read_by_owner(program: str, order: dict[str, Any], tmp_path: Path) -> Any:
    """What a program of the clients' own Python makes of an order."""
    python = os.environ.get("LUTHIER_CLOUD_PYTHON")
    if python is None:
        pytest.skip("LUTHIER_CLOUD_PYTHON names no Python with google-cloud-aiplatform and azure-ai-ml")
    (tmp_path / "order.json").write_text(json.dumps(order))
    command = [python, "-W", "ignore", "-c", program, str(tmp_path / "order.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vertex_is_asked_for_a_custom_job_of_its_protocol_buffers(tmp_path: Path) -> None:
    program = (
        "import sys; from google.cloud.aiplatform_v1.types import CustomJob; "
        "print(CustomJob.to_json(CustomJob.from_json(open(sys.argv[1]).read()), use_integers_for_enums=False))"
    )
    order = order_of("vertex", **FULL["vertex"])
    assert [pool["replicaCount"] for pool in order["jobSpec"]["workerPoolSpecs"]] == [1, 2]
    found = read_by_owner(program, order, tmp_path)
    first = found["jobSpec"]["workerPoolSpecs"][0]
    assert first["machineSpec"]["acceleratorType"] == "NVIDIA_L4"
    assert first["containerSpec"]["command"][-2:] == ["--processes", "1"]
    assert found["jobSpec"]["scheduling"]["strategy"] == "SPOT"
    assert found["jobSpec"]["scheduling"]["timeout"] == "86400s"


def test_azure_is_asked_for_a_command_job_of_its_schema(tmp_path: Path) -> None:
    program = (
        "import json, sys; from azure.ai.ml._restclient.arm_ml_service import models; "
        "order = json.load(open(sys.argv[1])); job = models.JobBase(order).properties; "
        "known = {field._rest_name for field in type(job)._attr_to_rest_field.values()}; "
        "print(json.dumps([type(job).__name__, sorted(set(order['properties']) - known), job.command,"
        " str(job.limits.timeout), job.resources.instance_count, job.distribution.process_count_per_instance]))"
    )
    order = order_of("azureml", **FULL["azureml"])
    command = "python -P -m luthier make s3://stores/x/tasks/0/task.json"  # Azure starts the processes itself
    assert order["properties"]["command"] == command
    assert read_by_owner(program, order, tmp_path) == ["CommandJob", [], command, "1 day, 0:00:00", 2, 4]


def test_a_job_is_found_by_its_name_and_its_end_is_told(cloud: tuple[CloudApis, str], kind: str) -> None:
    apis, url = cloud
    executor = connected(kind, url, python="/bin/sh")  # which ends with an error: it knows no -P
    assert executor.find(NAME) is None
    executor.cancel_job(NAME)
    executor.submit(job())
    assert "fail" in wait_for_end(executor).lower()
    if kind == "sagemaker":
        assert "-P" in executor.read_output(NAME)
    executor = connected(kind, url, python="/bin/echo")
    executor.submit(job())
    assert "fail" not in wait_for_end(executor).lower()
    assert len(apis.jobs) == 2
    apis.fails = 1  # what is read is asked again
    assert executor.find(NAME) is not None


def test_submitting_twice_makes_one_job_and_a_stop_is_told(
    cloud: tuple[CloudApis, str], kind: str, tmp_path: Path
) -> None:
    apis, url = cloud
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/bash\ntrap 'echo told; exit 5' TERM\necho begun\nsleep 60 & wait\n")
    slow.chmod(0o755)
    executor = connected(kind, url, python=str(slow))
    executor.submit(job())
    status = executor.find(NAME)
    assert status is not None
    assert status.state == "running"
    executor.submit(job())
    assert len(apis.jobs) == 1
    while "begun" not in apis.jobs[0].output.read_text():
        time.sleep(0.05)
    executor.cancel_job(NAME)
    wait_for_end(executor)
    assert "told" in apis.jobs[0].output.read_text()


def test_of_two_jobs_that_vertex_takes_at_once_the_first_is_left(
    cloud: tuple[CloudApis, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if reason := WHY_NOT["vertex"]:
        pytest.skip(reason)
    apis, url = cloud
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/bash\nexec sleep 60\n")
    slow.chmod(0o755)
    executor = connected("vertex", url, python=str(slow))
    executor.submit(job())
    looks, alive = iter([[]]), VertexExecutor._list_alive  # the second looked before the first was there
    monkeypatch.setattr(VertexExecutor, "_list_alive", lambda own, name: next(looks, alive(own, name)))
    executor.submit(job())
    assert [one.cancelled for one in apis.jobs] == [False, True]
    status = executor.find(NAME)
    assert status is not None
    assert status.state == "running"
    executor.cancel_job(NAME)
    assert apis.jobs[0].cancelled


def test_a_submission_whose_answer_is_lost_is_no_refusal(cloud: tuple[CloudApis, str], kind: str) -> None:
    apis, url = cloud
    executor = connected(kind, url, python="/bin/echo")
    apis.loses = 1
    if kind == "sagemaker":  # its client sends again, and hears that the name is taken
        executor.submit(job())
    else:
        with pytest.raises(SchedulerTimeoutError):
            executor.submit(job())
    assert len(apis.jobs) == 1
    assert executor.find(NAME) is not None


@pytest.mark.parametrize("place", ["s3://b/$(touch x)", "s3://b/${{ x }}", "s3://b/a\nb", f"s3://b/{'x' * 300}"])
def test_a_place_that_a_cloud_would_change_is_refused(kind: str, place: str) -> None:
    executor = make(kind)
    with pytest.raises(InputError, match="which a cloud replaces"):
        executor.get_command(job(f"{place}/tasks/0/task.json"))


def test_a_place_is_data_for_the_shell(tmp_path: Path) -> None:
    order = make("azureml").order(job(f"s3://b/`touch {tmp_path}/harm`; touch {tmp_path}/harm '\"/tasks/0/task.json"))
    command = order["properties"]["command"].replace("python", "echo", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert f"`touch {tmp_path}/harm`; touch {tmp_path}/harm '\"/tasks" in done.stdout
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("kind_of", "settings"),
    [
        ("sagemaker", {"role_arn": "tuner"}), ("sagemaker", {"image": "a b"}), ("sagemaker", {"instance": "$(x)"}),
        ("sagemaker", {"subnets": ["a;b"]}), ("sagemaker", {"checkpoints": "/tmp"}), ("vertex", {"project": "a/b"}),
        ("vertex", {"region": "x\ny"}), ("vertex", {"endpoint": "http://elsewhere.example.org"}),
        ("vertex", {"accelerator": "L4; x"}), ("azureml", {"environment": "luthier"}),
        ("azureml", {"workspace": "a/b"}), ("azureml", {"subscription": "mine"}), ("azureml", {"python": "a b"}),
        ("azureml", {"env": {"A": "${{ x }}"}}), ("vertex", {"env": {"A B": "x"}}), ("vertex", {"env": {"A": "$(x)"}}),
    ],
)  # fmt: skip
def test_a_setting_that_is_no_word_is_refused(kind_of: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected"):
        make(kind_of, **settings)


def test_a_store_that_the_cloud_does_not_reach_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no machine of a cloud can reach the store"):
        make(kind).check_reach(tmp_path, Store(tmp_path / ".luthier"))
    if kind == "sagemaker":
        with pytest.raises(InputError, match="SageMaker writes to S3 alone"):
            make(kind).check_reach(tmp_path, open_store("memory://elsewhere"))
        with pytest.raises(InputError, match="belong together"):
            make(kind, subnets=["subnet-0a"]).check_reach(tmp_path, _S3Store(tmp_path))


class _S3Store(Store):
    @property
    def location(self) -> str:
        """A place on S3."""
        return "s3://stores/x"


def test_passwords_are_refused_and_no_error_holds_a_token(
    cloud: tuple[CloudApis, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = cloud
    with pytest.raises(InputError, match="address with a password") as error:
        connected(kind, url).submit(job("s3://me:pass-word@stores/x/tasks/0/task.json"))
    assert "pass-word" not in str(error.value)
    monkeypatch.setattr(scheduler_api, "_PATIENCE_S", 0.0)
    for name in ("AWS_ENDPOINT_URL_SAGEMAKER", "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(SystemResourceError, match="cannot be reached") as lost:
        connected(kind, "http://127.0.0.1:9").find(NAME)
    assert "token-of-the-cloud" not in str(lost.value)


def test_a_machine_is_known_by_its_gpus() -> None:
    assert VertexExecutor.model_validate(SETTINGS["vertex"] | FULL["vertex"]).find_machine() == ("l4", 6)
    assert SageMakerExecutor.model_validate(SETTINGS["sagemaker"]).find_machine() is None
    known = AzureMLExecutor.model_validate(SETTINGS["azureml"] | {"machine": "t4", "processes_per_node": 2})
    assert known.find_machine() == ("t4", 2)
