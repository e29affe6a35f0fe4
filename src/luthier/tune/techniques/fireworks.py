"""Fireworks AI's fine-tuning API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.chat.provider_rules import FIREWORKS, ProviderRules
from luthier.core.errors import ModelError
from luthier.tune.hosted.client import ProviderClient, ProviderRefusalError, is_missing
from luthier.tune.hosted.technique import (
    EnvVarName,
    HostedEvent,
    HostedJob,
    HostedRequest,
    JobState,
    read_text,
)
from luthier.tune.hosted.weights import SETTINGS, WEIGHTS, DownloadableHostedTechnique

_STATES: Mapping[str, JobState] = {
    "JOB_STATE_COMPLETED": "succeeded",
    "JOB_STATE_EARLY_STOPPED": "succeeded",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_EXPIRED": "failed",
    "JOB_STATE_DELETING": "failed",
    "JOB_STATE_CANCELLED": "cancelled",
    "JOB_STATE_CANCELLING": "cancelled",
}
"""All other states mean that the job is in progress."""
_CONFLICT = 409
_MOST_TRIES = 20
"""Maximum jobs for the same rows and settings, each after a failed one."""


class FireworksTechnique(DownloadableHostedTechnique):
    """A model that Fireworks AI tunes on uploaded rows (LoRA); asked there once you have deployed it.

    Follows Fireworks' REST reference of 2025 (`datasets`, `datasets:upload`, `supervisedFineTuningJobs`, `dpoJobs`).
    The names of data set, job and model follow from the job key, so that Fireworks itself refuses to make one twice.
    The finished model must be deployed there (`firectl create deployment`) before it answers.
    """

    kind: Literal["fireworks"] = "fireworks"
    sent_names: ClassVar[Mapping[str, str]] = {"learning_rate": "learningRate", "lora_rank": "loraRank"}

    account: Annotated[str, Field(pattern="^[a-z0-9-]{1,63}$")]
    """The id of the account at Fireworks."""
    url: str = "https://api.fireworks.ai/v1"
    """Where the API begins. `http://` only on this machine."""
    key_env: EnvVarName = "FIREWORKS_API_KEY"
    """Name of the environment variable that holds the key, never the key itself; null for servers without keys."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Size of the updates at their height; the provider chooses when not given."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Rank of the adapter; the provider chooses when not given."""

    @property
    def inference_url(self) -> str:
        """`/inference/v1` on the same host."""
        return f"{self.url.rstrip('/').removesuffix('/v1')}/inference/v1"

    @property
    def rules(self) -> ProviderRules:
        """Fireworks' limits."""
        return FIREWORKS

    def find_file(self, client: ProviderClient, request: HostedRequest) -> str | None:
        """Find the data set, once it is complete."""
        record = _find(client, f"{self._account}/datasets/{request.name}")
        return request.name if record is not None and record.get("state") == "READY" else None

    def upload_file(self, client: ProviderClient, request: HostedRequest, file: Path) -> str:
        """Create the data set, and upload the file into it."""
        about = {"userUploaded": {}, "format": "CHAT", "exampleCount": str(request.rows)}
        try:
            client.post(f"{self._account}/datasets", {"datasetId": request.name, "dataset": about})
        except ProviderRefusalError as error:
            if error.status != _CONFLICT:
                raise
        client.upload(f"{self._account}/datasets/{request.name}:upload", file, f"{request.name}.jsonl", {})
        return request.name

    def find_jobs(self, client: ProviderClient, request: HostedRequest, file_id: str | None) -> list[HostedJob]:
        """Find the request's jobs by their ids."""
        return [self.read_job(record) for _, record in self._list(client, request) if record is not None]

    def create_job(self, client: ProviderClient, request: HostedRequest, file_id: str) -> HostedJob:
        """Start a job under the first free id."""
        job_id = next((entry for entry, record in self._list(client, request) if record is None), None)
        if job_id is None:
            raise ModelError(f"{_MOST_TRIES} jobs for the same rows failed", hint="look at them at Fireworks")
        training = {
            "baseModel": self.model,
            "outputModel": f"{self._account}/models/{job_id}",
            "epochs": self.epochs,
            **self.job_settings(),
        }
        body: dict[str, Any] = {"dataset": f"{self._account}/datasets/{file_id}", "displayName": job_id}
        if not self.tunes_on_pairs:
            return self.read_job(client.post(self._jobs, {**body, **training}, supervisedFineTuningJobId=job_id))
        loss = {"method": "DPO", **({} if self.beta is None else {"klBeta": self.beta})}
        body |= {"trainingConfig": training, "lossConfig": loss}
        return self.read_job(client.post(self._jobs, body, dpoJobId=job_id))

    def read_record(self, client: ProviderClient, job_id: str) -> dict[str, Any]:
        """Fetch the job's record."""
        return client.get(self._path(job_id))

    def read_events(self, client: ProviderClient, job_id: str) -> list[HostedEvent]:
        """Return the progress; Fireworks lists no events."""
        progress = self.read_record(client, job_id).get("jobProgress")
        percent = progress.get("percent") if isinstance(progress, dict) else None
        return [HostedEvent(f"{percent}", f"{percent} % done")] if percent else []

    def download_rows(self, client: ProviderClient, file_id: str, to: Path) -> None:
        """Download from the signed URLs of a data set's files."""
        signed = _list_files(client, f"{self._account}/datasets/{file_id}:getDownloadEndpoint")
        with to.open("wb") as file:
            for url in signed.values():
                part = to.with_name(f"{to.name}.part")
                client.download(url, part)
                file.write(part.read_bytes())
                part.unlink()

    def fetch_weights(self, client: ProviderClient, job: HostedJob, folder: Path) -> None:
        """Download from the signed URLs of a model's files."""
        for name, url in _list_files(client, f"{job.model}:getDownloadEndpoint").items():
            if (own := name.rpartition("/")[2]) in (SETTINGS, WEIGHTS):
                client.download(url, folder / own)

    def cancel_job(self, client: ProviderClient, job_id: str) -> None:
        """Cancel the job."""
        client.post(f"{self._path(job_id)}:cancel", {})

    @property
    def _account(self) -> str:
        return f"accounts/{self.account}"

    @property
    def _jobs(self) -> str:
        return f"{self._account}/{'dpoJobs' if self.tunes_on_pairs else 'supervisedFineTuningJobs'}"

    def _path(self, job_id: str) -> str:
        return f"{self._jobs}/{job_id}"

    def _list(self, client: ProviderClient, request: HostedRequest) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Yield the ids of the request's jobs with their records, up to the first free id."""
        for number in range(1, _MOST_TRIES + 1):
            job_id = request.name if number == 1 else f"{request.name}-{number}"
            yield job_id, (record := _find(client, self._path(job_id)))
            if record is None:
                return

    def read_job(self, record: Mapping[str, Any]) -> HostedJob:
        """Read the job from its record."""
        status, progress = record.get("status"), record.get("jobProgress")
        tokens = progress.get("inputTokens") if isinstance(progress, dict) else None
        return HostedJob(
            id=read_text(record, "name", self.url).rpartition("/")[2],
            state=_STATES.get(read_text(record, "state", self.url), "running"),
            model=str((record.get("trainingConfig") or record).get("outputModel") or ""),
            message=str(status.get("message") or "") if isinstance(status, dict) else "",
            tokens=tokens if isinstance(tokens, int) and tokens > 0 else None,
            file=str(record.get("dataset") or "").rpartition("/")[2],
        )


def _list_files(client: ProviderClient, path: str) -> dict[str, str]:
    """Return the signed URLs of files by name, in the order of names."""
    signed = client.get(path).get("filenameToSignedUrls")
    return {name: str(url) for name, url in sorted(signed.items())} if isinstance(signed, dict) else {}


def _find(client: ProviderClient, path: str) -> dict[str, Any] | None:
    """Fetch a record; None where there is none."""
    try:
        return client.get(path)
    except ModelError as error:
        if is_missing(error):
            return None
        raise
