"""What clients may send to make a fine-tuning job: OpenAI's parameters, each either kept or refused by name."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from luthier.commands.jobs.records import Auto, JobRequest
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
    def _one(self) -> FineTuningMethod:
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
    def _together(self) -> FineTuningJobRequest:
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
