"""One request from its coming to its end: what will be its trace, told once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from luthier.serve.query import Usage, Whole
from luthier.serve.refusal import Refusal
from luthier.text.messages import Message
from luthier.traffic.record import END_FIELDS, Arm, Asked, Finish, TraceEnd, TraceStart

CLOSED = 499
"""The status of a request whose client went away before it was answered."""
_NOTHING, _STATUS = Usage(), END_FIELDS.index("status")


class _Hidden:
    """What a case keeps beside the beginning of its trace."""

    __slots__ = ("_began", "_tell", "end", "first_token_s", "ready", "unused")
    _tell: Callable[[Case], None]
    end: TraceEnd | None
    """How it ended; None while it is under way."""
    first_token_s: float | None
    ready: Any
    """What the recorder made of the beginning of its trace."""
    unused: Sequence[str]
    """Settings of sampling that were asked for and change nothing."""


class Case(_Hidden):
    """A request that is under way. Its fields are the beginning of its trace, so that nothing is put together while a
    client waits."""

    def __init__(self, prefix: str, asked: Asked, tell: Callable[[Case], None], key: str | None) -> None:
        self._began, self._tell = time.monotonic(), tell
        self.end = self.first_token_s = self.ready = None
        self.unused = ()
        self.id = f"{prefix}-{secrets.token_hex(14)}"
        self.at = datetime.now(UTC)
        self.asked: Asked = asked
        self.model, self.release = "", ""
        self.arm: Arm = "stable"
        self.messages: Sequence[Mapping[str, Any]] = ()
        self.user: str | None = None
        self.key = key
        self.consent = True
        self.parameters: dict[str, Any] = {}
        self.meta: dict[str, str] = {}

    @property
    def begun(self) -> TraceStart:
        """The beginning of its trace."""
        return self.__dict__

    @property
    def status(self) -> int:
        """The HTTP status, once it is over."""
        return int(self.end[_STATUS]) if self.end is not None else 0

    def heard(self, messages: Iterable[Message]) -> None:
        """What was asked."""
        self.messages = [one.__dict__ for one in messages]

    def shadow(self) -> Case:
        """The case of a shadow that is asked the same."""
        other = Case(self.id.partition("-")[0], self.asked, self._tell, self.key)
        other.model, other.messages, other.user, other.consent = self.model, self.messages, self.user, self.consent
        other.parameters, other.meta, other.arm = self.parameters, {**self.meta, "shadow_of": self.id}, "shadow"
        return other

    def prepare(self, ready: Callable[[TraceStart], Any]) -> None:
        """The model is at work: make the beginning of the trace, so that its end alone is left."""
        if self.end is None:
            self.ready = ready(self.__dict__)

    def first(self) -> None:
        """The first piece of the answer is there."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self._began

    def done(self, answer: Whole, usage: Usage) -> None:
        """Answered."""
        self._end(200, answer.finish or "stop", answer=answer, usage=usage)

    def refused(self, refusal: Refusal, answer: Whole | None = None) -> None:
        """Not answered, or not to the end."""
        finish: Finish = "cancelled" if refusal.status in (CLOSED, 504) else "error"
        self._end(refusal.status, finish, answer=answer, error=refusal.message)

    def gone(self, answer: Whole | None = None) -> None:
        """Whoever asked went away."""
        self._end(CLOSED, "cancelled", answer=answer, error="the client went away")

    def _end(
        self, status: int, finish: Finish, *, answer: Whole | None, usage: Usage | None = None, error: str = ""
    ) -> None:
        """Whoever asked waits for this: it builds nothing that is not written."""
        if self.end is not None:
            return
        said: dict[str, Any] | None = None
        scores: dict[str, float] | None = None
        if answer is not None:
            if status == 200 or answer.text or answer.calls:
                said = {"role": "assistant", "content": answer.text}
                if answer.calls:
                    said["tool_calls"] = tuple(answer.calls)
            if answer.scores:
                scores = dict(answer.scores)
            if answer.calibration is not None:  # by which the model's own probabilities became those of the scores
                self.parameters, self.ready = {**self.parameters, "calibration": answer.calibration}, None
            usage = usage or answer.usage
        used = usage or _NOTHING
        tokens = used.prompt_tokens, used.cached_tokens, used.completion_tokens
        latency_s = time.monotonic() - self._began
        self.end = (said, finish, status, error, *tokens, latency_s, self.first_token_s, scores)
        self._tell(self)
