"""One request from its coming to its end: what will be its trace, told once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from luthier.serve.query import Usage, Whole
from luthier.serve.refusal import Refusal
from luthier.text.messages import Message
from luthier.traffic.record import Arm, Asked, Finish, Told

CLOSED = 499
"""The status of a request whose client went away before it was answered."""


class Case:
    """A request that is under way."""

    def __init__(self, prefix: str, asked: Asked, tell: Callable[[Told], None], key: str | None) -> None:
        self.id = f"{prefix}-{secrets.token_hex(14)}"
        self.at = datetime.now(UTC)
        self.asked: Asked = asked
        self.model, self.release = "", ""
        self.arm: Arm = "stable"
        self.messages: tuple[Message, ...] = ()
        self.user: str | None = None
        self.consent = True
        self.parameters: dict[str, Any] = {}
        self.meta: dict[str, str] = {}
        self._key, self._tell = key, tell
        self._began = time.monotonic()
        self._first_s: float | None = None
        self._told = False

    def shadow(self) -> Case:
        """The case of a shadow that is asked the same."""
        other = Case(self.id.partition("-")[0], self.asked, self._tell, self._key)
        other.model, other.messages, other.user, other.consent = self.model, self.messages, self.user, self.consent
        other.parameters, other.meta, other.arm = self.parameters, {**self.meta, "shadow_of": self.id}, "shadow"
        return other

    def first(self) -> None:
        """The first piece of the answer is there."""
        if self._first_s is None:
            self._first_s = time.monotonic() - self._began

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
        if self._told:
            return
        self._told = True
        took = usage or (answer.usage if answer else Usage())
        said = answer is not None and (status == 200 or bool(answer.text or answer.calls))
        told: Told = {
            "id": self.id,
            "at": self.at,
            "asked": self.asked,
            "model": self.model,
            "release": self.release,
            "arm": self.arm,
            "messages": [one.__dict__ for one in self.messages],
            "answer": _message(answer) if answer is not None and said else None,
            "finish": finish,
            "status": status,
            "error": error,
            "prompt_tokens": took.prompt_tokens,
            "cached_tokens": took.cached_tokens,
            "completion_tokens": took.completion_tokens,
            "latency_s": time.monotonic() - self._began,
            "first_token_s": self._first_s,
            "scores": dict(answer.scores) if answer is not None and answer.scores else None,
            "user": self.user,
            "key": self._key,
            "consent": self.consent,
            "parameters": _parameters(self.parameters, answer),
            "meta": self.meta,
        }
        self._tell(told)


def _message(answer: Whole) -> Mapping[str, Any]:
    said: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.calls:
        said["tool_calls"] = tuple(answer.calls)
    return said


def _parameters(asked: dict[str, Any], answer: Whole | None) -> dict[str, Any]:
    """With that by which the model's own probabilities became those that the trace holds."""
    if answer is None or answer.calibration is None:
        return asked
    return {**asked, "calibration": answer.calibration}
