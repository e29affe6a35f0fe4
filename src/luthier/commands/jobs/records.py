"""Records of an upload, a job request and a fine-tuning job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions

State = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
Purpose = Literal["fine-tune", "fine-tune-results"]
Method = Literal["supervised", "dpo"]
Auto = Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A user's file."""

    id: str
    key: str | None
    """The name of the key that it came with."""
    purpose: Purpose
    filename: str
    bytes: int
    digest: str
    made_at: datetime
    expires_at: datetime | None = None


class JobRequest(BaseModel):
    """A fine-tuning request: the base model, the files, the method and its hyperparameters."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_extra=add_field_descriptions, allow_inf_nan=False
    )

    model: str
    """The base model, by its name here, or the model of an earlier job."""
    training_file: str
    validation_file: str | None = None
    method: Method = "supervised"
    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] | Auto = "auto"
    beta: Annotated[float, Field(gt=0, le=2)] | Auto = "auto"
    suffix: str | None = None
    seed: int = 0
    metadata: dict[str, str] = {}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The method's hyperparameters."""
        names = ["n_epochs", "batch_size", "learning_rate_multiplier", *(["beta"] if self.method == "dpo" else [])]
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class FineTuningJob:
    """A wish on its way."""

    id: str
    key: str | None
    state: State
    made_at: datetime
    finished_at: datetime | None
    request: JobRequest
    settled: Mapping[str, Any]
    """Values of `auto`; empty before the files were read."""
    error: Mapping[str, Any] | None
    """`message`, `code` and `param`."""
    process: str | None
    deaths: int
    artifact: str | None
    model: str | None
    """The name under which the tuned model is served."""
    result_file: str | None
    trained_tokens: int | None

    @property
    def ended(self) -> bool:
        """Whether it is in a final state."""
        return self.state in ENDED

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The requested values, with `auto` replaced as soon as it is known."""
        return {**self.request.hyperparameters, **self.settled}
