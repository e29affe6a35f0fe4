"""Steps made by jobs of a Ray cluster, by the REST API of Ray Jobs: this machine needs no Ray.

What is submitted is the place of the task in the store, never the task. A job's entrypoint is a line of shell, whose
words are quoted. Ray takes no name twice, so that the jobs of a step are numbered: `NAME-1`, `NAME-2`.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.core.errors import InputError
from luthier.core.store import Store
from luthier.data.engine.ray_workers import RAY_WORKERS_VARIABLE
from luthier.recipe.batch import BatchExecutor, BatchJob, JobStatus, refuse_passwords
from luthier.recipe.scheduler_api import WHERE, SchedulerApi

_STATES: dict[str, Literal["pending", "running"]] = {"PENDING": "pending", "RUNNING": "running"}
"""Ray's states of running and waiting jobs; all others have ended."""
_STOP_S = 120
"""Seconds that a job has to write a checkpoint after a stop signal."""
_OUTPUT_LINES = 20
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LOCAL = "http://127.0.0.1:8265"


class RayExecutor(BatchExecutor):
    """In jobs of a Ray cluster: each step is one job, which begins when the cluster has its processors and GPUs free.

    The store and the recipe's folder must lie on a file system that the nodes share, or the store behind a URL that
    they reach. The cluster needs `ray[default]`, this machine nothing. A lost node ends its job; running again goes on.
    """

    kind: Literal["ray"] = "ray"
    sends_task: ClassVar[bool] = True

    address: str | None = None
    """The address of the cluster's dashboard, as `http://head:8265`; `RAY_API_SERVER_ADDRESS` when not given, else this
    machine. `RAY_AUTH_TOKEN` holds the token of a cluster that wants one."""
    cpus: float | None = Field(default=None, gt=0)
    """Processors of a job, of each node if there are several; Ray's default when not given."""
    gpus: float | None = Field(default=None, gt=0)
    """GPUs of a job, of each node if there are several; none when not given."""
    memory: str | None = None
    """Memory of a job, such as `8G`; Ray does not look at it when not given."""
    workers: int | None = Field(default=None, ge=1)
    """Workers of the cluster, one processor each, that a step `prepare` takes rows through its operators by; the job
    alone does when not given. The Python that Ray was started by then needs Luthier and Ray."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Resources of your own that the job's node must have, such as `{spot: 1}`."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the job; Ray shows them to all, so that keys belong to the nodes."""
    python: str = "python"
    """The Python on the nodes in which Luthier is installed."""

    @field_validator("address")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./-]*)?", value):
            raise ValueError(f"expected an address such as http://head:8265, got {value!r}")
        return value

    @field_validator("memory")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)?[KMGT]", value):
            raise ValueError(f"expected a size such as 8G, got {value!r}")
        return value

    @field_validator("env", "resources")
    @classmethod
    def _variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"expected a name of letters, digits and _, got {name!r}")
        return value

    def check_reach(self, folder: Path, store: Store) -> None:
        """`InputError` for settings that exclude each other: Ray cannot hold memory free on several nodes."""
        if self.is_group and self.workers is not None:
            raise InputError("`workers` are for jobs of one process", where=WHERE, hint="leave out `nodes`")
        if self.nodes > 1 and self.memory is not None:
            hint = "leave `memory` out, or name a resource of your own in `resources`"
            raise InputError("`memory` is for jobs of one node", where=WHERE, hint=hint)

    def count_devices(self) -> int:
        """GPUs of one node."""
        return max(1, int(self.gpus)) if self.gpus else self.processes_per_node

    def submit(self, job: BatchJob) -> None:
        """Hand the job to the cluster; of two runs that submit it at once, one makes it."""
        api, order = self._connect(), self.order(job)
        refuse_passwords(str(order), "Ray")
        number, found = api.find_newest(lambda at: _path_of(job.name, at))
        if found is not None and str(found.get("status")) in _STATES:
            return
        order["submission_id"] = f"{job.name}-{number + 1}"
        status = api.change("POST", "api/jobs/", order, unless=(400, 500))
        if status >= 400 and api.read(_path_of(job.name, number + 1)) is None:  # else another run was first
            api.change("POST", "api/jobs/", order)

    def order(self, job: BatchJob) -> dict[str, Any]:
        """Return the submitted job."""
        resources: dict[str, Any] = {"entrypoint_num_cpus": self.cpus, "entrypoint_num_gpus": self.gpus}
        memory = None if self.memory is None else round(float(self.memory[:-1]) * _SIZES[self.memory[-1]])
        resources |= {"entrypoint_memory": memory, "entrypoint_resources": self.resources or None}
        command = [self.python, "-P", "-m", "luthier", "make", job.location]
        if self.nodes > 1:
            counts = {"nodes": self.nodes, "processes": self.processes_per_node, "cpus": self.cpus, "gpus": self.gpus}
            options = [f"--{name}={value:g}" for name, value in counts.items() if value is not None]
            options += [f"--resource={name}={amount:g}" for name, amount in self.resources.items()]
            command = [self.python, "-P", "-m", "luthier.recipe.ray_nodes", *options, job.location]
            resources = {"entrypoint_num_cpus": 0}  # the driver only waits
        elif self.processes_per_node > 1:
            command += ["--processes", str(self.processes_per_node)]
        workers = {} if self.workers is None else {RAY_WORKERS_VARIABLE: str(self.workers)}
        if self.cpus is None and "OMP_NUM_THREADS" not in self.env:
            command = ["env", "-u", "OMP_NUM_THREADS", *command]  # Ray sets 1 for a job that asks for no processors
        return {
            "entrypoint": f"exec {shlex.join(command)}",
            "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S), **workers, **self.env}},
            "metadata": {"name": job.name},
            **{name: value for name, value in resources.items() if value is not None},
        }

    def find(self, name: str) -> JobStatus | None:
        """Return the cluster's status of the newest job of the name."""
        _, found = self._connect().find_newest(lambda at: _path_of(name, at))
        if found is None:
            return None
        state, message = str(found.get("status")), str(found.get("message") or "").partition(", last available logs")[0]
        if state == "PENDING":
            return JobStatus("pending", message)
        return JobStatus(_STATES.get(state, "ended"), f"{state}: {message}" if message else state)

    def cancel_job(self, name: str) -> None:
        """Tell the job to stop; it is killed when it has not stopped after two minutes."""
        api = self._connect()
        number, found = api.find_newest(lambda at: _path_of(name, at))
        if found is not None and str(found.get("status")) in _STATES:
            api.change("POST", f"{_path_of(name, number)}/stop", unless=(404,))

    def read_output(self, name: str) -> str:
        """The end of the newest job's log."""
        api = self._connect()
        number, _ = api.find_newest(lambda at: _path_of(name, at))
        logs = (api.read(f"{_path_of(name, number)}/logs") or {}).get("logs", "") if number else ""
        return "\n".join(str(logs).splitlines()[-_OUTPUT_LINES:])

    def _connect(self) -> SchedulerApi:
        url = self.address or os.environ.get("RAY_API_SERVER_ADDRESS") or _LOCAL
        return SchedulerApi("Ray", url, _read_headers)


def _path_of(name: str, number: int) -> str:
    return f"api/jobs/{name}-{number}"


def _read_headers() -> dict[str, str]:
    token = os.environ.get("RAY_AUTH_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
