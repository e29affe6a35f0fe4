"""The base of all facts of a report, and a number with its uncertainty."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from luthier.core.component import add_field_descriptions


class Fact(BaseModel):
    """The base class of everything in a report: frozen, without unknown fields, without NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=add_field_descriptions
    )


class ScoreFact(Fact):
    """A number with its 95 % interval; `value` is None when it could not be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    signature: str = ""
