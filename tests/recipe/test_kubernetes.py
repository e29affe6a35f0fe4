"""Jobs of Kubernetes: what is sent, who may read it, what a lost node or a full memory does, and what never becomes
structure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from kubernetes_api import KubernetesApi, kubernetes_api, why_no_kubernetes
from luthier.commands.executor_health import run_executor_checks
from luthier.core.errors import InputError, MissingExtra, SystemResourceError
from luthier.core.store import Store
from luthier.core.system import packages
from luthier.recipe.batch import BatchJob, get_job_name
from luthier.recipe.executors.kubernetes import KubernetesExecutor
from luthier.recipe.workspace import Workspace
from tests.test_every_executor import Site, kubernetes_settings

needs_client = pytest.mark.skipif(bool(why_no_kubernetes()), reason=why_no_kubernetes())
NASTY = "x$(PATH)'\"`id`;\n- a: b\n$$ {{ é"
FULL = {
    "image": "registry.example.org/team/luthier@sha256:0f",
    "namespace": "tuning",
    "service_account": "tuner",
    "claim": "data",
    "mount": "/data",
    "cpus": 2.5,
    "memory": "8Gi",
    "gpus": 2,
    "node_selector": {"cloud.example.org/gpu": "h100"},
    "env": {"MODE": "a b"},
    "secrets": ["keys"],
    "hours": 1.5,
}


TWICE = {**FULL, "nodes": 2, "processes_per_node": 2, "secrets": []}


def test_a_job_is_what_kubernetes_takes() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for settings in (FULL, {"image": "luthier:1"}):
        manifest = KubernetesExecutor.model_validate(settings).manifest("luthier-0123456789abcdef")
        validator.validate(json.loads(json.dumps(manifest)), "1.31", strict=True)


@pytest.mark.parametrize("job", ["trainjob", "rayjob"])
@pytest.mark.parametrize("settings", [TWICE, {"image": "luthier:1"}])
def test_a_job_of_a_controller_is_one_that_its_published_schema_takes(job: str, settings: dict[str, Any]) -> None:
    """By the definition that the controller installs, where `LUTHIER_CRDS` names a folder that holds it."""
    folder = os.environ.get("LUTHIER_CRDS")
    if folder is None:
        pytest.skip("LUTHIER_CRDS names no folder with trainjobs.yaml and rayjobs.yaml")
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    manifest = KubernetesExecutor.model_validate({**settings, "job": job}).manifest("luthier-0123456789abcdef")
    version = manifest["apiVersion"].partition("/")[2]
    versions = yaml.load((Path(folder) / f"{job}s.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = [entry["schema"]["openAPIV3Schema"] for entry in versions["spec"]["versions"]
                 if entry["name"] == version]  # fmt: skip
    errors = [f"{error.json_path}: {error.message[:200]}" for error in validator(close(schema)).iter_errors(manifest)]
    assert errors == []


def close(schema: Any) -> Any:
    """A schema of Kubernetes that takes no field it does not know."""
    if isinstance(schema, list):
        return [close(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: close(value) for name, value in schema.items()}
    if found.pop("x-kubernetes-int-or-string", False) is True:
        return {"type": ["integer", "string"]}
    if isinstance(found.get("properties"), dict) and schema.get("type") == "object" and found["properties"]:
        free = "additionalProperties" in found or found.get("x-kubernetes-preserve-unknown-fields")
        found |= {} if free else {"additionalProperties": False}
    return found


@pytest.mark.parametrize("settings", [TWICE, {"image": "luthier:1"}])
def test_a_train_job_is_one_that_kubeflow_reads(settings: dict[str, Any]) -> None:
    """By its own models, where `LUTHIER_KUBEFLOW_PYTHON` names a Python that has `kubeflow-trainer-api`."""
    python = os.environ.get("LUTHIER_KUBEFLOW_PYTHON")
    if python is None:
        pytest.skip("LUTHIER_KUBEFLOW_PYTHON names no Python with kubeflow-trainer-api")
    manifest = KubernetesExecutor.model_validate({**settings, "job": "trainjob"}).manifest("luthier-0")
    read = "import json, sys; from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob as T; "
    read += "print(json.dumps(T.from_json(sys.stdin.read()).to_dict()))"
    words = [python, "-c", read]
    done = subprocess.run(words, input=json.dumps(manifest), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == manifest


def test_a_ray_job_of_several_nodes_has_them_as_workers() -> None:
    spec = KubernetesExecutor.model_validate({**TWICE, "job": "rayjob"}).manifest("luthier-0")["spec"]
    line = "exec python -P -m luthier.recipe.ray_nodes --nodes=2 --processes=2 --cpus=2.5 --gpus=2 "
    assert spec["entrypoint"] == line + "/etc/luthier/task.json"
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == 1
    assert workers["template"] == spec["rayClusterSpec"]["headGroupSpec"]["template"]
    assert spec["backoffLimit"] == 0
    alone = KubernetesExecutor(image="luthier:1", job="rayjob").manifest("luthier-0")["spec"]
    line = "exec env -u OMP_NUM_THREADS python -P -m luthier make /etc/luthier/task.json"
    assert alone["entrypoint"] == line
    assert "workerGroupSpecs" not in alone["rayClusterSpec"]


def test_a_pod_is_not_root_and_writes_nowhere_but_on_its_claim() -> None:
    manifest = KubernetesExecutor.model_validate(FULL).manifest("luthier-0")
    spec = manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    places = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert places == {"/etc/luthier": "task", "/tmp": "tmp", "/data": "data"}
    assert container["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"] == {"cpu": "2500m", "memory": "8Gi"}
    assert manifest["spec"]["activeDeadlineSeconds"] == 5400
    plain = KubernetesExecutor(image="luthier:1").manifest("luthier-0")["spec"]["template"]["spec"]
    assert plain["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    "settings",
    [
        {"image": NASTY},
        {"image": "-rm"},
        {"image": ""},
        {"namespace": NASTY},
        {"claim": "../etc"},
        {"service_account": "a b"},
        {"memory": "8Gi\n- x"},
        {"node_selector": {NASTY: "a"}},
        {"node_selector": {"a": NASTY}},
        {"env": {"A B": "x"}},
        {"secrets": [NASTY]},
        {"user": 0},
        {"job": "pod"},
        {"runtime": "mine"},
        {"job": "trainjob", "secrets": ["keys"]},
        {"job": "trainjob", "retries": 1},
        {"job": "trainjob", "runtime": NASTY},
        {"job": "rayjob", "keep_hours": 1},
        {"job": "rayjob", "python": "/opt/$(HOME)/python"},
    ],
)
def test_a_setting_that_is_no_word_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KubernetesExecutor.model_validate({"image": "luthier:1", **settings})


def test_dollars_of_ours_are_no_variables_of_kubernetes() -> None:
    executor = KubernetesExecutor(image="luthier:1", env={"TEXT": NASTY}, python="/opt/$(HOME)/python")
    (container,) = executor.manifest("luthier-0")["spec"]["template"]["spec"]["containers"]
    assert container["command"][0] == "/opt/$$(HOME)/python"
    from kubernetes_api import expand

    sent = {one["name"]: one["value"] for one in container["env"]}["TEXT"]
    assert expand(sent, {"PATH": "stolen", "HOME": "stolen"}) == NASTY


def test_places_that_no_pod_reaches_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: object())
    store = Store(tmp_path / "recipe" / ".luthier")
    for settings, said in {
        "none": ({}, "no pod can reach the store"),
        "half": ({"claim": "data"}, "belong together"),
        "other": ({"claim": "data", "mount": "/elsewhere"}, "does not lie on the claim data"),
    }.values():
        with pytest.raises(InputError, match=said):
            KubernetesExecutor.model_validate({"image": "luthier:1", **settings}).check_reach(
                tmp_path / "recipe", store
            )
    KubernetesExecutor(image="luthier:1", claim="data", mount=tmp_path).check_reach(tmp_path / "recipe", store)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="kubernetes, which is not installed") as error:
        KubernetesExecutor(image="luthier:1").check_reach(tmp_path, store)
    assert error.value.hint == "pip install 'luthier[kubernetes]'"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """An API server that this process is configured for."""
    with kubernetes_api(tmp_path / "cluster") as (api, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield api


def executor_that_runs(*words: str, **more: Any) -> KubernetesExecutor:
    """An executor whose `python` is a script; what it says is the pod's output."""
    return KubernetesExecutor(image="luthier:1", python=words[0], poll_s=0.1, **more)


def script(path: Path, text: str) -> str:
    """A program."""
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return str(path)


def wait_until(what: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@needs_client
def test_a_task_arrives_as_it_was_sent_and_stands_in_its_secret_alone(cluster: KubernetesApi, tmp_path: Path) -> None:
    executor = executor_that_runs(script(tmp_path / "show", 'cat "${@: -1}"'), env={"X": NASTY})
    task = json.dumps({"text": NASTY, "database": "postgresql://me:pass-word@db/x"})
    executor.submit(BatchJob("luthier-a", task, tmp_path / "output"))
    wait_until(lambda: executor.find("luthier-a").state == "ended")  # type: ignore[union-attr]
    assert executor.find("luthier-a") == ("ended", "Complete")
    assert executor.read_output("luthier-a") == task
    assert "pass-word" not in json.dumps(cluster.jobs_made)
    executor.cancel_job("luthier-a")
    wait_until(lambda: not cluster.kept)  # the Secret went with its Job


@needs_client
def test_two_submissions_make_one_job_and_an_ended_one_is_made_anew(cluster: KubernetesApi, tmp_path: Path) -> None:
    executor = executor_that_runs(script(tmp_path / "slow", "sleep 1"))
    job = BatchJob("luthier-a", "{}", tmp_path / "output")
    executor.submit(job)
    executor.submit(job)
    assert len(cluster.jobs_made) == 1
    wait_until(lambda: executor.find("luthier-a").state == "ended")  # type: ignore[union-attr]
    executor.submit(job)
    assert len(cluster.jobs_made) == 2


@needs_client
@pytest.mark.parametrize("job", ["trainjob", "rayjob"])
def test_a_job_of_a_controller_runs_the_task_and_says_how_it_is(
    cluster: KubernetesApi, tmp_path: Path, job: str
) -> None:
    slow = script(
        tmp_path / "slow", f'cat "${{@: -1}}"; echo "$*" >&2; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done'
    )
    executor = executor_that_runs(slow, job=job)
    batch_job = BatchJob("luthier-a", '{"a": "pass-word"}', tmp_path / "output")
    executor.submit(batch_job)
    executor.submit(batch_job)
    assert [made["kind"] for made in cluster.jobs_made] == [executor._resource.kind]
    assert "pass-word" not in json.dumps(cluster.jobs_made)
    wait_until(lambda: executor.find("luthier-a") == ("running", ""))
    (tmp_path / "go").touch()
    wait_until(lambda: executor.find("luthier-a").state == "ended")  # type: ignore[union-attr]
    assert executor.find("luthier-a") == ("ended", {"trainjob": "Complete", "rayjob": "SUCCEEDED"}[job])
    assert executor.read_output("luthier-a").startswith('{"a": "pass-word"}-P -m luthier make ')
    executor.submit(batch_job)
    assert len(cluster.jobs_made) == 2
    executor.cancel_job("luthier-a")
    wait_until(lambda: not cluster.kept)
    assert executor.find("luthier-a") is None
    lost = executor_that_runs(script(tmp_path / "die", "kill -9 $$"), job=job)
    lost.submit(batch_job)
    wait_until(lambda: lost.find("luthier-a").state == "ended")  # type: ignore[union-attr]
    assert lost.find("luthier-a").reason.startswith({"trainjob": "Failed", "rayjob": "FAILED"}[job])  # type: ignore[union-attr]


@needs_client
def test_the_pods_of_a_train_job_are_one_group(cluster: KubernetesApi, tmp_path: Path) -> None:
    show = script(tmp_path / "show", 'echo "$PET_NODE_RANK of $PET_NNODES: $*"')
    executor = executor_that_runs(show, job="trainjob", nodes=2, processes_per_node=3)
    executor.submit(BatchJob("luthier-a", "{}", tmp_path / "output"))
    wait_until(lambda: executor.find("luthier-a").state == "ended")  # type: ignore[union-attr]
    said = sorted(path.read_text().partition(" /")[0] for path in cluster.folder.glob("*.log"))
    words = "-P -m luthier make --processes 3"
    assert said == [f"0 of 2: {words}", f"1 of 2: {words}"]


@pytest.mark.matrix("trainjob")
@needs_client
@pytest.mark.parametrize("job", ["trainjob", "rayjob"])
def test_a_step_is_made_by_a_job_of_a_controller(tmp_path: Path, job: str) -> None:
    site = Site(tmp_path)
    folder = site.recipe("well", "well")
    with kubernetes_api(tmp_path / "cluster") as (api, environment):
        site.environment |= environment
        process = site.start(folder, "run", "--on", kubernetes_settings(site, job=job), "--json")
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    (made,) = api.jobs_made
    assert made["metadata"]["name"] == get_job_name(
        Workspace(folder).open_store(), json.loads(out)["steps"]["toy"]["artifact"]
    )


@pytest.mark.matrix("indexed")
@needs_client
@pytest.mark.parametrize("job", ["indexed", "trainjob", "rayjob"])
def test_the_doctor_runs_a_job_and_leaves_none(tmp_path: Path, job: str) -> None:
    site = Site(tmp_path)
    folder = site.recipe("well", "well")
    with kubernetes_api(tmp_path / "cluster") as (api, environment):
        site.environment |= environment
        words = ("doctor", "--on", kubernetes_settings(site, job=job), "--job", "--json")
        process = site.start(folder, *words)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, out + err
        wait_until(lambda: not api.kept)
    checks = {check["what"]: check for check in json.loads(out)["findings"]}
    assert checks["job"]["came"].startswith("luthier started in luthier:1, and reported after")
    assert {checks[what]["state"] for what in ("job", "code", "store of the job")} == {"good"}
    assert len(api.jobs_made) == 1
    assert list((folder / ".luthier" / "tasks").iterdir()) == []


@needs_client
def test_the_doctor_says_why_a_job_found_nothing(cluster: KubernetesApi, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"claim": "data", "mount": tmp_path, "poll_s": 0.1, "grace_s": 0.5}
    none = KubernetesExecutor(image="luthier:none", **settings)
    old = KubernetesExecutor(image="luthier:1", python=script(tmp_path / "old", "echo no luthier; exit 2"), **settings)
    for executor, said in ((none, "is pending (ImagePullBackOff: not found) and was removed"), (old, "no luthier")):
        check = run_executor_checks(Workspace(tmp_path), executor, with_job=True)[-1]
        assert (check.what, check.state) == ("job", "missing")
        assert said in check.came
        wait_until(lambda: not cluster.kept)


@needs_client
def test_a_lost_node_does_not_count_and_a_killed_pod_does(cluster: KubernetesApi, tmp_path: Path) -> None:
    count = f"echo x >> {tmp_path}/count; [ $(wc -l < {tmp_path}/count) -ge 3 ] || sleep 60"
    executor = executor_that_runs(script(tmp_path / "slow", count), retries=0)
    executor.submit(BatchJob("luthier-a", "{}", tmp_path / "output"))
    for number in (1, 2):
        wait_until(lambda number=number: (tmp_path / "count").exists()  # type: ignore[misc]
                   and len((tmp_path / "count").read_text().split()) == number)  # fmt: skip
        cluster.disrupt("luthier-a")
    wait_until(lambda: executor.find("luthier-a").state == "ended")  # type: ignore[union-attr]
    assert executor.find("luthier-a") == ("ended", "Complete")
    killed = executor_that_runs(script(tmp_path / "die", "echo out of memory; kill -9 $$"), retries=1)
    killed.submit(BatchJob("luthier-b", "{}", tmp_path / "output"))
    wait_until(lambda: killed.find("luthier-b").state == "ended")  # type: ignore[union-attr]
    assert killed.find("luthier-b") == (
        "ended", "Failed: BackoffLimitExceeded: Job has reached the specified backoff limit"
    )  # fmt: skip
    assert killed.read_output("luthier-b") == "out of memory\n"
    assert len(cluster.pods_of(("default", "jobs", "luthier-b"))) == 2


@needs_client
def test_an_error_of_the_user_is_not_tried_again(cluster: KubernetesApi, tmp_path: Path) -> None:
    executor = executor_that_runs(script(tmp_path / "refuse", "exit 2"))
    executor.submit(BatchJob("luthier-a", "{}", tmp_path / "output"))
    wait_until(lambda: executor.find("luthier-a").state == "ended")  # type: ignore[union-attr]
    assert executor.find("luthier-a").reason.startswith("Failed: PodFailurePolicy")  # type: ignore[union-attr]
    assert len(cluster.pods_of(("default", "jobs", "luthier-a"))) == 1


@needs_client
def test_why_a_pod_waits_is_said(cluster: KubernetesApi, tmp_path: Path) -> None:
    executor = KubernetesExecutor(image="luthier:none")
    executor.submit(BatchJob("luthier-a", "{}", tmp_path / "output"))
    wait_until(lambda: executor.find("luthier-a") == ("pending", "ImagePullBackOff: not found"))
    assert executor.read_output("luthier-a") == ""
    assert executor.find("luthier-b") is None


@needs_client
def test_a_refusal_is_one_error_and_leaves_nothing(cluster: KubernetesApi, tmp_path: Path) -> None:
    executor = KubernetesExecutor(image="luthier:1")
    cluster.refuses = "jobs"
    with pytest.raises(SystemResourceError, match="cannot create resource") as error:
        executor.submit(BatchJob("luthier-a", '{"a": "pass-word"}', tmp_path / "output"))
    assert "pass-word" not in str(error.value)
    assert not cluster.kept
    with pytest.raises(InputError, match="larger than"):
        executor.submit(BatchJob("luthier-a", "x" * 1_000_001, tmp_path / "output"))


@needs_client
def test_no_cluster_and_a_silent_one_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InputError, match="no cluster is configured"):
        KubernetesExecutor(image="luthier:1").find("luthier-a")
    with kubernetes_api(tmp_path / "cluster") as (_, environment):
        pass
    monkeypatch.setenv("KUBECONFIG", environment["KUBECONFIG"])
    with pytest.raises(SystemResourceError, match="cannot be reached"):
        KubernetesExecutor(image="luthier:1").find("luthier-a")


@needs_client
def test_a_killed_run_finds_its_job_again_and_a_stopped_one_ends_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    folder = site.recipe("killed", "sleep")
    with kubernetes_api(tmp_path / "cluster") as (api, environment):
        site.environment |= environment
        asked = kubernetes_settings(site)
        first = site.start(folder, "run", "--on", asked)
        wait_until(lambda: list((folder / ".luthier").rglob("pid")), 120)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        with (tmp_path / "said").open("wb") as file:
            words = [sys.executable, "-m", "luthier", "run", "--on", asked]
            second = subprocess.Popen(words, cwd=folder, env=site.environment, stdout=file, stderr=file)
        wait_until(lambda: "of an earlier run is running" in (tmp_path / "said").read_text(), 120)
        assert len(api.jobs_made) == 1
        second.send_signal(signal.SIGINT)
        assert second.wait(60) == 130
        wait_until(lambda: not any(kind == "jobs" for _, kind, _ in api.kept))
        third = site.start(folder, "run", "--on", asked, "--json")  # it goes on, which makes it end at once
        out, err = third.communicate(timeout=200)
        assert third.returncode == 0, err
        step = json.loads(out)["steps"]["toy"]
        assert json.loads((Path(step["path"]) / "timing.json").read_text())["measures"] == {"went_on": True}
        store = Workspace(folder).open_store()
        assert {job["metadata"]["name"] for job in api.jobs_made} == {get_job_name(store, step["artifact"])}
