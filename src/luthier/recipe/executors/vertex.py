"""Steps made by custom jobs of Google's Vertex AI, by its REST API and the credentials of `google-auth`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import Field, field_validator

from luthier.core.errors import InputError, SystemResourceError
from luthier.core.store import Store
from luthier.core.system.packages import require
from luthier.recipe.batch import BatchJob, JobStatus, refuse_passwords
from luthier.recipe.cloud import CloudExecutor, check_address, check_word
from luthier.recipe.scheduler_api import WHERE, SchedulerApi

_STATES: dict[str, Literal["pending", "running"]] = {
    "JOB_STATE_QUEUED": "pending", "JOB_STATE_PENDING": "pending", "JOB_STATE_PAUSED": "pending",
    "JOB_STATE_RUNNING": "running", "JOB_STATE_CANCELLING": "running", "JOB_STATE_UPDATING": "running",
}  # fmt: skip
"""Vertex AI's states of running and waiting jobs; all others have ended."""
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class VertexExecutor(CloudExecutor):
    """In custom jobs of Google's Vertex AI: each step is one job on machines that are there for it alone.

    The store must be behind a URL that the job's account reaches, such as `gs://`. Credentials are Google's default
    ones (`gcloud auth application-default login`). Needs `luthier[google]`. What a job prints stands in Cloud Logging.
    """

    kind: Literal["vertex"] = "vertex"

    image: str = Field(min_length=1)
    """The image in the Artifact Registry in which Luthier is installed."""
    project: str
    """The project of Google Cloud."""
    region: str
    """The region, such as `europe-west4`."""
    machine_type: str
    """The type of machine, such as `g2-standard-8`."""
    accelerator: str | None = None
    """The GPU of each machine, such as `NVIDIA_L4`; none, or that of the machine's type, when not given."""
    accelerators: int = Field(default=1, ge=1)
    """How many of it each machine has."""
    disk_gb: int = Field(default=100, ge=100)
    """Disk of each machine in GB."""
    service_account: str | None = None
    """The account that the job runs as; the project's own for custom jobs when not given."""
    network: str | None = None
    """The network that the job is joined to, as `projects/123/global/networks/name`."""
    spot: bool = False
    """Whether machines may be taken away, which makes them cheaper; the job then begins again."""
    endpoint: str | None = None
    """The address of the API, such as that of a private one; the region's own when not given."""

    @field_validator("image")
    @classmethod
    def _image(cls, value: str) -> str:
        return check_word(value, r"[A-Za-z0-9][\w./:@-]*", "the name of an image")

    @field_validator("project", "region", "machine_type")
    @classmethod
    def _name(cls, value: str) -> str:
        return check_word(value, r"[a-z0-9][a-z0-9.:-]*", "a name of Google Cloud")

    @field_validator("accelerator")
    @classmethod
    def _accelerator(cls, value: str | None) -> str | None:
        return None if value is None else check_word(value, r"[A-Z0-9_]+", "a type such as NVIDIA_L4")

    @field_validator("service_account", "network")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        return None if value is None else check_word(value, r"[a-z0-9][\w@./-]*", "a name of Google Cloud")

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return check_address(value)

    def check_reach(self, folder: Path, store: Store) -> None:
        """`MissingExtra` without the library of credentials; `InputError` for a store on this machine."""
        require("google.auth", "google", "the executor `vertex`", where=WHERE)
        super().check_reach(folder, store)

    def find_machine(self) -> tuple[str, int] | None:
        """Return the requested GPUs."""
        if self.machine is None and self.accelerator is not None:
            return self.accelerator.removeprefix("NVIDIA_").lower().replace("_", "-"), self.nodes * self.accelerators
        return super().find_machine()

    def submit(self, job: BatchJob) -> None:
        """Create the custom job where none of the name waits or runs. Vertex AI takes a name twice: of several jobs
        that are created at once, whoever looks leaves the first."""
        order = self.order(job)
        refuse_passwords(str(order), "Google Cloud")
        if not self._list_alive(job.name):
            self._connect().change("POST", self._path_of(), order)
        for later in self._list_alive(job.name)[1:]:
            self._cancel(later)

    def order(self, job: BatchJob) -> dict[str, Any]:
        """The custom job as the API takes it (`CustomJob` of its protocol buffers)."""
        machine: dict[str, Any] = {"machineType": self.machine_type}
        if self.accelerator is not None:
            machine |= {"acceleratorType": self.accelerator, "acceleratorCount": self.accelerators}
        command = self.get_command(job)
        container = {
            "imageUri": self.image,
            "command": command[:-1],
            "args": command[-1:],
            "env": [{"name": name, "value": value} for name, value in self.env.items()],
        }
        pool = {"machineSpec": machine, "diskSpec": {"bootDiskSizeGb": self.disk_gb}, "containerSpec": container}
        counts = [1, self.nodes - 1] if self.nodes > 1 else [1]  # the first pool is the first machine alone
        return {
            "displayName": job.name,
            "jobSpec": {
                "workerPoolSpecs": [{**pool, "replicaCount": count} for count in counts],
                "scheduling": {
                    "timeout": f"{max(60, round(3600 * self.hours))}s",
                    "strategy": "SPOT" if self.spot else "STANDARD",
                },
                **({"serviceAccount": self.service_account} if self.service_account else {}),
                **({"network": self.network} if self.network else {}),
            },
            "labels": {"application": "luthier"},
        }

    def find(self, name: str) -> JobStatus | None:
        """The first custom job of the name that waits or runs, else the newest."""
        found = self._list(name)
        if not found:
            return None
        job = next(iter(self._list_alive(name)), found[-1])
        state, reason = str(job.get("state")), str((job.get("error") or {}).get("message", ""))
        return JobStatus(_STATES.get(state, "ended"), f"{state}: {reason}" if reason else state)

    def _list(self, name: str) -> list[dict[str, Any]]:
        """The custom jobs of a name, the newest last."""
        query = urlencode({"filter": f'display_name="{name}"', "pageSize": 100})
        found = (self._connect().read(f"{self._path_of()}?{query}") or {}).get("customJobs") or []
        same = [job for job in found if job.get("displayName") == name]
        return sorted(same, key=lambda job: (str(job.get("createTime")), str(job.get("name"))))

    def _list_alive(self, name: str) -> list[dict[str, Any]]:
        return [job for job in self._list(name) if str(job.get("state")) in _STATES.keys() - {"JOB_STATE_CANCELLING"}]

    def cancel_job(self, name: str) -> None:
        """Cancel the custom jobs of the name that wait or run."""
        for job in self._list_alive(name):
            self._cancel(job)

    def _cancel(self, job: dict[str, Any]) -> None:
        self._connect().change("POST", f"v1/{job['name']}:cancel", {}, unless=(400, 404))

    def _path_of(self) -> str:
        return f"v1/projects/{self.project}/locations/{self.region}/customJobs"

    def _connect(self) -> SchedulerApi:
        url = self.endpoint or f"https://{self.region}-aiplatform.googleapis.com"
        return SchedulerApi("Vertex AI", url, _read_headers)


@cache
def _find_credentials() -> Any:
    require("google.auth", "google", "the executor `vertex`", where=WHERE)
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except DefaultCredentialsError as error:
        hint = "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS"
        raise InputError("there are no credentials for Google Cloud", where=WHERE, hint=hint) from error


def _read_headers() -> dict[str, str]:
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    credentials = _find_credentials()
    try:
        if not credentials.valid:
            credentials.refresh(Request())
    except GoogleAuthError as error:
        hint = "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS"
        message = f"Google gave no token ({type(error).__name__})"
        raise SystemResourceError(message, where=WHERE, hint=hint) from error
    return {"Authorization": f"Bearer {credentials.token}"}
