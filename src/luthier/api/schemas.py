"""The fine-tuning API in OpenAI's shape: bodies of requests, and jobs, files, events and checkpoints as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from luthier.commands.jobs.journal import JobEvent
from luthier.commands.jobs.records import Auto, FineTuningJob, JobRequest, Upload
from luthier.commands.jobs.service import JobCheckpoint
from luthier.serve.openai.protocol import APIError, Number, RequestBody, WholeNumber

_CODE = "unsupported_parameter"
_SEEDS = 2**31
Id = Annotated[str, Field(min_length=1, max_length=64)]
Epochs = Annotated[WholeNumber, Field(ge=1, le=50)] | Auto | None
Batch = Annotated[WholeNumber, Field(ge=1, le=256)] | Auto | None
Multiplier = Annotated[Number, Field(gt=0, le=1000)] | Auto | None
Beta = Annotated[Number, Field(gt=0, le=2)] | Auto | None


class Hyperparameters(RequestBody):
    """The hyperparameters of a fine-tuning job; `auto` derives them from the number of rows."""

    n_epochs: Epochs = None
    """How often each row is seen."""
    batch_size: Batch = None
    """Rows that each update averages over."""
    learning_rate_multiplier: Multiplier = None
    """How many times the usual learning rate."""


class DpoHyperparameters(Hyperparameters):
    """How a model learns from pairs of answers."""

    beta: Beta = None
    """How dear it is to leave the model as it was."""


class SupervisedMethod(RequestBody):
    """The request field for supervised fine-tuning on conversations."""

    hyperparameters: Hyperparameters | None = None


class DpoMethod(RequestBody):
    """The request field for preference fine-tuning (DPO) on pairs of answers."""

    hyperparameters: DpoHyperparameters | None = None


class FineTuningMethod(RequestBody):
    """How is learnt."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_one_method(self) -> FineTuningMethod:
        if self.type == "reinforcement" or self.reinforcement is not None:
            what = "this server tunes by 'supervised' and 'dpo'; `luthier run` knows reinforcement"
            raise APIError(what, param="method.type", code=_CODE)
        other: Literal["supervised", "dpo"] = "dpo" if self.type == "supervised" else "supervised"
        if getattr(self, other) is not None:
            raise APIError(f"the method is {self.type!r}; leave {other!r} out", param=f"method.{other}")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters | None:
        """Those of the method that is meant."""
        if self.type == "dpo":
            return self.dpo.hyperparameters if self.dpo else None
        return self.supervised.hyperparameters if self.supervised else None


class FineTuningJobRequest(RequestBody):
    """The body of a request that creates a fine-tuning job."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    """A base model that may be tuned here, or a model that an earlier job of yours made."""
    training_file: Id
    """An uploaded file of purpose `fine-tune`."""
    validation_file: Id | None = None
    """Rows that are measured on the way, and never learnt."""
    method: FineTuningMethod | None = None
    hyperparameters: Hyperparameters | None = None
    """Older place of what `method.supervised` holds."""
    suffix: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    """A part of the tuned model's name: letters, digits, `-` and `_`."""
    seed: Annotated[WholeNumber, Field(ge=0, lt=2**32)] | None = None
    metadata: dict[str, Annotated[str, Field(max_length=512)]] | None = None
    """At most 16 texts that are kept with the job."""
    integrations: list[Any] | None = None
    """None of them is here."""

    @model_validator(mode="after")
    def _check_fields(self) -> FineTuningJobRequest:
        if self.integrations:
            what = "this server has no integrations; a recipe's `report_to` writes to Weights & Biases and others"
            raise APIError(what, param="integrations", code=_CODE)
        if self.hyperparameters is not None and self.method is not None:
            raise APIError("hyperparameters are given in `method`: leave one of them out", param="hyperparameters")
        if len(self.metadata or {}) > 16 or any(len(name) > 64 for name in self.metadata or {}):
            raise APIError("expected at most 16 entries with keys of at most 64 characters", param="metadata")
        return self

    def to_job_request(self) -> JobRequest:
        """As jobs have it."""
        hyperparameters = self.method.hyperparameters if self.method is not None else self.hyperparameters
        return JobRequest(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            method="dpo" if self.method is not None and self.method.type == "dpo" else "supervised",
            suffix=self.suffix,
            seed=secrets.randbelow(_SEEDS) if self.seed is None else self.seed,
            metadata=self.metadata or {},
            **(hyperparameters.model_dump(exclude_none=True) if hyperparameters is not None else {}),
        )


OWNER = "luthier"
_METRICS = (
    "step", "train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy", "full_valid_loss",
    "full_valid_mean_token_accuracy",
)  # fmt: skip


def file_to_json(upload: Upload) -> dict[str, Any]:
    """A file."""
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.bytes,
        "created_at": _to_timestamp(upload.made_at),
        "expires_at": _to_timestamp(upload.expires_at),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": "processed",
        "status_details": None,
    }


def job_to_json(job: FineTuningJob, estimated_finish: int | None = None) -> dict[str, Any]:
    """A job."""
    hyperparameters = job.hyperparameters
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": _to_timestamp(job.made_at),
        "error": dict(job.error or {}),
        "estimated_finish": estimated_finish,
        "fine_tuned_model": job.model,
        "finished_at": _to_timestamp(job.finished_at),
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


def event_to_json(event: JobEvent) -> dict[str, Any]:
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
        "created_at": _to_timestamp(job.finished_at),
        "fine_tuned_model_checkpoint": checkpoint.name,
        "fine_tuning_job_id": job.id,
        "metrics": {name: float(metrics[name]) for name in _METRICS if metrics.get(name) is not None},
        "step_number": checkpoint.step,
    }


def page_to_json(items: Iterable[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of a list."""
    data = list(items)
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": more, **ends}


def _to_timestamp(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
