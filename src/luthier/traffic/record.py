"""What is kept of one request to a model, and of what people said about its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

from luthier.core.described import described
from luthier.text.messages import Message

Asked = Literal["chat", "completion", "embedding", "label"]
Finish = Literal["stop", "length", "tool_calls", "cancelled", "error"]
"""`cancelled`: whoever asked went away, or the deadline passed, before the answer was whole."""
Arm = Literal["stable", "canary", "shadow"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=described)


class Trace(_Record):
    """One request and its answer."""

    id: str
    """The id that whoever asked was given; feedback names it."""
    at: AwareDatetime
    """When the request came."""
    asked: Asked = "chat"
    model: str
    """The name that was asked for, such as `support@prod`."""
    release: str = ""
    """Digest of the model that answered, its adapter included; empty where that is not known."""
    arm: Arm = "stable"
    messages: tuple[Message, ...] = ()
    """What was asked; a plain text stands as one user turn."""
    answer: Message | None = None
    """None where no answer was made."""
    finish: Finish = "stop"
    status: int = 200
    """The HTTP status."""
    error: str = ""
    prompt_tokens: int = Field(default=0, ge=0)
    cached_tokens: int = Field(default=0, ge=0)
    """Prompt tokens that were not computed again."""
    completion_tokens: int = Field(default=0, ge=0)
    latency_s: float = Field(default=0.0, ge=0)
    first_token_s: float | None = Field(default=None, ge=0)
    scores: dict[str, float] | None = None
    """Calibrated probability of each label, where the model chooses one; the answer says the likeliest."""
    user: str | None = None
    """Whoever asked, as the application names them."""
    key: str | None = None
    """The name of the key that the request came with."""
    consent: bool = True
    """Whether it may be learnt from."""
    parameters: dict[str, Any] = {}
    """Sampling and limits as they were asked for; `calibration` is the temperature by which `scores` were made to mean
    what they say."""
    meta: dict[str, str] = {}
    """What the application said of the request (OpenAI's `metadata`)."""


def label_meant(trace: Trace, label: str) -> str:
    """The class that a person named, as the model writes it: "Billing " is billing."""
    written = () if trace.answer is None else (trace.answer.content,)
    meant = label.strip().casefold()
    return next((one for one in (*written, *(trace.scores or ())) if one.strip().casefold() == meant), label)


TraceStart = Mapping[str, Any]
"""What is known of a request while the model is at work, by the names of a trace's fields."""
TraceEnd = tuple[Any, ...]
"""What is known of it at its end only, in the order of `END_FIELDS`."""
END_FIELDS = (
    *("answer", "finish", "status", "error", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("latency_s", "first_token_s", "scores"),
)


def without_defaults(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a trace in JSON without those that are as they are by default."""
    found = _without(_TRACE, trace)
    if "messages" in found:
        found["messages"] = [_without(_MESSAGE, one) for one in found["messages"]]
    if "answer" in found:
        found["answer"] = _without(_MESSAGE, found["answer"])
    return found


def _without(defaults: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in value.items() if name not in defaults or one != defaults[name]}


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    fields = kind.model_fields.items()
    return {name: to_jsonable_python(field.default) for name, field in fields if not field.is_required()}


_TRACE, _MESSAGE = _defaults(Trace), _defaults(Message)


class Feedback(_Record):
    """What somebody said about one answer; several may say something, and of one person the last counts."""

    trace: str
    """The id of the request."""
    at: AwareDatetime
    by: str = ""
    """Who says it."""
    rating: float | None = Field(default=None, ge=-1, le=1)
    """From -1 (bad) to 1 (good): a thumb is one of the two."""
    label: str | None = None
    """The true class."""
    correction: str | None = None
    """What the answer should have been."""
    comment: str = ""
