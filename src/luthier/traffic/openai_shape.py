"""Requests and answers as OpenAI's API has them, as records: whatever is odd is told in words rather than refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from luthier.text.messages import Message, Role, ToolCall
from luthier.traffic.record import Asked, Finish, Trace

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


class Course(NamedTuple):
    """How a request went, apart from what was said."""

    id: str
    at: datetime
    latency_s: float = 0.0
    first_token_s: float | None = None
    status: int = 200
    error: str = ""
    meta: Mapping[str, str] = {}


def trace_of(request: Mapping[str, Any], response: Mapping[str, Any] | None, course: Course) -> Trace:
    """A request and what came back."""
    response = response or {}
    choice = _first(response.get("choices"))
    usage = _mapping(response.get("usage"))
    user, metadata = request.get("user"), _mapping(request.get("metadata"))
    answer = _answer(choice)
    return Trace(
        id=course.id,
        at=course.at,
        asked=_asked(request),
        model=str(request.get("model") or response.get("model") or "unknown"),
        messages=tuple(_asked_messages(request)),
        answer=answer,
        finish=finish(choice.get("finish_reason"), failed=bool(course.error) or course.status >= 400),
        status=course.status,
        error=course.error,
        prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
        cached_tokens=_count(_mapping(usage.get("prompt_tokens_details")), "cached_tokens"),
        completion_tokens=_count(usage, "completion_tokens", "output_tokens"),
        latency_s=max(0.0, course.latency_s),
        first_token_s=course.first_token_s,
        user=str(user) if user is not None else None,
        parameters={name: value for name, value in request.items() if name not in _NOT_PARAMETERS},
        meta={**{str(name): str(value) for name, value in metadata.items()}, **course.meta},
    )


def message(turn: Any, default: Role = "user") -> Message:
    """One turn, as a mapping or a text."""
    if not isinstance(turn, Mapping):
        return Message(role=default, content=text(turn))
    calls = turn.get("tool_calls") or ()
    return Message(
        role=_ROLES.get(str(turn.get("role", default)).lower(), default),
        content=text(turn.get("content")),
        thinking=text(turn.get("reasoning_content")),
        tool_calls=tuple(_call(call) for call in calls if isinstance(call, Mapping)),
        tool_call_id=_optional(turn.get("tool_call_id")),
        name=_optional(turn.get("name")),
    )


def text(content: Any) -> str:
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
        return text(part)
    found = part.get("text", part.get("content"))
    if isinstance(found, str):
        return found
    return f"<{str(part.get('type', 'part')).removesuffix('_url').removeprefix('input_')}>"


def finish(reason: Any, *, failed: bool = False) -> Finish:
    """Why an answer ended."""
    if reason is None:
        return "error" if failed else "stop"
    return _FINISHES.get(str(reason).lower(), "stop")


def assembled(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What pieces of a stream come to, as if it had come at once (of several answers, the first)."""
    whole: dict[str, Any] = {}
    said, thought, reason, calls = list[str](), list[str](), None, dict[int, dict[str, Any]]()
    for chunk in chunks:
        whole |= {name: chunk[name] for name in ("id", "model", "created", "usage") if chunk.get(name)}
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            delta = _mapping(choice.get("delta"))
            said.append(text(choice.get("text") if "text" in choice else delta.get("content")))
            thought.append(text(delta.get("reasoning_content")))
            reason = choice.get("finish_reason") or reason
            for call in delta.get("tool_calls") or ():
                _join(calls.setdefault(int(call.get("index", 0)), {}), call)
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(said), "reasoning_content": "".join(thought)}
    turn["tool_calls"] = [calls[place] for place in sorted(calls)]
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
        return message(choice["message"], "assistant")
    return Message(role="assistant", content=text(choice["text"])) if "text" in choice else None


def _asked(request: Mapping[str, Any]) -> Asked:
    if "messages" in request:
        return "chat"
    return "embedding" if "input" in request else "completion"


def _asked_messages(request: Mapping[str, Any]) -> list[Message]:
    if isinstance(request.get("messages"), Sequence) and not isinstance(request["messages"], str):
        return [message(turn) for turn in request["messages"]]
    found = request.get("prompt", request.get("input", request.get("messages")))
    every = found if isinstance(found, list) and found and isinstance(found[0], str) else [found]
    return [Message(role="user", content=text(one)) for one in every if one is not None]


def _call(call: Mapping[str, Any]) -> ToolCall:
    told = _mapping(call.get("function")) or call
    arguments = told.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = {"_": arguments}
    if not isinstance(arguments, dict):
        arguments = {"_": arguments}
    return ToolCall(name=str(told.get("name", "")), arguments=arguments, id=_optional(call.get("id")))


def _first(choices: Any) -> Mapping[str, Any]:
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


def _count(usage: Mapping[str, Any], *names: str) -> int:
    found = next((usage[name] for name in names if isinstance(usage.get(name), int)), 0)
    return max(0, int(found))
