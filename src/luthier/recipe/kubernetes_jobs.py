"""The kinds of jobs that a step can be on Kubernetes: an Indexed Job, a TrainJob of Kubeflow Trainer, a RayJob of
KubeRay.

All run `luthier make TASK` in the same pod. A TrainJob names a training runtime of its cluster, whose container `node`
becomes that pod; Trainer sets torchrun's variables. A RayJob brings up a Ray cluster of such pods for its own time and
runs the command on the head.
"""

from __future__ import annotations

import math
import shlex
from typing import Any, Literal, NamedTuple

JobKind = Literal["indexed", "trainjob", "rayjob"]
_RAY_STOP_S = 120
"""Seconds that Ray gives a job to write a checkpoint after a stop signal."""
_NODE = "node"
"""The replicated job and the container of a training runtime that trains."""
_MANAGER = "luthier.io/executor"


class JobResource(NamedTuple):
    """A kind of job as the API of Kubernetes names it."""

    group: str
    version: str
    kind: str
    plural: str
    label: str
    """The label by which its pods name the job."""
    container: str
    """The container whose output is that of the step."""

    def address(self, namespace: str) -> dict[str, str]:
        """The words by which the custom objects API finds the kind in a namespace."""
        return {"group": self.group, "version": self.version, "namespace": namespace, "plural": self.plural}

    @property
    def api_version(self) -> str:
        """Group and version, as in manifests."""
        return f"{self.group}/{self.version}"


RESOURCES: dict[JobKind, JobResource] = {
    "indexed": JobResource("batch", "v1", "Job", "jobs", "job-name", "luthier"),
    "trainjob": JobResource(
        "trainer.kubeflow.org", "v1alpha1", "TrainJob", "trainjobs", "jobset.sigs.k8s.io/jobset-name", _NODE
    ),
    "rayjob": JobResource("ray.io", "v1", "RayJob", "rayjobs", "job-name", "ray-job-submitter"),
}


def build_train_job(
    metadata: dict[str, Any], pod: dict[str, Any], *, runtime: str, nodes: int, processes: int, seconds: int | None
) -> dict[str, Any]:
    """Return the TrainJob of a pod with one container; what its `trainer` cannot express is a patch of the runtime's
    pod.
    """
    (container,) = pod["containers"]
    names = ("volumes", "securityContext", "serviceAccountName", "nodeSelector", "terminationGracePeriodSeconds")
    patch: dict[str, Any] = {name: pod[name] for name in names if name in pod}
    patch["containers"] = [{"name": _NODE, **{name: container[name] for name in ("volumeMounts", "securityContext")}}]
    job_patch = {"name": _NODE, "template": {"spec": {"template": {"spec": patch}}}}
    return {
        "apiVersion": RESOURCES["trainjob"].api_version,
        "kind": RESOURCES["trainjob"].kind,
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"name": runtime},
            **({} if seconds is None else {"activeDeadlineSeconds": seconds}),
            "trainer": {
                "image": container["image"],
                "command": container["command"],
                "env": container["env"],
                "numNodes": nodes,
                "numProcPerNode": processes,
                "resourcesPerNode": container["resources"],
            },
            "runtimePatches": [
                {
                    "manager": _MANAGER,
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job_patch]}}},
                }
            ],
        },
    }


def build_ray_job(
    metadata: dict[str, Any],
    pod: dict[str, Any],
    *,
    nodes: int,
    processes: int,
    cpus: float | None,
    gpus: int | None,
    seconds: int | None,
) -> dict[str, Any]:
    """The RayJob of a pod of one container, which is the head; of several nodes, the others are workers.

    The Ray cluster goes as soon as the job has ended. The submitter's pod stays: it printed what the job printed.
    """
    (container,) = pod["containers"]
    python, task = container["command"][0], container["command"][-1]
    command, amounts = container["command"], {"entrypointNumCpus": cpus, "entrypointNumGpus": gpus}
    if nodes > 1:
        counts = {"nodes": nodes, "processes": processes, "cpus": cpus, "gpus": gpus}
        options = [f"--{name}={value:g}" for name, value in counts.items() if value is not None]
        command, amounts = [python, "-P", "-m", "luthier.recipe.ray_nodes", *options, task], {}
    elif cpus is None:
        command = ["env", "-u", "OMP_NUM_THREADS", *command]  # Ray sets 1 for a job that asks for no processors
    ray_pod = {**pod, "containers": [_strip_command(container)]}
    start = {"num-cpus": str(math.ceil(cpus or 1))}
    group = {"rayStartParams": start, "template": {"metadata": {"labels": metadata["labels"]}, "spec": ray_pod}}
    head = {**group, "rayStartParams": {**start, "dashboard-host": "0.0.0.0"}}  # noqa: S104  # the pod's own network
    workers = {"groupName": "workers", "replicas": nodes - 1, "minReplicas": nodes - 1, "maxReplicas": nodes - 1}
    submitter = {"name": RESOURCES["rayjob"].container, "image": container["image"]}
    submitter |= {"env": [{"name": "HOME", "value": "/tmp"}]}  # noqa: S108  # the pod's own empty folder
    submitter |= {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}  # noqa: S108  # the same
    submitter |= {"securityContext": ray_pod["containers"][0]["securityContext"]}
    submitter_pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": pod["securityContext"],
        "containers": [submitter],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {
        "apiVersion": RESOURCES["rayjob"].api_version,
        "kind": RESOURCES["rayjob"].kind,
        "metadata": metadata,
        "spec": {
            "entrypoint": f"exec {shlex.join(command)}",
            "jobId": metadata["name"],
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 0,
            "backoffLimit": 0,
            **({} if seconds is None else {"activeDeadlineSeconds": seconds}),
            **{name: amount for name, amount in amounts.items() if amount is not None},
            "submitterPodTemplate": {"metadata": {"labels": metadata["labels"]}, "spec": submitter_pod},
            "rayClusterSpec": {
                "headGroupSpec": head,
                **({"workerGroupSpecs": [{**workers, **group}]} if nodes > 1 else {}),
            },
        },
    }


def _strip_command(container: dict[str, Any]) -> dict[str, Any]:
    """Return the container in which KubeRay starts Ray; its root is writable for Ray's files."""
    kept = {name: value for name, value in container.items() if name != "command"}
    stop = {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(_RAY_STOP_S)}
    security = {**container["securityContext"], "readOnlyRootFilesystem": False}
    return {**kept, "env": [stop, *container["env"]], "securityContext": security}


def find_job_end(status: dict[str, Any]) -> str | None:
    """Return how a job of any kind ended, by its status; None while it has not."""
    for condition in status.get("conditions") or []:
        if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
            words = (condition["type"], condition.get("reason"), condition.get("message"))
            return ": ".join(word for word in words if word)
    if status.get("jobDeploymentStatus") in ("Complete", "Failed"):
        words = (status.get("jobStatus") or status["jobDeploymentStatus"], status.get("reason"), status.get("message"))
        return ": ".join(word for word in words if word)
    return None


def is_job_running(status: dict[str, Any]) -> bool:
    """Return whether a pod of the job runs, by its status."""
    return bool(
        status.get("ready")
        or any(entry.get("ready") for entry in status.get("jobsStatus") or [])
        or status.get("jobStatus") == "RUNNING"
    )
