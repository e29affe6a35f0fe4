"""One request from its coming to its end: what will be its trace, told once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from luthier.serve.query import Usage, Whole
from luthier.serve.refusal import Refusal
from luthier.text.messages import Message
from luthier.traffic.record import Arm, Asked, Finish, Told

CLOSED = 499
"""The status of a request whose client went away before it was answered."""


class _Hidden:
    """What a case keeps to itself."""

    __slots__ = ("_began", "_over", "_tell")
    _tell: Callable[[Told], None]


class Case(_Hidden):
    """A request that is under way. Its fields are its trace, so that nothing is put together while a client waits."""

    def __init__(self, prefix: str, asked: Asked, tell: Callable[[Told], None], key: str | None) -> None:
        self._began, self._over, self._tell = time.monotonic(), False, tell
        self.id = f"{prefix}-{secrets.token_hex(14)}"
        self.at = datetime.now(UTC)
        self.asked: Asked = asked
        self.model, self.release = "", ""
        self.arm: Arm = "stable"
        self.messages: Sequence[Mapping[str, Any]] = ()
        self.answer: Mapping[str, Any] | None = None
        self.finish: Finish = "error"
        self.status, self.error = 0, ""
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.latency_s = 0.0
        self.first_token_s: float | None = None
        self.scores: dict[str, float] | None = None
        self.user: str | None = None
        self.key = key
        self.consent = True
        self.parameters: dict[str, Any] = {}
        self.meta: dict[str, str] = {}

    def heard(self, messages: Iterable[Message]) -> None:
        """What was asked."""
        self.messages = [one.__dict__ for one in messages]

    def shadow(self) -> Case:
        """The case of a shadow that is asked the same."""
        other = Case(self.id.partition("-")[0], self.asked, self._tell, self.key)
        other.model, other.messages, other.user, other.consent = self.model, self.messages, self.user, self.consent
        other.parameters, other.meta, other.arm = self.parameters, {**self.meta, "shadow_of": self.id}, "shadow"
        return other

    def first(self) -> None:
        """The first piece of the answer is there."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self._began

    def done(self, answer: Whole, usage: Usage) -> None:
        """Answered."""
        finish: Finish = answer.finish or "stop"
        self._end(200, finish, answer=answer, usage=usage)

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
        if self._over:
            return
        self._over = True
        self.status, self.finish, self.error = status, finish, error
        if answer is not None:
            if status == 200 or answer.text or answer.calls:
                self.answer = _message(answer)
            if answer.scores:
                self.scores = dict(answer.scores)
            if answer.calibration is not None:  # by which the model's own probabilities became those of the scores
                self.parameters = {**self.parameters, "calibration": answer.calibration}
            usage = usage or answer.usage
        if usage is not None:
            self.prompt_tokens, self.cached_tokens = usage.prompt_tokens, usage.cached_tokens
            self.completion_tokens = usage.completion_tokens
        self.latency_s = time.monotonic() - self._began
        self._tell(cast("Told", self.__dict__))


def _message(answer: Whole) -> Mapping[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.calls:
        said["tool_calls"] = tuple(answer.calls)
    return said
