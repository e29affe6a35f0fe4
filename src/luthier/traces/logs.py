"""Logs of other tools, taken in as traffic: JSON lines with requests and answers, OpenTelemetry, our own lines.

A line is recognised by itself: our own records; OTLP (`resourceSpans`); a pair of `request` and `response` (or `input`
and `output`) in OpenAI's shape; or one mapping with `messages` (or `prompt`, `question`, …) and `response` (or
`completion`, `answer`, `output`, …). Opinions that stand in a line (`rating`, `label`, `correction`, …) come along.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luthier.core.errors import DataError, SourceLocation
from luthier.traces.otel import extract_model_spans, is_otlp
from luthier.traces.record import Feedback, RequestOutcome, Trace, build_trace

_MOMENTS = ("at", "timestamp", "time", "created_at", "startTime", "start_time", "created", "date", "datetime", "ts")
_ASKED = ("messages", "prompt", "question", "query", "input", "instruction", "text")
_ANSWERED = ("response", "completion", "answer", "output", "prediction", "generated_text", "assistant")
_LATENCIES = {
    "latency_s": 1.0,
    "latency": 1.0,
    "duration": 1.0,
    "duration_s": 1.0,
    "latency_ms": 1e-3,
    "duration_ms": 1e-3,
}
_IDS = ("id", "request_id", "trace_id", "traceId", "uuid")
_KNOWN = frozenset((*_MOMENTS, *_ASKED, *_ANSWERED, *_LATENCIES, *_IDS, "model", "user", "user_id", "status", "usage"))


def hash_log_file(path: Path) -> str:
    """What a log is known by: its content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_log_records(path: Path, model: str = "unknown") -> Iterator[Trace | Feedback]:
    """Every request of a log, and what was said of it; `DataError` names the first line that cannot be used.

    `model` is the name of the model where a line has none.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                try:
                    yield from _records(json.loads(raw), f"{path.stem}-{number}", model)
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                    raise _unusable(path, number, error) from error


def _unusable(path: Path, line: int, error: Exception) -> DataError:
    what = "no JSON" if isinstance(error, json.JSONDecodeError) else _describe_error(error)
    hint = "lines are requests with `messages` and `response`, OTLP, or our own records; leave this line out"
    return DataError(f"cannot be read as a request: {what}", where=SourceLocation(file=str(path), line=line), hint=hint)


def _describe_error(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error) or type(error).__name__


def _records(value: Any, name: str, model: str) -> Iterator[Trace | Feedback]:
    if not isinstance(value, dict):
        raise TypeError(f"expected a mapping, got {type(value).__name__}")
    if is_otlp(value):
        yield from extract_model_spans(value)
    elif isinstance(value.get("trace"), str) or _is_own(value):
        yield from parse_own_log_line(value)
    else:
        trace = _foreign(value, name, model)
        yield trace
        yield from _said(value, trace)


def parse_own_log_line(value: Mapping[str, Any]) -> Iterator[Trace | Feedback]:
    """A line of ours: a request with what was said of it, as `luthier traces export` writes it, or feedback alone."""
    if "trace" in value:
        yield Feedback.model_validate(value)
        return
    trace = Trace.model_validate({name: item for name, item in value.items() if name != "feedback"})
    yield trace
    yield from (Feedback.model_validate({**entry, "trace": trace.id}) for entry in value.get("feedback", ()))


def _is_own(value: Mapping[str, Any]) -> bool:
    return {"id", "timestamp", "model"} <= value.keys() and value.keys() <= {*Trace.model_fields, "feedback"}


def _foreign(value: Mapping[str, Any], name: str, model: str) -> Trace:
    request, response = _pair(value)
    request = {"model": value.get("model") or model, **request}
    seconds = next((float(value[key]) * unit for key, unit in _LATENCIES.items() if value.get(key) is not None), 0.0)
    outcome = RequestOutcome(
        id=str(next((value[key] for key in _IDS if value.get(key)), None) or _mapping(response).get("id") or name),
        timestamp=_moment(value, response),
        latency_s=seconds,
        status=int(value["status"]) if str(value.get("status", "")).isdigit() else 200,
        error=str(value.get("error") or ""),
        meta=_meta(value),
    )
    user = value.get("user", value.get("user_id"))
    return build_trace({**request, **({"user": user} if user is not None else {})}, response, outcome)


def _pair(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Request and response in OpenAI's shape."""
    for request_key, answered in (("request", "response"), ("input", "output"), ("body", "response")):
        if isinstance(value.get(request_key), dict) and (
            "messages" in value[request_key] or "prompt" in value[request_key]
        ):
            found = value.get(answered)
            found = found.get("body", found) if isinstance(found, dict) else found
            return value[request_key], found if isinstance(found, dict) and "choices" in found else _response(
                found, value
            )
    asked_by = next((key for key in _ASKED if value.get(key) is not None), None)
    if asked_by is None:
        raise KeyError(f"expected one of {', '.join(_ASKED)}")
    if isinstance(value.get("response"), dict) and "choices" in value["response"]:
        return _request(value[asked_by]), value["response"]
    answered_by = next((key for key in _ANSWERED if value.get(key) is not None and key != asked_by), None)
    return _request(value[asked_by]), _response(value[answered_by] if answered_by else None, value)


def _request(prompt: Any) -> dict[str, Any]:
    return {"messages": prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]}


def _response(completion: Any, value: Mapping[str, Any]) -> dict[str, Any] | None:
    """A plain answer in OpenAI's shape."""
    if completion is None:
        return None
    turn = (
        completion
        if isinstance(completion, dict) and "content" in completion
        else {"role": "assistant", "content": completion}
    )
    choice = {"message": turn, "finish_reason": value.get("finish_reason")}
    return {"choices": [choice], "usage": value.get("usage")}


def _moment(value: Mapping[str, Any], response: Mapping[str, Any] | None) -> datetime:
    found = next((value[key] for key in _MOMENTS if value.get(key) is not None), _mapping(response).get("created"))
    if found is None:
        raise KeyError(f"expected a moment in one of {', '.join(_MOMENTS)}")
    if isinstance(found, str) and not found.replace(".", "", 1).isdigit():
        at = datetime.fromisoformat(found)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    number = float(found)
    while number > 1e11:  # milliseconds, microseconds, nanoseconds
        number /= 1000
    return datetime.fromtimestamp(number, UTC)


def _said(value: Mapping[str, Any], trace: Trace) -> Iterator[Feedback]:
    """An opinion that stands in the line."""
    fields = {name: value[name] for name in ("rating", "label", "correction", "comment") if value.get(name) is not None}
    thumb = value.get("thumb", value.get("thumbs"))
    if thumb is not None and "rating" not in fields:
        fields["rating"] = 1.0 if str(thumb).lower() in ("up", "1", "true", "+1", "👍") else -1.0
    if fields:
        yield Feedback.model_validate({"trace": trace.id, "timestamp": trace.timestamp, **fields})


def _meta(value: Mapping[str, Any]) -> dict[str, str]:
    """Short columns that mean nothing here stay as they are."""
    names = {"request", "body", "error", "finish_reason", "thumb", "thumbs", "rating", "label", "correction", "comment"}
    return {
        str(name): str(inner)
        for name, inner in value.items()
        if name not in _KNOWN | names and isinstance(inner, str | int | float) and len(str(inner)) <= 512
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
