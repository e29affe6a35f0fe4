"""Together AI's fine-tuning API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.chat.provider_rules import TOGETHER, ProviderRules
from luthier.tune.hosted.client import ProviderClient
from luthier.tune.hosted.technique import (
    EnvVarName,
    HostedEvent,
    HostedJob,
    HostedRequest,
    JobState,
    map_same_names,
    read_records,
    read_text,
)
from luthier.tune.hosted.weights import DownloadableHostedTechnique, extract_adapter

_STATES: Mapping[str, JobState] = {
    "completed": "succeeded",
    "error": "failed",
    "user_error": "failed",
    "cancelled": "cancelled",
    "cancel_requested": "cancelled",
}
"""All other states mean that the job is in progress: `pending`, `queued`, `running`, `compressing`, `uploading`."""
_JOBS = "fine-tunes"


class TogetherTechnique(DownloadableHostedTechnique):
    """A model that Together AI tunes on uploaded rows (LoRA); asked there afterwards.

    Follows Together's API reference of 2025 (`/v1/files/upload`, `/v1/fine-tunes`,
    `/v1/finetune/download`). Models that Together does not serve
    on demand need a dedicated endpoint, which you start there, before they answer.
    """

    kind: Literal["together"] = "together"
    sent_names: ClassVar[Mapping[str, str]] = map_same_names("batch_size", "learning_rate")

    url: str = "https://api.together.xyz/v1"
    """Where the API begins. `http://` only on this machine."""
    key_env: EnvVarName = "TOGETHER_API_KEY"
    """Name of the environment variable that holds the key, never the key itself; null for servers without keys."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows that each update averages over; the provider's largest when not given."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Size of the updates at their height; the provider chooses when not given."""

    @property
    def rules(self) -> ProviderRules:
        """Together's limits."""
        return TOGETHER

    def find_file(self, client: ProviderClient, request: HostedRequest) -> str | None:
        """Find the file by its name."""
        filename = f"{request.name}.jsonl"
        able = (record for record in read_records(client.get("files")) if record.get("filename") == filename)
        return next((read_text(entry, "id", self.url) for entry in able), None)

    def upload_file(self, client: ProviderClient, request: HostedRequest, file: Path) -> str:
        """Upload the file with the purpose `fine-tune`."""
        name = f"{request.name}.jsonl"
        fields = {"purpose": "fine-tune", "file_name": name, "file_type": "jsonl"}
        return read_text(client.upload("files/upload", file, name, fields), "id", self.url)

    def find_jobs(self, client: ProviderClient, request: HostedRequest, file_id: str | None) -> list[HostedJob]:
        """Find jobs by the suffix in the names of their models, or by their file."""
        records = [
            record
            for record in read_records(client.get(_JOBS))
            if request.name in (record.get("suffix"), *_split_name(record))
            or (file_id is not None and record.get("training_file") == file_id)
        ]
        return [self.read_job(entry) for entry in sorted(records, key=lambda entry: str(entry.get("created_at")))]

    def create_job(self, client: ProviderClient, request: HostedRequest, file_id: str) -> HostedJob:
        """Start a job."""
        body = {
            "model": self.model,
            "training_file": file_id,
            "n_epochs": self.epochs,
            "suffix": request.name,
            **self.job_settings(),
            **self._describe_method(),
        }
        return self.read_job(client.post(_JOBS, body))

    def read_record(self, client: ProviderClient, job_id: str) -> dict[str, Any]:
        """Fetch the job's record."""
        return client.get(f"{_JOBS}/{job_id}")

    def read_events(self, client: ProviderClient, job_id: str) -> list[HostedEvent]:
        """Return all events that the provider lists; they have no ids."""
        records = read_records(client.get(f"{_JOBS}/{job_id}/events"))
        texts = [(f"{record.get('created_at')} {record.get('message')}", record) for record in records]
        return [
            HostedEvent(
                identity, str(entry.get("message") or ""), str(entry.get("level")).lower() in ("warning", "error")
            )
            for identity, entry in sorted(texts, key=lambda pair: pair[0])
        ]

    def fetch_weights(self, client: ProviderClient, job: HostedJob, folder: Path) -> None:
        """Download the archive of `/v1/finetune/download`."""
        archive = folder.parent / "adapter.archive"
        client.download(f"finetune/download?ft_id={job.id}&checkpoint=adapter", archive)
        extract_adapter(archive, folder)
        archive.unlink()

    def cancel_job(self, client: ProviderClient, job_id: str) -> None:
        """Cancel the job."""
        client.post(f"{_JOBS}/{job_id}/cancel", {})

    def _describe_method(self) -> dict[str, Any]:
        """Return the job's fields for its method; empty for the default one."""
        if not self.tunes_on_pairs:
            return {}
        beta = {} if self.beta is None else {"dpo_beta": self.beta}
        return {"training_method": {"method": "dpo", **beta}}

    def read_job(self, record: Mapping[str, Any]) -> HostedJob:
        """Read the job from its record."""
        tokens = record.get("token_count")
        failures = [str(entry.get("message") or "") for entry in read_records(record, "events")]
        return HostedJob(
            id=read_text(record, "id", self.url),
            state=_STATES.get(read_text(record, "status", self.url), "running"),
            model=_model_name(record),
            message=failures[-1] if failures else "",
            tokens=tokens if isinstance(tokens, int) and tokens > 0 else None,
            file=str(record.get("training_file") or ""),
        )


def _model_name(record: Mapping[str, Any]) -> str:
    return str(record.get("model_output_name") or record.get("output_name") or "")


def _split_name(record: Mapping[str, Any]) -> list[str]:
    """Return the suffix in a tuned model's name, `ACCOUNT/BASE-luthier-KEY-HASH`, as it was sent."""
    before, mark, rest = _model_name(record).rpartition("luthier-")
    return [mark + rest.partition("-")[0]] if before and mark else []
