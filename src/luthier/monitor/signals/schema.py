"""How many answers have the form that was agreed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.monitor.evaluator import estimate_share
from luthier.monitor.signal import Signal, SignalRow, SignalValue, WindowSpan, answer_text
from luthier.traces.record import Feedback, Trace


class SchemaSignal(Signal):
    """The part of answers that are JSON and keep a JSON schema (draft 2020-12 where it names none)."""

    kind: Literal["schema_validity"] = "schema_validity"
    shares: ClassVar[bool] = True
    form: dict[str, Any] = Field(default={})
    """The JSON schema; by default, any JSON will do."""

    @field_validator("form")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for

        try:
            validator_for(value).check_schema(value)
        except SchemaError as error:
            raise ValueError(f"is no JSON schema: {error.message}") from None
        return value

    def numbers(self) -> Sequence[str]:
        return [self.called]

    def row(self, trace: Trace, feedback: Feedback | None) -> Any | None:
        text = answer_text(trace)
        if text is None or trace.finish_reason == "tool_calls":
            return None
        try:
            return float(self._validator.is_valid(json.loads(text)))
        except (ValueError, RecursionError):
            return 0.0

    def measure(self, rows: Sequence[SignalRow], span: WindowSpan) -> Mapping[str, SignalValue]:
        return {self.called: estimate_share(rows, span)}

    @cached_property
    def _validator(self) -> Any:
        from jsonschema.validators import validator_for

        return validator_for(self.form)(self.form)
