"""Amazon Bedrock's model customization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field

from luthier.chat.provider_rules import BEDROCK, ProviderRules
from luthier.tune.hosted.client import ProviderClient
from luthier.tune.hosted.signing import AwsAuth
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
    "Completed": "succeeded",
    "Failed": "failed",
    "Stopping": "cancelled",
    "Stopped": "cancelled",
}
"""`InProgress` means that the job is in progress."""
_JOBS = "model-customization-jobs"
_PAGE = 1000
"""Maximum jobs in one response; those of one name are far fewer."""


class BedrockTechnique(BucketTechnique):
    """A model that Amazon Bedrock tunes on rows in a bucket of yours; asked there once you have deployed it.

    Follows Bedrock's API of 2025 (`CreateModelCustomizationJob`, fine-tuning) and S3's. Requests are signed with the
    credentials that AWS' own clients would take (environment, profile, role). The digest of rows and settings names
    the job and is its `clientRequestToken`, so that Bedrock itself makes no second one. The finished model answers once
    you have deployed it there.
    """

    kind: Literal["bedrock"] = "bedrock"
    libraries: ClassVar[Mapping[str, str]] = {"boto3": "aws"}
    sent_names: ClassVar[Mapping[str, str]] = {
        "learning_rate": "learningRate",
        "batch_size": "batchSize",
        "warmup_steps": "learningRateWarmupSteps",
    }

    bucket: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    """The S3 bucket that holds the rows and Bedrock's metrics, in the same region."""
    role_arn: Annotated[str, Field(pattern=r"^arn:aws[^:]*:iam::[0-9]{12}:role/.+$")]
    """The role by which Bedrock reads and writes the bucket."""
    url: str = "https://bedrock.{region}.amazonaws.com"
    """Where Bedrock's API begins; `{region}` stands for the region. `http://` only on this machine."""
    storage_url: StorageUrl = "https://s3.{region}.amazonaws.com"
    """Where S3's API begins."""
    key_env: EnvVarName = "AWS_BEARER_TOKEN_BEDROCK"
    """Name of the environment variable that holds the Bedrock API key by which the tuned model is asked. Tuning itself
    is signed by AWS' credentials."""
    deployment: str | None = None
    """The ARN of the deployment at which the tuned model is asked; the model's own ARN when not given."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Size of the updates at their height; the provider chooses when not given."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows that each update averages over, for models that have the setting."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Updates over which the learning rate rises, for models that have the setting."""

    @property
    def rules(self) -> ProviderRules:
        """Bedrock's limits on rows, for Amazon Nova."""
        return BEDROCK

    @property
    def inference_url(self) -> str:
        """Bedrock's OpenAI-compatible API."""
        return f"https://bedrock-runtime.{self.region}.amazonaws.com/openai/v1"

    def identify_job(self) -> list[Any]:
        """Add region and bucket."""
        return [*super().identify_job(), self.region, self.bucket]

    def open_client(self, say: Callable[[str], None]) -> ProviderClient:
        """Sign requests with AWS credentials."""
        auth = AwsAuth(self.region, "bedrock", self._storage)
        return ProviderClient(self._api, None, say, patience_s=self.patience_s, timeout_s=self.timeout_s, auth=auth)

    def find_file(self, client: ProviderClient, request: HostedRequest) -> str | None:
        """Find the file in the bucket."""
        return self._uri(request) if client.exists(self._object(request)) else None

    def upload_file(self, client: ProviderClient, request: HostedRequest, file: Path) -> str:
        """Put the file into the bucket; writing the same bytes twice is harmless."""
        client.send_file("PUT", self._object(request), file)
        return self._uri(request)

    def find_jobs(self, client: ProviderClient, request: HostedRequest, file_id: str | None) -> list[HostedJob]:
        """Find the jobs by their names."""
        return [self.read_job(self.read_record(client, name)) for name in self._list_names(client, request)]

    def create_job(self, client: ProviderClient, request: HostedRequest, file_id: str) -> HostedJob:
        """Start a job under the next name; its token is the job key with the number of the attempt."""
        number = len(self._list_names(client, request)) + 1
        name = request.name if number == 1 else f"{request.name}-{number}"
        settings = {"epochCount": self.epochs, **self.job_settings()}
        body = {
            "jobName": name,
            "customModelName": name,
            "roleArn": self.role_arn,
            "clientRequestToken": f"{request.key}-{number}",
            "baseModelIdentifier": self.model,
            "customizationType": "FINE_TUNING",
            "trainingDataConfig": {"s3Uri": file_id},
            "outputDataConfig": {"s3Uri": f"s3://{self.bucket}/luthier/{name}/"},
            "hyperParameters": {setting: str(value) for setting, value in settings.items()},
        }
        client.post(_JOBS, body)
        return self.read_job(self.read_record(client, name))

    def read_record(self, client: ProviderClient, job_id: str) -> dict[str, Any]:
        """Fetch the job's record."""
        return client.get(f"{_JOBS}/{quote(job_id, safe='')}")

    def read_job(self, record: Mapping[str, Any]) -> HostedJob:
        """Read the job from its record; Bedrock reports no tokens."""
        data = record.get("trainingDataConfig")
        return HostedJob(
            id=read_text(record, "jobName", self.url),
            state=_STATES.get(read_text(record, "status", self.url), "running"),
            model=str(record.get("outputModelArn") or ""),
            message=str(record.get("failureMessage") or ""),
            file=str(data.get("s3Uri") or "") if isinstance(data, dict) else "",
        )

    def cancel_job(self, client: ProviderClient, job_id: str) -> None:
        """Stop the job."""
        client.post(f"{_JOBS}/{quote(job_id, safe='')}/stop", {})

    def get_served_name(self, job: HostedJob) -> str:
        """Return the deployment's ARN, or the model's own."""
        return self.deployment or job.model

    @property
    def _storage(self) -> str:
        return self.storage_url.replace("{region}", self.region)

    def _uri(self, request: HostedRequest) -> str:
        return f"s3://{self.bucket}/luthier/{request.name}.jsonl"

    def _object(self, request: HostedRequest) -> str:
        return f"{self._storage}/{self.bucket}/luthier/{request.name}.jsonl"

    def _list_names(self, client: ProviderClient, request: HostedRequest) -> list[str]:
        """Return the names of the request's jobs, oldest first."""
        page: dict[str, Any] = client.get(_JOBS, nameContains=request.name, maxResults=_PAGE)
        names = [str(record.get("jobName")) for record in read_records(page, "modelCustomizationJobSummaries")]
        own = [name for name in names if name == request.name or name.startswith(f"{request.name}-")]
        return sorted(own, key=lambda name: (len(name), name))
