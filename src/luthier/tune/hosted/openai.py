"""OpenAI's fine-tuning API, as OpenAI, Azure and compatible servers implement it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from luthier.tune.hosted.client import ProviderClient
from luthier.tune.hosted.technique import (
    HostedEvent,
    HostedJob,
    HostedRequest,
    JobState,
    PreferenceHostedTechnique,
    map_same_names,
    read_records,
    read_text,
)

_STATES: Mapping[str, JobState] = {"succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled"}
"""All other states mean that the job is in progress: `validating_files`, `queued`, `running`, `paused`."""
_BAD_FILE = ("error", "failed", "deleted", "deleting")
_JOBS = "fine_tuning/jobs"
_PAGE = 100
_MOST_PAGES = 1000
_MARK = "luthier"
"""Key in a job's metadata by which it is found again."""


class OpenaiShapedTechnique(PreferenceHostedTechnique):
    """The base of techniques whose provider has OpenAI's `files` and `fine_tuning/jobs`."""

    sent_names: ClassVar[Mapping[str, str]] = map_same_names("batch_size", "learning_rate_multiplier")

    batch_size: int | None = Field(default=None, ge=1, le=256)
    """Rows that each update averages over; the provider chooses when not given."""
    learning_rate_multiplier: float | None = Field(default=None, gt=0)
    """How many times the provider's usual learning rate; the provider chooses when not given."""

    def find_file(self, client: ProviderClient, request: HostedRequest) -> str | None:
        """Find the file by its name."""
        filename = f"{request.name}.jsonl"
        records = read_records(client.get("files", purpose="fine-tune"))
        matches = (
            entry for entry in records if entry.get("filename") == filename and entry.get("status") not in _BAD_FILE
        )
        return next((read_text(entry, "id", self.url) for entry in matches), None)

    def upload_file(self, client: ProviderClient, request: HostedRequest, file: Path) -> str:
        """Upload the file with the purpose `fine-tune`."""
        uploaded = client.upload("files", file, f"{request.name}.jsonl", {"purpose": "fine-tune"})
        return read_text(uploaded, "id", self.url)

    def find_jobs(self, client: ProviderClient, request: HostedRequest, file_id: str | None) -> list[HostedJob]:
        """Find jobs by the job key in their metadata, or by their file."""
        records = [
            record
            for record in _list_jobs(client)
            if (record.get("metadata") or {}).get(_MARK) == request.key
            or (file_id is not None and record.get("training_file") == file_id)
        ]
        return [self.read_job(record) for record in reversed(records)]

    def create_job(self, client: ProviderClient, request: HostedRequest, file_id: str) -> HostedJob:
        """Start a job with the technique's method."""
        beta = {} if self.beta is None else {"beta": self.beta}
        hyperparameters = {"n_epochs": self.epochs, **self.job_settings(), **beta}
        body = {
            "model": self.model,
            "training_file": file_id,
            "suffix": request.name,
            "seed": request.seed,
            "metadata": {_MARK: request.key},
            "method": {"type": self.method, self.method: {"hyperparameters": hyperparameters}},
        }
        return self.read_job(client.post(_JOBS, body))

    def read_record(self, client: ProviderClient, job_id: str) -> dict[str, Any]:
        """Fetch the job's record."""
        return client.get(f"{_JOBS}/{job_id}")

    def read_events(self, client: ProviderClient, job_id: str) -> list[HostedEvent]:
        """Return the last hundred events."""
        return [
            _read_event(record)
            for record in reversed(read_records(client.get(f"{_JOBS}/{job_id}/events", limit=_PAGE)))
        ]

    def cancel_job(self, client: ProviderClient, job_id: str) -> None:
        """Cancel the job."""
        client.post(f"{_JOBS}/{job_id}/cancel", {})

    def read_job(self, record: Mapping[str, Any]) -> HostedJob:
        """Read the job from its record."""
        error, tokens = record.get("error"), record.get("trained_tokens")
        return HostedJob(
            id=read_text(record, "id", self.url),
            state=_STATES.get(read_text(record, "status", self.url), "running"),
            model=str(record.get("fine_tuned_model") or ""),
            message=str(error.get("message") or "") if isinstance(error, dict) else "",
            tokens=tokens if isinstance(tokens, int) else None,
            file=str(record.get("training_file") or ""),
        )


def _list_jobs(client: ProviderClient) -> Iterator[dict[str, Any]]:
    """Yield all jobs that the key can see, newest first."""
    after: dict[str, str] = {}
    for _ in range(_MOST_PAGES):
        page = client.get(_JOBS, limit=_PAGE, **after)
        records = read_records(page)
        yield from records
        if not (page.get("has_more") and records):
            return
        after = {"after": str(records[-1].get("id"))}


def _read_event(record: Mapping[str, Any]) -> HostedEvent:
    data = record.get("data") if record.get("type") == "metrics" else None
    numbers = {name: value for name, value in (data or {}).items() if isinstance(value, int | float)}
    step, steps = int(numbers.pop("step", 0)), int(numbers.pop("total_steps", 0))
    text = str(record.get("message") or "")
    identity = str(record.get("id") or f"{record.get('created_at')} {text}")
    return HostedEvent(identity, text, record.get("level") in ("warn", "error"), step, steps, numbers)
