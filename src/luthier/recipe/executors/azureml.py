"""Steps made by command jobs of Azure Machine Learning, by its REST API and the credentials of `azure-identity`.

Azure takes no name twice, so that the jobs of a step are numbered: `NAME-1`, `NAME-2`.
"""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from luthier.core.errors import SystemResourceError
from luthier.core.store import Store
from luthier.core.system.packages import require
from luthier.recipe.batch import BatchJob, JobStatus, refuse_passwords
from luthier.recipe.cloud import CloudExecutor, check_address, check_word
from luthier.recipe.scheduler_api import WHERE, SchedulerApi

_STATES: dict[str, Literal["pending", "running"]] = {
    "NotStarted": "pending", "Starting": "pending", "Provisioning": "pending", "Preparing": "pending",
    "Queued": "pending", "Paused": "pending", "Running": "running", "Finalizing": "running",
    "CancelRequested": "running", "NotResponding": "running",
}  # fmt: skip
"""Azure's states of running and waiting jobs; all others have ended."""
_VERSION = "2024-04-01"
_SCOPE = "https://management.azure.com/.default"


class AzureMLExecutor(CloudExecutor):
    """In command jobs of Azure Machine Learning: each step is one job on a compute of the workspace.

    The store must be behind a URL that the job's identity reaches, such as `abfs://`. Credentials are Azure's default
    ones (`az login`). Needs `luthier[azure]`. What a job prints stands in the studio of Azure.
    """

    kind: Literal["azureml"] = "azureml"

    environment: str
    """The environment of the workspace in whose image Luthier is installed, as `luthier:3`."""
    subscription: str
    """The id of the subscription."""
    resource_group: str
    """The resource group."""
    workspace: str
    """The workspace."""
    compute: str | None = None
    """The compute cluster of the workspace; serverless compute when not given."""
    instance: str | None = None
    """The type of machine of serverless compute, such as `Standard_NC24ads_A100_v4`."""
    spot: bool = False
    """Whether machines of serverless compute may be taken away, which makes them cheaper."""
    experiment: str = "luthier"
    """The experiment that jobs are listed under."""
    identity: Literal["managed", "user"] = "managed"
    """Whose rights the job has: the compute's identity, or yours."""
    endpoint: str = "https://management.azure.com"
    """The address of Azure's API, which differs between its clouds."""

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: str) -> str:
        return check_word(value, r"[A-Za-z0-9][\w.-]*:[\w.-]+", "an environment with its version, such as luthier:3")

    @field_validator("subscription")
    @classmethod
    def _subscription(cls, value: str) -> str:
        return check_word(value, r"[0-9a-fA-F-]{36}", "the id of a subscription")

    @field_validator("resource_group", "workspace", "compute", "instance", "experiment")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return None if value is None else check_word(value, r"[A-Za-z0-9][\w.()-]*", "a name of Azure")

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        return check_address(value) or value

    def check_reach(self, folder: Path, store: Store) -> None:
        """`MissingExtra` without the library of credentials; `InputError` for a store on this machine."""
        require("azure.identity", "azure", "the executor `azureml`", where=WHERE)
        super().check_reach(folder, store)

    def submit(self, job: BatchJob) -> None:
        """Create the command job; of two runs that do so at once, one makes it."""
        order = self.order(job)
        refuse_passwords(str(order), "Azure")
        api = self._connect()
        number, found = self._find_newest(api, job.name)
        if found is None or found["properties"]["status"] not in _STATES:
            api.change("PUT", self._path_of(f"{job.name}-{number + 1}"), order, unless=(409,))

    def order(self, job: BatchJob) -> dict[str, Any]:
        """The command job as the API takes it (`JobBase` of its schema)."""
        name, _, version = self.environment.partition(":")
        count = {"instanceCount": self.nodes, **({"instanceType": self.instance} if self.instance else {})}
        group = {"distributionType": "PyTorch", "processCountPerInstance": self.processes_per_node}
        properties = {
            "jobType": "Command",
            "displayName": job.name,
            "experimentName": self.experiment,
            "command": shlex.join(self.get_command(job, starts_processes=False)),
            "environmentId": f"{self._base()}/environments/{name}/versions/{version}",
            "environmentVariables": dict(self.env),
            "identity": {"identityType": "Managed" if self.identity == "managed" else "UserIdentity"},
            "limits": {"jobLimitsType": "Command", "timeout": f"PT{max(1, round(60 * self.hours))}M"},
            "resources": count,
            "tags": {"application": "luthier"},
            **({"computeId": f"{self._base()}/computes/{self.compute}"} if self.compute else {}),
            **({"distribution": group} if self.is_group else {}),
            **({"queueSettings": {"jobTier": "Spot"}} if self.spot else {}),
        }
        return {"properties": properties}

    def find(self, name: str) -> JobStatus | None:
        """The newest command job of the name."""
        _, found = self._find_newest(self._connect(), name)
        if found is None:
            return None
        state = str(found["properties"]["status"])
        return JobStatus(_STATES.get(state, "ended"), state)

    def _find_newest(self, api: SchedulerApi, name: str) -> tuple[int, dict[str, Any] | None]:
        return api.find_newest(lambda number: self._path_of(f"{name}-{number}"))

    def cancel_job(self, name: str) -> None:
        """Cancel the command job where one waits or runs."""
        api = self._connect()
        number, found = self._find_newest(api, name)
        if found is not None and found["properties"]["status"] in _STATES.keys() - {"CancelRequested"}:
            api.change("POST", self._path_of(f"{name}-{number}", "/cancel"), unless=(400, 404, 409))

    def _base(self) -> str:
        group = f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
        return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{self.workspace}"

    def _path_of(self, name: str, action: str = "") -> str:
        return f"{self._base().lstrip('/')}/jobs/{name}{action}?api-version={_VERSION}"

    def _connect(self) -> SchedulerApi:
        return SchedulerApi("Azure", self.endpoint, _read_headers)


@cache
def _find_credentials() -> Any:
    require("azure.identity", "azure", "the executor `azureml`", where=WHERE)
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _read_headers() -> dict[str, str]:
    from azure.core.exceptions import AzureError

    try:
        token = _find_credentials().get_token(_SCOPE).token
    except AzureError as error:
        message = f"Azure gave no token ({type(error).__name__})"
        raise SystemResourceError(message, where=WHERE, hint="`az login`, or AZURE_CLIENT_ID and its kin") from error
    return {"Authorization": f"Bearer {token}"}
