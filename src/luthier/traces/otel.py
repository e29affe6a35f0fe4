"""Traces as OpenTelemetry has them: spans with the GenAI conventions' attributes, in and out.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ (1.38), and, inwards, the older flat attributes
(`gen_ai.prompt.0.content`). What the conventions have no name for is `luthier.…`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from luthier.chat.messages import Message, ToolCall
from luthier.core.errors import MissingExtra
from luthier.traces.record import Operation, Trace, Variant, normalize_finish_reason, parse_message

_OPERATIONS: dict[Operation, str] = {
    "chat": "chat",
    "completion": "text_completion",
    "embedding": "embeddings",
    "label": "classify",
}
_ASKED: dict[str, Operation] = {operation: name for name, operation in _OPERATIONS.items()} | {
    "completion": "completion"
}
_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "n": "gen_ai.request.choice.count",
}
_FLAT = re.compile(r"gen_ai\.(prompt|completion)\.(\d+)\.(role|content|finish_reason)")
_TO_NS = 1_000_000_000


def build_span_attributes(trace: Trace) -> dict[str, Any]:
    """Build the OpenTelemetry attributes of a trace's span; unknown values are left out."""
    found: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS[trace.operation],
        "gen_ai.provider.name": "luthier",
        "gen_ai.request.model": trace.model,
        "gen_ai.response.id": trace.id,
        "gen_ai.response.finish_reasons": [trace.finish_reason],
        "gen_ai.usage.input_tokens": trace.prompt_tokens,
        "gen_ai.usage.output_tokens": trace.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": trace.cached_tokens,
        "http.response.status_code": trace.status,
        "luthier.variant": trace.variant,
        "luthier.consent": trace.consent,
    }
    found |= {name: value for name, value in _known(trace).items() if value}
    for name, value in trace.parameters.items():
        found[_PARAMETERS.get(name, f"luthier.parameter.{name}")] = _plain(value)
    return found | {f"luthier.meta.{name}": value for name, value in trace.meta.items()}


def _known(trace: Trace) -> dict[str, Any]:
    return {
        "gen_ai.response.model": trace.release,
        "gen_ai.input.messages": json.dumps([_parts(message) for message in trace.messages], ensure_ascii=False),
        "gen_ai.output.messages": trace.answer
        and json.dumps([_parts(trace.answer) | {"finish_reason": trace.finish_reason}]),
        "gen_ai.response.time_to_first_chunk": trace.first_token_s,
        "error.type": trace.error,
        "user.id": trace.user,
        "luthier.key": trace.key,
        "luthier.scores": trace.scores and json.dumps(trace.scores),
        "luthier.label_set": None if trace.label_set is None else json.dumps(trace.label_set),
    }


def _plain(value: Any) -> Any:
    """A value that an attribute may have: texts, numbers, yes or no, and lists of texts."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(entry, str) for entry in value):
        return list(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _parts(turn: Message) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "reasoning", "content": turn.thinking}] if turn.thinking else []
    if turn.role == "tool":
        return {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": turn.tool_call_id, "result": turn.content}],
        }
    parts += [{"type": "text", "content": turn.content}] if turn.content or not turn.tool_calls else []
    parts += [
        {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments} for call in turn.tool_calls
    ]
    return {"role": turn.role, "parts": parts}


def write_otlp(path: Path, traces: Iterable[Trace]) -> int:
    """Write OTLP's JSON lines, as a collector's file exporter does; returns how many spans."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for trace in traces:
            scope = {"scope": {"name": "luthier"}, "spans": [_span(trace)]}
            resource = {"attributes": [_attribute("service.name", "luthier")]}
            line = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def _span(trace: Trace) -> dict[str, Any]:
    trace_id, span_id = _ids(trace)
    begin = _ns(trace.timestamp)
    return {
        "traceId": f"{trace_id:032x}",
        "spanId": f"{span_id:016x}",
        "name": f"{_OPERATIONS[trace.operation]} {trace.model}",
        "kind": 2,
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": str(begin + int(trace.latency_s * _TO_NS)),
        "attributes": [_attribute(name, value) for name, value in build_span_attributes(trace).items()],
        "status": {"code": 2, "message": trace.error} if trace.error else {},
    }


def _ids(trace: Trace) -> tuple[int, int]:
    """The ids of a span, made of the request's: sent twice, it is the same span."""
    digest = hashlib.sha256(trace.id.encode()).digest()
    return int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1


def _ns(at: datetime) -> int:
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000


def _attribute(name: str, value: Any) -> dict[str, Any]:
    return {"key": name, "value": _value(value)}


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(entry) for entry in value]}}
    return {"stringValue": str(value)}


def send_otlp(url: str, traces: Iterable[Trace]) -> int:
    """Send spans to a collector (OTLP over HTTP, as `http://localhost:4318/v1/traces`); returns how many."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtra("OpenTelemetry is not installed", hint="pip install 'luthier[otel]'") from error
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.trace import SpanKind, Status, StatusCode

    class Ids(IdGenerator):
        """Gives the ids that are made of the request's, where the SDK would draw them."""

        next = (1, 1)

        def generate_trace_id(self) -> int:
            return self.next[0]

        def generate_span_id(self) -> int:
            return self.next[1]

    provider = TracerProvider(resource=Resource.create({"service.name": "luthier"}), id_generator=(ids := Ids()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    tracer, count = provider.get_tracer("luthier"), 0
    for trace in traces:
        ids.next = _ids(trace)
        begin, name = _ns(trace.timestamp), f"{_OPERATIONS[trace.operation]} {trace.model}"
        span = tracer.start_span(name, kind=SpanKind.SERVER, start_time=begin, attributes=build_span_attributes(trace))
        if trace.error:
            span.set_status(Status(StatusCode.ERROR, trace.error))
        span.end(begin + int(trace.latency_s * _TO_NS))
        count += 1
        if count % 256 == 0:
            provider.force_flush()
    provider.shutdown()
    return count


def is_otlp(value: Mapping[str, Any]) -> bool:
    """Whether a line is one of OTLP's."""
    return "resourceSpans" in value


def extract_model_spans(value: Mapping[str, Any]) -> Iterator[Trace]:
    """The requests to models among the spans of a line; other spans are passed over."""
    for resource in value.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                attributes = {entry["key"]: _read(entry.get("value", {})) for entry in span.get("attributes", ())}
                if "gen_ai.request.model" in attributes or "gen_ai.response.model" in attributes:
                    yield _trace(span, attributes)


def _read(value: Mapping[str, Any]) -> Any:
    if "arrayValue" in value:
        return [_read(entry) for entry in value["arrayValue"].get("values", ())]
    if "intValue" in value:
        return int(value["intValue"])
    return next((value[name] for name in ("stringValue", "boolValue", "doubleValue") if name in value), None)


def _trace(span: Mapping[str, Any], attributes: Mapping[str, Any]) -> Trace:
    begin, end = int(span.get("startTimeUnixNano", 0)), int(span.get("endTimeUnixNano", 0))
    failed = span.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR")
    error = str(attributes.get("error.type") or (span.get("status", {}).get("message") or "error" if failed else ""))
    reasons = attributes.get("gen_ai.response.finish_reasons") or [None]
    scores, label_set = attributes.get("luthier.scores"), attributes.get("luthier.label_set")
    return Trace(
        id=str(attributes.get("gen_ai.response.id") or span.get("spanId") or ""),
        timestamp=datetime.fromtimestamp(begin / _TO_NS, UTC).replace(microsecond=begin // 1000 % 1_000_000),
        operation=_ASKED.get(str(attributes.get("gen_ai.operation.name")), "chat"),
        model=str(attributes.get("gen_ai.request.model") or attributes.get("gen_ai.response.model")),
        release=str(attributes.get("gen_ai.response.model") or ""),
        variant=_variant(attributes.get("luthier.variant")),
        messages=_asked_of(attributes),
        answer=_answer_of(attributes),
        finish_reason=normalize_finish_reason(reasons[0] if isinstance(reasons, list) else reasons, failed=bool(error)),
        status=int(attributes.get("http.response.status_code", 500 if failed else 200)),
        error=error,
        prompt_tokens=int(attributes.get("gen_ai.usage.input_tokens", attributes.get("gen_ai.usage.prompt_tokens", 0))),
        cached_tokens=int(attributes.get("gen_ai.usage.cache_read.input_tokens", 0)),
        completion_tokens=int(
            attributes.get("gen_ai.usage.output_tokens", attributes.get("gen_ai.usage.completion_tokens", 0))
        ),
        latency_s=max(0, end - begin) / _TO_NS,
        first_token_s=attributes.get("gen_ai.response.time_to_first_chunk"),
        scores=json.loads(scores) if scores else None,
        label_set=json.loads(label_set) if label_set else None,
        user=attributes.get("user.id", attributes.get("enduser.id")),
        key=attributes.get("luthier.key"),
        consent=bool(attributes.get("luthier.consent", True)),
        parameters=_parameters(attributes),
        meta={name.removeprefix(_META): str(value) for name, value in attributes.items() if name.startswith(_META)},
    )


_META, _PARAMETER = "luthier.meta.", "luthier.parameter."


def _variant(value: Any) -> Variant:
    return value if value in ("canary", "shadow") else "stable"


def _parameters(attributes: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: attributes[theirs] for name, theirs in _PARAMETERS.items() if theirs in attributes}
    return found | {
        name.removeprefix(_PARAMETER): value for name, value in attributes.items() if name.startswith(_PARAMETER)
    }


def _asked_of(attributes: Mapping[str, Any]) -> tuple[Message, ...]:
    system = [
        parse_message({"role": "system", "content": _said(part)})
        for part in _list(attributes, "gen_ai.system_instructions")
    ]
    turns = [_turn(turn) for turn in _list(attributes, "gen_ai.input.messages")]
    return (*system, *(turns or _flat(attributes, "prompt")))


def _answer_of(attributes: Mapping[str, Any]) -> Message | None:
    turns = [_turn(turn, "assistant") for turn in _list(attributes, "gen_ai.output.messages")] or _flat(
        attributes, "completion"
    )
    return turns[0].model_copy(update={"role": "assistant"}) if turns else None


def _list(attributes: Mapping[str, Any], name: str) -> list[Any]:
    """An attribute that is a list, mostly as JSON text."""
    value = attributes.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [{"role": "user", "content": value}]
    return value if isinstance(value, list) else []


def _turn(turn: Any, default: str = "user") -> Message:
    if not isinstance(turn, Mapping) or "parts" not in turn:
        return parse_message(turn)
    parts = [part for part in turn["parts"] if isinstance(part, Mapping)]
    answered = next((part for part in parts if part.get("type") == "tool_call_response"), None)
    message = parse_message({"role": turn.get("role", default), "content": "".join(map(_said, parts))})
    return message.model_copy(
        update={
            "thinking": "".join(str(part.get("content", "")) for part in parts if part.get("type") == "reasoning"),
            "tool_calls": tuple(_called(part) for part in parts if part.get("type") == "tool_call"),
            "tool_call_id": answered.get("id") if answered else None,
        }
    )


def _said(part: Any) -> str:
    if not isinstance(part, Mapping):
        return str(part)
    kind = part.get("type", "text")
    if kind == "tool_call_response":
        result = part.get("result", part.get("response", ""))
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    if kind in ("reasoning", "tool_call"):
        return ""
    return str(part.get("content", "")) if kind == "text" else f"<{part.get('modality', kind)}>"


def _called(part: Mapping[str, Any]) -> ToolCall:
    return parse_message({"role": "assistant", "tool_calls": [{"id": part.get("id"), "function": part}]}).tool_calls[0]


def _flat(attributes: Mapping[str, Any], which: str) -> list[Message]:
    """Turns of the older conventions: `gen_ai.prompt.0.role`, `gen_ai.prompt.0.content`."""
    turns: dict[int, dict[str, Any]] = {}
    for name, value in attributes.items():
        if (match := _FLAT.fullmatch(name)) and match[1] == which:
            turns.setdefault(int(match[2]), {})[match[3]] = value
    default = "user" if which == "prompt" else "assistant"
    return [parse_message({"role": default} | turns[index]) for index in sorted(turns)]
