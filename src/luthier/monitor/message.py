"""What somebody is told when an alert fires or is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from luthier.core.described import described
from luthier.monitor.alert import Severity

Tells = Literal["firing", "resolved", "test"]


class Slice(BaseModel):
    """The part of the traffic on which a number is worst."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described)
    column: str
    """`release`, `model`, `label`, or what the application says of requests."""
    value: str
    reading: float
    events: int


class Message(BaseModel):
    """One message; the same alert firing once is told once."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described)
    id: str
    """Names this message: one that is sent again after a kill bears the same."""
    tells: Tells
    monitor: str
    """The recipe and step."""
    alert: str
    severity: Severity
    at: AwareDatetime
    since: AwareDatetime
    """Since when the condition holds."""
    when: str
    """The condition, as it was written."""
    number: str
    value: float | None
    """None where there is no data."""
    low: float | None = None
    high: float | None = None
    events: int = 0
    limit: float
    worst: Slice | None = None
    """The slice on which it is worst."""
    examples: tuple[str, ...] = ()
    """Ids of requests that show it; their texts are not sent."""
    story: str = ""
    act: str = ""
    """The command to act."""

    @property
    def title(self) -> str:
        """One line."""
        if self.tells == "resolved":
            return f"resolved: {self.alert} ({self.monitor})"
        return f"{'test' if self.tells == 'test' else self.severity}: {self.alert} ({self.monitor}): {self.when}"

    def lines(self) -> Iterator[str]:
        """The whole message, line by line."""
        yield self.title
        yield f"{self.number} is {self._value()}; the limit is {self.limit:.4g}"
        yield f"at {_time(self.at)}, since {_time(self.since)}"
        if self.worst is not None:
            of = self.worst
            yield f"worst where {of.column} is {of.value}: {of.reading:.4g} of {of.events:,} events"
        if self.examples:
            yield f"requests that show it: {', '.join(self.examples)}"
        if self.story:
            yield self.story
        if self.act:
            yield f"what to do: {self.act}"

    def text(self) -> str:
        """The whole message."""
        return "\n".join(self.lines())

    def _value(self) -> str:
        if self.value is None:
            return "not known (no data)"
        ends = "" if self.low is None or self.low == self.high else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.value:.4g}{ends} on {self.events:,} events"


def _time(at: AwareDatetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S %Z")
