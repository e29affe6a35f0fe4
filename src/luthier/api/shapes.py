"""Files, jobs, events and checkpoints as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from luthier.commands.jobs.journal import JobEvent
from luthier.commands.jobs.records import FineTuningJob, Upload
from luthier.commands.jobs.service import JobCheckpoint

OWNER = "luthier"
_METRICS = (
    "step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy", "full_valid_loss",
    "full_valid_mean_token_accuracy",
)  # fmt: skip


def file_json(upload: Upload) -> dict[str, Any]:
    """A file."""
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.bytes,
        "created_at": _moment(upload.made_at),
        "expires_at": _moment(upload.expires_at),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": "processed",
        "status_details": None,
    }


def job_json(job: FineTuningJob, estimated_finish: int | None = None) -> dict[str, Any]:
    """A job."""
    hyperparameters = job.hyperparameters
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": _moment(job.made_at),
        "error": dict(job.error or {}),
        "estimated_finish": estimated_finish,
        "fine_tuned_model": job.model,
        "finished_at": _moment(job.finished_at),
        "hyperparameters": {name: value for name, value in hyperparameters.items() if name != "beta"},
        "integrations": [],
        "metadata": job.request.metadata,
        "method": {"type": job.request.method, job.request.method: {"hyperparameters": hyperparameters}},
        "model": job.request.model,
        "organization_id": OWNER,
        "result_files": [job.result_file] if job.result_file is not None and job.state == "succeeded" else [],
        "seed": job.request.seed,
        "status": job.state,
        "trained_tokens": job.trained_tokens if job.state == "succeeded" else None,
        "training_file": job.request.training_file,
        "validation_file": job.request.validation_file,
    }


def event_json(event: JobEvent) -> dict[str, Any]:
    """An event of a job."""
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": int(event.at),
        "level": event.level,
        "message": event.message,
        "type": "message" if event.metrics is None else "metrics",
        "data": {} if event.metrics is None else dict(event.metrics),
    }


def checkpoint_to_json(job: FineTuningJob, checkpoint: JobCheckpoint) -> dict[str, Any]:
    """Return a checkpoint of a job in the shape of OpenAI's API."""
    metrics = checkpoint.metrics
    return {
        "id": f"ftckpt_{job.id.removeprefix('ftjob-')}-{checkpoint.step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": _moment(job.finished_at),
        "fine_tuned_model_checkpoint": checkpoint.name,
        "fine_tuning_job_id": job.id,
        "metrics": {name: float(metrics[name]) for name in _METRICS if metrics.get(name) is not None},
        "step_number": checkpoint.step,
    }


def page_json(items: Iterable[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of a list."""
    data = list(items)
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": more, **ends}


def _moment(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
