"""An alert: a condition over a number of traffic, how long it must hold, when it is over, and what then is said."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from luthier.core.component import refuse_unknown_settings
from luthier.core.described import described
from luthier.core.expressions import Seconds

Severity = Literal["info", "warning", "critical"]
NoData = Literal["ok", "keep", "alert"]


class Alert(BaseModel):
    """When somebody is to be told.

    `{when: "accuracy < 0.9 on 200 labels", for: 10m, clear: "accuracy > 0.92", severity: critical}`; a text alone is
    its `when`. The states are those of Prometheus: inactive, pending while `for` runs, firing, and inactive again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described, allow_inf_nan=False)

    when: str = Field(min_length=1)
    """The condition, such as `accuracy < 0.9 on 200 labels`, `latency.p95 > 2 over 10m`, `macro_f1 < report - 0.03`."""
    name: str = Field(default="", pattern=r"^([A-Za-z][A-Za-z0-9_]*)?$")
    """What it is called; by default, its number (`latency_p95`)."""
    hold: Seconds = Field(default=0, alias="for")
    """For how long the condition must hold before it fires; written `for`."""
    clear: str | None = None
    """A condition on the same number that must hold before it is over, such as `accuracy > 0.92`; by default, it is
    over as soon as `when` does not hold."""
    keep_firing_for: Seconds = 0
    """For how long it goes on firing after it was over, so that it does not come and go."""
    min_events: int | None = Field(default=None, ge=1)
    """With fewer events in the window there is no data; by default all that a window `on` so many events asks for, and
    1 for a window of time, or 2 where it is to be `certain`: of one event nothing is."""
    no_data: NoData = "ok"
    """What is done without data: `ok` takes the condition as not holding, `alert` as holding, `keep` leaves a firing
    alert firing."""
    certain: bool = False
    """Whether the whole 95 % interval must be beyond the limit, so that chance alone seldom tells anybody."""
    severity: Severity = "warning"
    """How bad it is; channels may choose by it."""
    act: str = ""
    """The command to act, shown in the message; by default one that shows the requests behind it."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """A text alone is the condition."""
        value = {"when": value} if isinstance(value, str) else value
        if not isinstance(value, dict):
            return value
        refuse_unknown_settings(cls, {"hold" if name == "for" else name: one for name, one in value.items()})
        return value

    @model_serializer(mode="wrap")
    def _as_written(self, handler: Any) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        return {"for" if name == "hold" else name: value for name, value in found.items()}

    @property
    def called(self) -> str:
        """Its name: as given, or after its number."""
        found = re.match(r"\s*([\w.]+)", self.when)
        return self.name or (found[1] if found else "alert").replace(".", "_")
