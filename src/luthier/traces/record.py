"""Traces and feedback: the records of a request, and the protocols between server and recorder.

Irregular requests and responses of the OpenAI API are recorded with a note instead of being refused.

The gateway knows only these protocols: a resolver maps a name to a route, and a recorder receives each request.
`Route.model` is a name that the gateway's models know (`recipe.yaml:tune`, a base model, an artifact's digest). Aliases
such as `support@prod` are known to the resolver alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_jsonable_python

from luthier.chat.messages import MEDIA_MARK, Media, Message, Role, ToolCall
from luthier.core.component import add_field_descriptions
from luthier.core.errors import LuthierError

if TYPE_CHECKING:
    from luthier.chat.media_codec import KeptMedia

Operation = Literal["chat", "completion", "embedding", "label"]
Finish = Literal["stop", "length", "tool_calls", "cancelled", "error"]
"""`cancelled`: whoever asked went away, or the deadline passed, before the answer was whole."""
Variant = Literal["stable", "canary", "shadow"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)


class Trace(_Record):
    """One request and its answer."""

    id: str
    """The id that whoever asked was given; feedback names it."""
    timestamp: AwareDatetime
    """When the request came."""
    operation: Operation = "chat"
    model: str
    """The name that was asked for, such as `support@prod`."""
    release: str = ""
    """Digest of the model that answered, its adapter included; empty where that is not known."""
    variant: Variant = "stable"
    messages: tuple[Message, ...] = ()
    """What was asked; a plain text stands as one user turn."""
    answer: Message | None = None
    """None where no answer was made."""
    finish_reason: Finish = "stop"
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
    label_set: tuple[str, ...] | None = None
    """The labels that the answer may be, where the request asked for them; with one label it stands, else the model
    abstained."""
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


def match_label_spelling(trace: Trace, label: str) -> str:
    """The class that a person named, as the model writes it: "Billing " is billing."""
    written = () if trace.answer is None else (trace.answer.content,)
    meant = label.strip().casefold()
    return next((score for score in (*written, *(trace.scores or ())) if score.strip().casefold() == meant), label)


TraceStart = Mapping[str, Any]
"""What is known of a request while the model is at work, by the names of a trace's fields."""
TraceEnd = tuple[Any, ...]
"""What is known of it at its end only, in the order of `END_FIELDS`."""
END_FIELDS = (
    *("answer", "finish_reason", "status", "error", "prompt_tokens", "cached_tokens", "completion_tokens"),
    *("latency_s", "first_token_s", "scores", "label_set"),
)


def strip_trace_defaults(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a trace in JSON without those that are as they are by default."""
    found = _without(_TRACE, trace)
    if "messages" in found:
        found["messages"] = [_without(_MESSAGE, entry) for entry in found["messages"]]
    if "answer" in found:
        found["answer"] = _without(_MESSAGE, found["answer"])
    return found


def _without(defaults: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in value.items() if name not in defaults or entry != defaults[name]}


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    fields = kind.model_fields.items()
    return {name: to_jsonable_python(field.default) for name, field in fields if not field.is_required()}


_TRACE, _MESSAGE = _defaults(Trace), _defaults(Message)


FeedbackRole = Literal["user", "reviewer", "owner"]
"""Who says it: somebody who used the answer, a reviewer, or whoever decides between several reviewers."""
ROLES: tuple[FeedbackRole, ...] = get_args(FeedbackRole)


class FailureSpan(_Record):
    """A part of an answer that is wrong."""

    start: int = Field(ge=0)
    """The first character, counted from the beginning of the answer."""
    end: int = Field(ge=1)
    """The character after the last."""
    type: str = Field(default="", max_length=100)
    """What is wrong with it."""

    @model_validator(mode="after")
    def _holds_something(self) -> FailureSpan:
        if self.start >= self.end:
            raise ValueError("`start` is not before `end`")
        return self


class Feedback(_Record):
    """What somebody said about one answer; several may say something, and of one person the last counts."""

    trace: str
    """The id of the request."""
    timestamp: AwareDatetime
    by: str = ""
    """Who says it."""
    rating: float | None = Field(default=None, ge=-1, le=1)
    """From -1 (bad) to 1 (good): a thumb is one of the two."""
    label: str | None = None
    """The true class."""
    correction: str | None = None
    """What the answer should have been."""
    comment: str = ""
    types: tuple[str, ...] = ()
    """The types of failure that the answer shows, such as `wrong tone`."""
    spans: tuple[FailureSpan, ...] = ()
    """Parts of the answer that are wrong."""
    role: FeedbackRole = "user"
    """What an owner says counts before what reviewers say, and that before what users say."""
    probability: float | None = Field(default=None, gt=0, le=1)
    """The chance with which the request was drawn for review; None for what nobody drew."""


def list_decisive(feedback: Iterable[Feedback], field: str) -> list[Any]:
    """What was said of one field by those whose word counts most, in order of time; empty where nobody spoke of it."""
    opinions = [entry for entry in feedback if getattr(entry, field) not in (None, "", ())]
    highest = max((ROLES.index(opinion.role) for opinion in opinions), default=0)
    decisive = [opinion for opinion in opinions if ROLES.index(opinion.role) == highest]
    return [getattr(entry, field) for entry in sorted(decisive, key=lambda entry: entry.timestamp)]


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "error": "error",
    "cancelled": "cancelled",
}
_NOT_PARAMETERS = frozenset(("model", "messages", "prompt", "input", "user", "metadata", "stream", "stream_options"))


class RequestOutcome(NamedTuple):
    """How a request went, apart from what was said."""

    id: str
    timestamp: datetime
    latency_s: float = 0.0
    first_token_s: float | None = None
    status: int = 200
    error: str = ""
    meta: Mapping[str, str] = {}


def build_trace(
    request: Mapping[str, Any],
    response: Mapping[str, Any] | None,
    outcome: RequestOutcome,
    media: dict[Media, bytes] | None = None,
) -> Trace:
    """A request and what came back; the bytes of its pictures and sounds are put into `media`."""
    response = response or {}
    choice = _first(response.get("choices"))
    usage = _mapping(response.get("usage"))
    user, metadata = request.get("user"), _mapping(request.get("metadata"))
    answer = _answer(choice)
    return Trace(
        id=outcome.id,
        timestamp=outcome.timestamp,
        operation=_asked(request),
        model=str(request.get("model") or response.get("model") or "unknown"),
        messages=tuple(_asked_messages(request, media)),
        answer=answer,
        finish_reason=normalize_finish_reason(
            choice.get("finish_reason"), failed=bool(outcome.error) or outcome.status >= 400
        ),
        status=outcome.status,
        error=outcome.error,
        prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        cached_tokens=_count(_mapping(usage.get("prompt_tokens_details")), "cached_tokens"),
        completion_tokens=_count(usage, "completion_tokens", "output_tokens"),
        latency_s=max(0.0, outcome.latency_s),
        first_token_s=outcome.first_token_s,
        user=str(user) if user is not None else None,
        parameters={name: value for name, value in request.items() if name not in _NOT_PARAMETERS},
        meta={**{str(name): str(value) for name, value in metadata.items()}, **outcome.meta},
    )


def parse_message(turn: Any, default: Role = "user", media: dict[Media, bytes] | None = None) -> Message:
    """One turn, as a mapping or a text. Pictures and sounds whose bytes stand in it are named, and put into `media`;
    others leave a mark such as `<image>`."""
    if not isinstance(turn, Mapping):
        return Message(role=default, content=content_to_text(turn))
    calls = turn.get("tool_calls") or ()
    content, found = _read_content(turn.get("content"))
    if media is not None:
        media |= {kept.media: kept.content for kept in found}
    return Message(
        role=_ROLES.get(str(turn.get("role", default)).lower(), default),
        content=content,
        media=tuple(kept.media for kept in found),
        thinking=content_to_text(turn.get("reasoning_content")),
        tool_calls=tuple(_call(call) for call in calls if isinstance(call, Mapping)),
        tool_call_id=_optional(turn.get("tool_call_id")),
        name=_optional(turn.get("name")),
    )


def _read_content(content: Any) -> tuple[str, list[KeptMedia]]:
    """The words of a content with U+FFFC in the place of each picture and sound that can be read, and these."""
    if not isinstance(content, list):
        return content_to_text(content), []
    found = [(part, _read_medium(part)) for part in content]
    media = [kept for _, kept in found if kept is not None]
    if not media:
        return content_to_text(content), []
    texts = [_part(part).replace(MEDIA_MARK, "") if kept is None else MEDIA_MARK for part, kept in found]
    return "".join(texts), media


def _read_medium(part: Any) -> KeptMedia | None:
    """The picture or sound that a part brings in base64, as OpenAI's API takes it; None for anything else."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    value = _mapping(part.get(kind)) if kind in ("image_url", "input_audio") else {}
    text = value.get("url") if kind == "image_url" else value.get("data")
    if not isinstance(text, str) or (kind == "image_url" and not text.startswith("data:")):
        return None
    from luthier.chat.media_codec import keep_media

    try:
        return keep_media(base64.b64decode(text.partition(",")[2] if kind == "image_url" else text, validate=True))
    except (ValueError, LuthierError):  # broken, or no library here that reads it: the request is recorded all the same
        return None


def content_to_text(content: Any) -> str:
    """The words of a content: a text, or parts of which those that are none leave a mark."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(_part(part) for part in content)
    return json.dumps(content, ensure_ascii=False, default=str)


def _part(part: Any) -> str:
    if not isinstance(part, Mapping):
        return content_to_text(part)
    found = part.get("text", part.get("content"))
    if isinstance(found, str):
        return found
    return f"<{str(part.get('type', 'part')).removesuffix('_url').removeprefix('input_')}>"


def normalize_finish_reason(reason: Any, *, failed: bool = False) -> Finish:
    """Why an answer ended."""
    if reason is None:
        return "error" if failed else "stop"
    return _FINISHES.get(str(reason).lower(), "stop")


def assemble_stream_chunks(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What pieces of a stream come to, as if it had come at once (of several answers, the first)."""
    whole: dict[str, Any] = {}
    texts, thought, reason, calls = list[str](), list[str](), None, dict[int, dict[str, Any]]()
    for chunk in chunks:
        whole |= {name: chunk[name] for name in ("id", "model", "created", "usage") if chunk.get(name)}
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            delta = _mapping(choice.get("delta"))
            texts.append(content_to_text(choice.get("text") if "text" in choice else delta.get("content")))
            thought.append(content_to_text(delta.get("reasoning_content")))
            reason = choice.get("finish_reason") or reason
            for call in delta.get("tool_calls") or ():
                _join(calls.setdefault(int(call.get("index", 0)), {}), call)
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts), "reasoning_content": "".join(thought)}
    turn["tool_calls"] = [calls[index] for index in sorted(calls)]
    return {**whole, "choices": [{"index": 0, "message": turn, "finish_reason": reason}]}


def _join(call: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add a piece to a call that comes in pieces."""
    call["id"] = piece.get("id") or call.get("id")
    made = call.setdefault("function", {"name": "", "arguments": ""})
    for name, value in _mapping(piece.get("function")).items():
        if isinstance(value, str) and name in made:
            made[name] += value


def _answer(choice: Mapping[str, Any]) -> Message | None:
    if "message" in choice:
        return parse_message(choice["message"], "assistant")
    return Message(role="assistant", content=content_to_text(choice["text"])) if "text" in choice else None


def _asked(request: Mapping[str, Any]) -> Operation:
    if "messages" in request:
        return "chat"
    return "embedding" if "input" in request else "completion"


def _asked_messages(request: Mapping[str, Any], media: dict[Media, bytes] | None) -> list[Message]:
    if isinstance(request.get("messages"), Sequence) and not isinstance(request["messages"], str):
        return [parse_message(turn, media=media) for turn in request["messages"]]
    found = request.get("prompt", request.get("input", request.get("messages")))
    every = found if isinstance(found, list) and found and isinstance(found[0], str) else [found]
    return [Message(role="user", content=content_to_text(entry)) for entry in every if entry is not None]


def _call(call: Mapping[str, Any]) -> ToolCall:
    function = _mapping(call.get("function")) or call
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = {"_": arguments}
    if not isinstance(arguments, dict):
        arguments = {"_": arguments}
    return ToolCall(name=str(function.get("name", "")), arguments=arguments, id=_optional(call.get("id")))


def _first(choices: Any) -> Mapping[str, Any]:
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


def _count(usage: Mapping[str, Any], *names: str) -> int:
    found = next((usage[name] for name in names if isinstance(usage.get(name), int)), 0)
    return max(0, int(found))


class RequestRecorder(Protocol):
    """The interface that receives every finished request, failed ones included."""

    def ready(self, start: TraceStart) -> Any:
        """Take the beginning of a trace while the model is at work; returns what `end` is given, None where no trace is
        to be kept."""
        ...

    def end(self, ready: Any, end: TraceEnd) -> None:
        """Take the end of a trace. It is called on the request's own path: it neither waits nor raises."""
        ...

    def keep_media(self, media: Mapping[Media, bytes]) -> None:
        """Take the bytes of the pictures and sounds of a request that was answered and may be learnt from; it neither
        waits nor raises."""
        ...


@dataclass(frozen=True, kw_only=True)
class Route:
    """Who answers one request."""

    model: str
    """The open model that answers."""
    release: str = ""
    """Digest of what answers, where the resolver knows it; else the open model's own."""
    variant: Variant = "stable"
    shadow: str | None = None
    """An open model that is asked the same, unheard; its trace has `variant: shadow`."""


class AliasResolver(Protocol):
    """The interface that resolves an alias to the model that answers it at this moment. It is asked once a request, and
    what it said holds to its end."""

    def names(self) -> Sequence[str]:
        """The names that can be asked for, beside those of the open models."""
        ...

    def resolve(self, name: str, user: str | None, request: str = "") -> Route | None:
        """Who answers to a name; None when it is none of the resolver's names. It does not wait. `request` is the
        request's id, which decides where no user is named."""
        ...

    def owners(self) -> Mapping[str, str | None]:
        """Names, and words by which models are open, that belong to one key: by each, the key's name. All others are
        everybody's."""
        ...


class OpenModelManager(Protocol):
    """The interface to open and close the gateway's models when an alias changes."""

    async def prepare(self, model: str) -> str:
        """Open a model if it is not open, and return its digest; what was wrong is raised before any alias moves."""
        ...

    async def retire(self, model: str) -> None:
        """Close a model once the last request that it answers is over."""
        ...
