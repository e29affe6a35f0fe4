"""Gemini's supervised tuning on Google's Vertex AI."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field

from luthier.chat.provider_rules import VERTEX, ProviderRules
from luthier.core.errors import ModelError
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.tune.hosted.client import ProviderClient, is_missing
from luthier.tune.hosted.signing import GoogleAuth
from luthier.tune.hosted.technique import (
    BucketTechnique,
    EnvVarName,
    HostedJob,
    HostedRequest,
    JobState,
    StorageUrl,
    read_records,
    read_text,
)

_STATES: Mapping[str, JobState] = {
    "JOB_STATE_SUCCEEDED": "succeeded",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "succeeded",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_EXPIRED": "failed",
    "JOB_STATE_CANCELLED": "cancelled",
    "JOB_STATE_CANCELLING": "cancelled",
}
"""All other states mean that the job is in progress."""
_PAGE = 100
_MOST_PAGES = 1000


class VertexTechnique(BucketTechnique):
    """A Gemini model that Vertex AI tunes on rows in a bucket of yours; asked at the endpoint that it makes.

    Follows Vertex AI's REST reference of 2025 (`tuningJobs`, `supervisedTuningSpec`) and Cloud Storage's JSON API. The
    digest of rows and settings is the display name of the tuned model, by which a job is found again.
    """

    kind: Literal["vertex"] = "vertex"
    sent_names: ClassVar[Mapping[str, str]] = {
        "learning_rate_multiplier": "learningRateMultiplier",
        "adapter_size": "adapterSize",
    }

    project: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9.:-]{1,62}$")]
    """The id of the project at Google Cloud."""
    bucket: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")]
    """The bucket of Cloud Storage that holds the rows."""
    url: str = "https://{region}-aiplatform.googleapis.com/v1"
    """Where Vertex AI's API begins; `{region}` stands for the region. `http://` only on this machine."""
    storage_url: StorageUrl = "https://storage.googleapis.com"
    """Where Cloud Storage's API begins."""
    key_env: EnvVarName = "GOOGLE_OAUTH_ACCESS_TOKEN"
    """Name of the environment variable that holds an access token. When it is not set, tuning takes Google's
    application default credentials, which are renewed; the tuned model is asked with the variable alone."""
    learning_rate_multiplier: float | None = Field(default=None, gt=0)
    """How many times the provider's usual learning rate; the provider chooses when not given."""
    adapter_size: (
        Literal[
            "ADAPTER_SIZE_ONE", "ADAPTER_SIZE_TWO", "ADAPTER_SIZE_FOUR", "ADAPTER_SIZE_EIGHT", "ADAPTER_SIZE_SIXTEEN"
        ]
        | None
    ) = None
    """Rank of the adapter, in Google's words; the provider chooses when not given."""

    @property
    def rules(self) -> ProviderRules:
        """Vertex AI's limits on rows, for Gemini and text."""
        return VERTEX

    def identify_job(self) -> list[Any]:
        """Add project, region and bucket."""
        return [*super().identify_job(), self.project, self.region, self.bucket]

    def open_client(self, say: Callable[[str], None]) -> ProviderClient:
        """Authenticate with the token of the variable, or with Google's own credentials."""
        own = bool(self.key_env and os.environ.get(self.key_env, "").strip())
        return ProviderClient(
            self._api, self.key_env if own else None, say, patience_s=self.patience_s, timeout_s=self.timeout_s,
            auth=None if own else GoogleAuth(),
        )  # fmt: skip

    def find_file(self, client: ProviderClient, request: HostedRequest) -> str | None:
        """Find the file in the bucket."""
        try:
            client.get(f"{self.storage_url}/storage/v1/b/{self.bucket}/o/{quote(self._object(request), safe='')}")
        except ModelError as error:
            if is_missing(error):
                return None
            raise
        return f"gs://{self.bucket}/{self._object(request)}"

    def upload_file(self, client: ProviderClient, request: HostedRequest, file: Path) -> str:
        """Put the file into the bucket; writing the same bytes twice is harmless."""
        name = quote(self._object(request), safe="")
        path = f"{self.storage_url}/upload/storage/v1/b/{self.bucket}/o?uploadType=media&name={name}"
        client.send_file("POST", path, file)
        return f"gs://{self.bucket}/{self._object(request)}"

    def find_jobs(self, client: ProviderClient, request: HostedRequest, file_id: str | None) -> list[HostedJob]:
        """Find the jobs by the display names of their models."""
        records: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = client.get(self._jobs, pageSize=_PAGE, **more)
            records += [
                record
                for record in read_records(page, "tuningJobs")
                if record.get("tunedModelDisplayName") == request.name
            ]
            if not (token := page.get("nextPageToken")):
                break
            more = {"pageToken": str(token)}
        return [self.read_job(entry) for entry in sorted(records, key=lambda entry: str(entry.get("createTime")))]

    def create_job(self, client: ProviderClient, request: HostedRequest, file_id: str) -> HostedJob:
        """Start a supervised job."""
        body = {
            "baseModel": self.model,
            "tunedModelDisplayName": request.name,
            "supervisedTuningSpec": {
                "trainingDatasetUri": file_id,
                "hyperParameters": {"epochCount": str(self.epochs), **self.job_settings()},
            },
        }
        return self.read_job(client.post(self._jobs, body))

    def read_record(self, client: ProviderClient, job_id: str) -> dict[str, Any]:
        """Fetch the job's record."""
        return client.get(f"{self._jobs}/{job_id}")

    def read_job(self, record: Mapping[str, Any]) -> HostedJob:
        """Read the job from its record."""
        error, tuned = _object_of(record, "error"), _object_of(record, "tunedModel")
        stats = _object_of(_object_of(record, "tuningDataStats"), "supervisedTuningDataStats")
        tokens = str(stats.get("totalBillableTokenCount") or "")
        return HostedJob(
            id=read_text(record, "name", self.url).rpartition("/")[2],
            state=_STATES.get(read_text(record, "state", self.url), "running"),
            model=str(tuned.get("endpoint") or ""),
            message=str(error.get("message") or ""),
            tokens=int(tokens) if tokens.isdecimal() else None,
            file=str(_object_of(record, "supervisedTuningSpec").get("trainingDatasetUri") or ""),
        )

    def cancel_job(self, client: ProviderClient, job_id: str) -> None:
        """Cancel the job."""
        client.post(f"{self._jobs}/{job_id}:cancel", {})

    def describe_endpoint(self, job: HostedJob) -> EndpointModelSource:
        """Describe the tuned model's endpoint, which is OpenAI-compatible below its own address."""
        return EndpointModelSource(url=f"{self._api}/{job.model}", model=job.model, key_env=self.key_env)

    @property
    def _jobs(self) -> str:
        return f"projects/{self.project}/locations/{self.region}/tuningJobs"

    @staticmethod
    def _object(request: HostedRequest) -> str:
        return f"luthier/{request.name}.jsonl"


def _object_of(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}
