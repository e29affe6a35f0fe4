"""Steps made by jobs of Kubernetes: Jobs, TrainJobs or RayJobs, by the official Python client.

The task travels in a Secret of the Job's name, mounted as a file: a recipe holds no passwords, but the address of a
database may. The Secret belongs to the Job and goes with it. No shell runs in the pod. Kubernetes replaces `$(NAME)` in
commands and variables, so every `$` of ours is doubled.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.core.errors import InputError, SourceLocation, SystemResourceError
from luthier.core.files import cache_folder
from luthier.core.remote_store import is_remote
from luthier.core.store import Store
from luthier.core.system.packages import require
from luthier.recipe.batch import BatchExecutor, BatchJob, JobStatus
from luthier.recipe.kubernetes_jobs import (
    RESOURCES,
    JobKind,
    JobResource,
    build_ray_job,
    build_train_job,
    find_job_end,
    is_job_running,
)

_SECONDS = 60.0
"""Timeout of an API request."""
_DELETION_S = 300.0
"""Maximum seconds to delete an ended Job of the same name."""
_STOP_S = 120
"""Seconds that a pod has to write a checkpoint after a stop signal."""
_TASK_BYTES = 1_000_000
"""The largest task: a Secret holds 1 MiB."""
_OUTPUT_LINES = 20
_FINAL_CODES = [1, 2, 3, 4, 130]
"""Exit codes of Luthier after which nothing is tried again: the same would come of it."""
_CONTAINER, _TASK_FOLDER, _TASK_FILE = "luthier", "/etc/luthier", "task.json"
_WHERE = SourceLocation(field="on")
_UNKNOWN: dict[JobKind, dict[str, str]] = {
    "indexed": {"runtime": "only a TrainJob has a training runtime"},
    "trainjob": {
        "secrets": "a TrainJob takes none; name them by `envFrom` in a training runtime of your own (`runtime`)",
        "retries": "the training runtime says how often a pod is tried again",
        "keep_hours": "Kubernetes keeps a TrainJob until it is deleted",
    },
    "rayjob": {
        "runtime": "only a TrainJob has a training runtime",
        "retries": "KubeRay would try again what the recipe's own error ended, too",
        "keep_hours": "Kubernetes keeps a RayJob until it is deleted",
    },
}
"""Settings that a kind of job cannot keep, and why."""


class KubernetesExecutor(BatchExecutor):
    """In Jobs of a Kubernetes cluster: each step is one Job, whose pod is made anew when its node is lost or drained.
    With `job`, it is a TrainJob of Kubeflow Trainer or a RayJob of KubeRay, which the cluster then needs.

    Store and recipe lie on a claim (`claim`, `mount`) that this machine has at the same path, or the store is behind a
    URL. The image holds the same Luthier and plugins as this machine. Needs `luthier[kubernetes]`.
    """

    kind: Literal["kubernetes"] = "kubernetes"

    job: JobKind = "indexed"
    """What a step is submitted as: an Indexed Job of Kubernetes itself, a TrainJob (Kubeflow Trainer v2), or a RayJob
    (KubeRay), whose image needs Ray, too."""
    runtime: str = "torch-distributed"
    """The ClusterTrainingRuntime of a TrainJob; its job and its container are called `node`, its policy is `torch`."""
    image: str = Field(min_length=1)
    """The container image in which Luthier is installed, such as `registry.example.org/luthier:1.0`."""
    context: str | None = None
    """The context of the kubeconfig file; its current one when not given, or the cluster that this process runs in."""
    namespace: str = "default"
    """The namespace of Jobs and Secrets."""
    service_account: str | None = None
    """The account that pods run as; without one they get no token of the cluster."""
    claim: str | None = None
    """The PersistentVolumeClaim with the store and the recipe's folder; it must be writable from several nodes."""
    mount: Path | None = None
    """The absolute path of the claim, in pods and on this machine."""
    cpus: float | None = Field(default=None, gt=0)
    """Processors that a pod asks for."""
    memory: str | None = None
    """Memory that a pod asks for and may use at most, such as `8Gi`."""
    gpus: int | None = Field(default=None, ge=1)
    """GPUs of a pod (`nvidia.com/gpu`); none when not given."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that the pod's node must have."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the pod; passwords belong into `secrets`."""
    secrets: tuple[str, ...] = ()
    """Names of Secrets of the namespace whose entries become environment variables, such as keys of the store."""
    user: int = Field(default=1000, ge=1)
    """The number of the user and group that the pod runs as; never root."""
    retries: int = Field(default=3, ge=0)
    """How often a pod that is killed, by want of memory for instance, is tried again; lost nodes do not count."""
    hours: float | None = Field(default=None, gt=0)
    """Hours after which a Job ends; it is told two minutes before it is killed."""
    keep_hours: float = Field(default=24.0, gt=0)
    """Hours for which Kubernetes keeps an ended Job and its output."""
    python: str = "python"
    """The Python in the image."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, why in _UNKNOWN[self.job].items():
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` is not for `job: {self.job}`: {why}")
        if self.job == "rayjob" and not re.fullmatch(r"[\w./-]+", self.python):
            raise ValueError(f"`python` of a RayJob is a path of letters, digits, `.`, `/`, `-`; got {self.python!r}")
        return self

    @field_validator("namespace", "service_account", "claim", "runtime")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return None if value is None else _check(value, r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "a name of Kubernetes")

    @field_validator("secrets")
    @classmethod
    def _names(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_check(value, r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", "the name of a Secret") for value in values)

    @field_validator("image")
    @classmethod
    def _image(cls, value: str) -> str:
        return _check(value, r"[A-Za-z0-9][\w./:@-]*", "the name of an image")

    @field_validator("memory")
    @classmethod
    def _quantity(cls, value: str | None) -> str | None:
        return None if value is None else _check(value, r"[0-9.]+([KMGTPE]i?|[km])?", "a quantity such as 8Gi")

    @field_validator("node_selector")
    @classmethod
    def _labels(cls, value: dict[str, str]) -> dict[str, str]:
        for name, label in value.items():
            _check(name, r"[A-Za-z0-9]([\w./-]*[A-Za-z0-9])?", "the name of a label")
            _check(label, r"([A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)?", "the value of a label")
        return value

    @field_validator("env")
    @classmethod
    def _variables(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            _check(name, r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable")
        return value

    def check_reach(self, folder: Path, store: Store) -> None:
        """`MissingExtra` without the client; `InputError` where pods cannot reach the store or the recipe."""
        require("kubernetes", "kubernetes", "the executor `kubernetes`", where=_WHERE)
        if (self.claim is None) != (self.mount is None):
            raise InputError("`claim` and `mount` belong together", where=_WHERE, hint="give both, or neither")
        if self.mount is None or self.claim is None:
            if not is_remote(store.location):
                hint = f"give `claim` and `mount`, or a store behind a URL (LUTHIER_STORE=s3://bucket/{folder.name})"
                raise InputError(f"no pod can reach the store {store.location}", where=_WHERE, hint=hint)
            return
        needed = [folder] if is_remote(store.location) else [folder, store.root.absolute()]
        for path in needed:
            if not path.is_relative_to(self.mount):
                hint = f"put recipe and store below {self.mount}, which is the claim {self.claim} here, too"
                raise InputError(f"{path} does not lie on the claim {self.claim}", where=_WHERE, hint=hint)

    def count_devices(self) -> int:
        """GPUs of one pod."""
        return self.gpus or self.processes_per_node

    def reaches(self, path: Path) -> bool:
        """Pods can read what is on the claim."""
        return self.mount is not None and path.is_relative_to(self.mount)

    def submit(self, job: BatchJob) -> None:
        """Create the Secret, then the Job; a Job that another run created meanwhile is left unchanged."""
        if len(job.task.encode()) > _TASK_BYTES:
            hint = "put long texts of the recipe into files"
            raise InputError(f"the task is larger than {_TASK_BYTES:,} bytes", where=_WHERE, hint=hint)
        api = _connect(self.context)
        self._await_end(api, job.name)
        self._write_secret(api, job)
        with _translate_errors():
            uid = self._create_job(api, job.name)["metadata"]["uid"]
            resource = self._resource
            owner = {"apiVersion": resource.api_version, "kind": resource.kind, "name": job.name, "uid": uid}
            owned = {"metadata": {"ownerReferences": [owner]}}
            api.core.patch_namespaced_secret(job.name, self.namespace, owned, **_WITHIN)
            if self.nodes > 1 and self.job == "indexed":
                self._write_service(api, job.name, owner)

    @property
    def _resource(self) -> JobResource:
        return RESOURCES[self.job]

    @property
    def _at(self) -> dict[str, str]:
        return self._resource.address(self.namespace)

    def _create_job(self, api: _Api, name: str) -> Any:
        """The job: made now, by another run meanwhile, or by a request whose answer was lost."""
        try:
            return api.objects.create_namespaced_custom_object(**self._at, body=self.manifest(name), **_WITHIN)
        except api.error as error:
            if error.status != 409:
                self._remove_secret(api, name)
                raise
        except api.lost as error:
            try:
                return api.objects.get_namespaced_custom_object(**self._at, name=name, **_WITHIN)
            except (api.error, api.lost):
                raise error from None
        return api.objects.get_namespaced_custom_object(**self._at, name=name, **_WITHIN)

    def _await_end(self, api: _Api, name: str) -> None:
        """Remove an ended Job of the name, and wait until it is gone."""
        deadline = time.monotonic() + _DELETION_S
        while (job_status := self.find(name)) is not None and job_status.state == "ended":
            self.cancel_job(name)
            if time.monotonic() > deadline:
                kind = self._resource.kind.lower()
                message = f"the ended job {name} was not removed within {_DELETION_S:.0f} s"
                raise SystemResourceError(message, hint=f"kubectl --namespace {self.namespace} delete {kind} {name}")
            time.sleep(min(1.0, self.poll_s))

    def _write_secret(self, api: _Api, job: BatchJob) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": job.name, "labels": _labels()},
            "stringData": {_TASK_FILE: job.task},
        }
        with _translate_errors():
            try:
                api.core.create_namespaced_secret(self.namespace, body, **_WITHIN)
            except api.error as error:
                if error.status != 409:
                    raise
                api.core.replace_namespaced_secret(job.name, self.namespace, body, **_WITHIN)

    def _write_service(self, api: _Api, name: str, owner: dict[str, Any]) -> None:
        """Give the pods of a Job names by which they find each other."""
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": _labels(), "ownerReferences": [owner]},
            "spec": {"clusterIP": "None", "selector": {"job-name": name}, "publishNotReadyAddresses": True},
        }
        try:
            api.core.create_namespaced_service(self.namespace, body, **_WITHIN)
        except api.error as error:
            if error.status != 409:
                self.cancel_job(name)
                raise

    def _remove_secret(self, api: _Api, name: str) -> None:
        try:
            api.core.delete_namespaced_secret(name, self.namespace, **_WITHIN)
        except api.error as error:
            if error.status != 404:
                raise

    def manifest(self, name: str) -> dict[str, Any]:
        """The job of a name as Kubernetes takes it."""
        metadata = {"name": name, "labels": _labels()}
        seconds = None if self.hours is None else max(1, round(3600 * self.hours))
        counts: dict[str, Any] = {"nodes": self.nodes, "processes": self.processes_per_node, "seconds": seconds}
        if self.job == "trainjob":
            return build_train_job(metadata, self._pod(name), runtime=self.runtime, **counts)
        if self.job == "rayjob":
            return build_ray_job(metadata, self._pod(name), cpus=self.cpus, gpus=self.gpus, **counts)
        ignored = {"type": "DisruptionTarget", "status": "True"}
        codes = {"containerName": _CONTAINER, "operator": "In", "values": _FINAL_CODES}
        rules = [{"action": "Ignore", "onPodConditions": [ignored]}, {"action": "FailJob", "onExitCodes": codes}]
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {
                "backoffLimit": self.retries,
                **(
                    {"completionMode": "Indexed", "completions": self.nodes, "parallelism": self.nodes}
                    if self.nodes > 1
                    else {}
                ),
                "podFailurePolicy": {"rules": rules},
                "ttlSecondsAfterFinished": round(3600 * self.keep_hours),
                **({} if seconds is None else {"activeDeadlineSeconds": seconds}),
                "template": {"metadata": {"labels": _labels()}, "spec": self._pod(name)},
            },
        }

    def _pod(self, name: str) -> dict[str, Any]:
        volumes: list[dict[str, Any]] = [
            {"name": "task", "secret": {"secretName": name, "defaultMode": 0o440}},
            {"name": "tmp", "emptyDir": {}},
        ]
        mounts: list[dict[str, Any]] = [
            {"name": "task", "mountPath": _TASK_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # the pod's own empty folder
        ]
        if self.claim is not None:
            volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": self.claim}})
            mounts.append({"name": "data", "mountPath": str(self.mount)})
        count = ["--processes", str(self.processes_per_node)] if self.is_group else []
        container = {
            "name": _CONTAINER,
            "image": self.image,
            "command": [_double(self.python), "-P", "-m", "luthier", "make", *count, f"{_TASK_FOLDER}/{_TASK_FILE}"],
            "env": [
                *({"name": key, "value": _double(value)} for key, value in self._environment().items()),
                *(self._group_variables(name) if self.nodes > 1 and self.job == "indexed" else ()),
            ],
            "envFrom": [{"secretRef": {"name": secret}} for secret in self.secrets],
            "resources": self._resources(),
            "volumeMounts": mounts,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
        }
        return {
            "restartPolicy": "Never",
            **({"subdomain": name} if self.nodes > 1 and self.job == "indexed" else {}),
            "terminationGracePeriodSeconds": _STOP_S,
            "automountServiceAccountToken": self.service_account is not None,
            **({"serviceAccountName": self.service_account} if self.service_account else {}),
            **({"nodeSelector": dict(self.node_selector)} if self.node_selector else {}),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": self.user,
                "runAsGroup": self.user,
                "fsGroup": self.user,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": volumes,
        }

    def _group_variables(self, name: str) -> list[dict[str, Any]]:
        """The variables by which torchrun in a pod finds the others; Kubernetes numbers the pods."""
        index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
        first = {"PET_NNODES": str(self.nodes), "PET_MASTER_ADDR": f"{name}-0.{name}"}
        fixed: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in first.items()]
        return [*fixed, {"name": "PET_NODE_RANK", "valueFrom": index}]

    def _environment(self) -> dict[str, str]:
        """Return the pod's variables: home is the empty folder, the cache this machine's where it is on the claim."""
        found = {"HOME": "/tmp"}  # noqa: S108  # the pod's own empty folder
        cached = cache_folder().absolute()
        if self.mount is not None and cached.is_relative_to(self.mount):
            found["LUTHIER_CACHE"] = str(cached)
        return {**found, **self.env}

    def _resources(self) -> dict[str, Any]:
        requests = {
            **({} if self.cpus is None else {"cpu": f"{round(1000 * self.cpus)}m"}),
            **({} if self.memory is None else {"memory": self.memory}),
        }
        limits = {
            **({} if self.memory is None else {"memory": self.memory}),
            **({} if self.gpus is None else {"nvidia.com/gpu": str(self.gpus)}),
        }
        return {"requests": requests, "limits": limits}

    def find(self, name: str) -> JobStatus | None:
        """Return the status of the job; one that is being deleted has ended."""
        api = _connect(self.context)
        with _translate_errors():
            try:
                job = api.objects.get_namespaced_custom_object(**self._at, name=name, **_WITHIN)
            except api.error as error:
                if error.status == 404:
                    return None
                raise
            status = job.get("status") or {}
            if job["metadata"].get("deletionTimestamp") is not None:
                return JobStatus("ended", "deleted")
            if (end := find_job_end(status)) is not None:
                return JobStatus("ended", end)
            if is_job_running(status):
                return JobStatus("running")
            cluster = status.get("rayClusterName")  # of a RayJob, whose submitter comes after the cluster
            label = f"ray.io/cluster={cluster}" if cluster else f"{self._resource.label}={name}"
            return JobStatus("pending", _waiting_reason(self._newest_pod(api, label)))

    def _newest_pod(self, api: _Api, label: str) -> Any | None:
        pods = api.core.list_namespaced_pod(self.namespace, label_selector=label, **_WITHIN).items
        return max(pods, key=lambda pod: pod.metadata.creation_timestamp, default=None)

    def cancel_job(self, name: str) -> None:
        """Delete the job with its pods, which have two minutes to write a checkpoint; KubeRay stops the Ray job, and
        may delete its cluster before that has ended."""
        api = _connect(self.context)
        with _translate_errors():
            try:
                api.objects.delete_namespaced_custom_object(
                    **self._at, name=name, propagation_policy="Foreground", **_WITHIN
                )
            except api.error as error:
                if error.status != 404:
                    raise

    def read_output(self, name: str) -> str:
        """The last lines of the newest pod of the Job; nothing where it printed none, or is gone."""
        api = _connect(self.context)
        with _translate_errors():
            pod = self._newest_pod(api, f"{self._resource.label}={name}")
            if pod is None:
                return ""
            try:
                lines = {"tail_lines": _OUTPUT_LINES, "container": self._resource.container}
                output = api.core.read_namespaced_pod_log(pod.metadata.name, self.namespace, **lines, **_WITHIN)
            except api.error as error:
                if error.status in (400, 404):  # its container never began, or it is gone
                    return ""
                raise
            return str(output)


_WITHIN: dict[str, Any] = {"_request_timeout": _SECONDS}


class _Api:
    """The API of a cluster."""

    def __init__(self, connection: Any) -> None:
        from kubernetes import client
        from urllib3.exceptions import HTTPError

        self.lost = HTTPError
        self.objects = client.CustomObjectsApi(connection)
        self.core = client.CoreV1Api(connection)
        self.error = client.exceptions.ApiException


def _connect(context: str | None) -> _Api:
    """The cluster of a context; that which this process runs in where there is no kubeconfig file."""
    return _connect_by(
        os.environ.get("KUBECONFIG") or None, context
    )  # the client reads the variable at its import only


@cache
def _connect_by(file: str | None, context: str | None) -> _Api:
    require("kubernetes", "kubernetes", "the executor `kubernetes`", where=_WHERE)
    from kubernetes import client, config

    try:
        return _Api(config.new_client_from_config(config_file=file, context=context))
    except config.ConfigException as error:
        problem = str(error)
    settings = client.Configuration()
    try:
        if context is None:
            config.load_incluster_config(client_configuration=settings)
            return _Api(client.ApiClient(settings))
    except config.ConfigException:
        pass
    hint = "`kubectl config get-contexts` lists them; KUBECONFIG names the file"
    raise InputError(f"no cluster is configured: {problem.splitlines()[0]}", where=_WHERE, hint=hint)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """`SystemResourceError` when the API refuses or cannot be reached; what was sent is never repeated."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        try:
            message = str(json.loads(error.body)["message"])
        except (TypeError, ValueError, KeyError):
            message = f"{error.status} {error.reason}"
        hint = "see what you may do: `kubectl auth can-i --list`"
        raise SystemResourceError(f"Kubernetes refused: {message}", where=_WHERE, hint=hint) from error
    except HTTPError as error:
        message = f"the API of Kubernetes cannot be reached ({type(error).__name__})"
        hint = "try `kubectl get jobs`; jobs that run go on, and running again finds them"
        raise SystemResourceError(message, where=_WHERE, hint=hint) from None


def _waiting_reason(pod: Any | None) -> str:
    """Return why a pod does not run yet, from Kubernetes."""
    if pod is None:
        return ""
    for status in pod.status.container_statuses or []:
        waiting = status.state.waiting if status.state else None
        if waiting is not None and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return ": ".join(word for word in (waiting.reason, waiting.message) if word)
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return ": ".join(word for word in (condition.reason, condition.message) if word)
    return ""


def _labels() -> dict[str, str]:
    return {"app.kubernetes.io/name": "luthier", "app.kubernetes.io/managed-by": "luthier"}


def _double(text: str) -> str:
    """Escape a text against Kubernetes' expansion."""
    return text.replace("$", "$$")


def _check(value: str, pattern: str, what: str) -> str:
    if not re.fullmatch(pattern, value):
        raise ValueError(f"expected {what}, got {value!r}")
    return value
