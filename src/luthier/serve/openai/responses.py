"""Read requests and write responses of the OpenAI API.

A request body must be JSON of bounded size and depth. A response is complete or a stream of chunks.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import ValidationError

from luthier.chat.messages import ToolCall
from luthier.serve.openai.protocol import APIError, RequestBody
from luthier.serve.request import AggregatedOutput, OutputChunk, TokenCandidate, TokenLogprobs, Usage

if TYPE_CHECKING:
    from starlette.requests import Request

    from luthier.models.embeddings.base import Points

Json = dict[str, Any]


class ResponseBuilder:
    """Builds the JSON responses and stream chunks of one request."""

    whole: str
    """`object` of a whole response."""
    part: str
    """`object` of a stream chunk."""

    def __init__(self, name: str, model: str, release: str) -> None:
        self.head: Json = {
            "id": name,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"lt_{release[:16]}" if release else None,
        }

    def warn(self, unused: Iterable[str]) -> None:
        """Say in every answer and chunk which settings of sampling change nothing."""
        why = "changes nothing: this model chooses the likeliest of its classes"
        self.head["warnings"] = [{"param": name, "message": f"{name} {why}"} for name in unused]

    def answer(self, answers: Sequence[AggregatedOutput], usage: Usage) -> Json:
        """All answers, whole."""
        choices = [self.choice(number, output) for number, output in enumerate(answers)]
        return {**self.head, "object": self.whole, "choices": choices, "usage": usage_json(usage)}

    def chunks(self, piece: OutputChunk, *, first: bool, usage: bool) -> Iterable[Json]:
        """Return stream chunks; with `usage`, each announces that the usage follows."""
        later = {"usage": None} if usage else {}
        for choice in self.deltas(piece, first=first):
            yield {**self.head, "object": self.part, "choices": [choice], **later}

    def last(self, usage: Usage) -> Json:
        """Return the chunk with a stream's usage."""
        return {**self.head, "object": self.part, "choices": [], "usage": usage_json(usage)}

    def choice(self, number: int, answer: AggregatedOutput) -> Json:
        """Return one complete answer."""
        raise NotImplementedError

    def deltas(self, piece: OutputChunk, *, first: bool) -> Iterable[Json]:
        """A piece, as entries of `choices`."""
        raise NotImplementedError


class ChatShape(ResponseBuilder):
    """`chat.completion`."""

    whole, part = "chat.completion", "chat.completion.chunk"

    def __init__(self, name: str, model: str, release: str, *, logprobs: bool) -> None:
        super().__init__(name, model, release)
        self._logprobs = logprobs
        self._calls: dict[int, int] = {}
        """How many calls each answer has made so far."""

    def choice(self, number: int, answer: AggregatedOutput) -> Json:
        """A message."""
        calls = {"tool_calls": [_call(call) for call in answer.calls]} if answer.calls else {}
        content = None if answer.calls and not answer.text else answer.text
        message = {"role": "assistant", "content": content, "refusal": None, **calls}
        body = {"index": number, "message": message, "logprobs": self._logprobs_json(answer.tokens)}
        return {**body, "finish_reason": answer.finish, **_scores(answer)}

    def deltas(self, piece: OutputChunk, *, first: bool) -> Iterable[Json]:
        """Return the new part of a message."""
        if first:
            yield self._delta(piece.answer, {"role": "assistant", "content": "", "refusal": None})
        if piece.text or piece.tokens:
            yield self._delta(piece.answer, {"content": piece.text}, self._logprobs_json(piece.tokens))
        for call in piece.calls:
            number = self._calls.get(piece.answer, 0)
            self._calls[piece.answer] = number + 1
            yield self._delta(piece.answer, {"tool_calls": [{"index": number, **_call(call)}]})
        if piece.finish is not None:
            yield {**self._delta(piece.answer, {}), "finish_reason": piece.finish, **_scores(piece)}

    def _delta(self, number: int, delta: Json, logprobs: Json | None = None) -> Json:
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _logprobs_json(self, tokens: Sequence[TokenLogprobs]) -> Json | None:
        if not self._logprobs:
            return None
        content = [
            {**_candidate(token.chosen), "top_logprobs": [_candidate(other) for other in token.top]} for token in tokens
        ]
        return {"content": content, "refusal": None}


class TextShape(ResponseBuilder):
    """`text_completion`."""

    whole = part = "text_completion"

    def __init__(self, name: str, model: str, release: str, *, logprobs: bool) -> None:
        super().__init__(name, model, release)
        self._logprobs = logprobs
        self._offsets: dict[int, int] = {}

    def choice(self, number: int, answer: AggregatedOutput) -> Json:
        """A text."""
        body = {"index": number, "text": answer.text, "logprobs": self._logprobs_json(number, answer.tokens)}
        return {**body, "finish_reason": answer.finish}

    def deltas(self, piece: OutputChunk, *, first: bool) -> Iterable[Json]:
        """Return the new part of a text."""
        body = {"index": piece.answer, "text": piece.text, "logprobs": self._logprobs_json(piece.answer, piece.tokens)}
        yield {**body, "finish_reason": piece.finish}

    def _logprobs_json(self, number: int, tokens: Sequence[TokenLogprobs]) -> Json | None:
        if not self._logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(number, 0))
            self._offsets[number] = offsets[-1] + len(token.chosen.text)
        return {
            "tokens": [token.chosen.text for token in tokens],
            "token_logprobs": [token.chosen.logprob for token in tokens],
            "top_logprobs": [
                None
                if token.chosen.logprob is None
                else {token_candidate.text: token_candidate.logprob for token_candidate in token.top}
                for token in tokens
            ],
            "text_offset": offsets,
        }


def usage_json(usage: Usage) -> Json:
    """Return the usage of a request."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def embeddings_json(points: Points, tokens: int, model: str, *, base64_wanted: bool) -> Json:
    """Points as OpenAI's API gives them: lists of numbers, or float32 in base64."""

    def encode(point: Any) -> Any:
        return base64.b64encode(point.astype("<f4").tobytes()).decode() if base64_wanted else point.tolist()

    data = [{"object": "embedding", "index": number, "embedding": encode(entry)} for number, entry in enumerate(points)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def format_sse_event(value: Json) -> bytes:
    """Format one server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


END = b"data: [DONE]\n\n"


def _candidate(one: TokenCandidate) -> Json:
    return {"token": one.text, "bytes": list(one.raw), "logprob": one.logprob}


def _call(call: ToolCall) -> Json:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _scores(answer: AggregatedOutput | OutputChunk) -> Json:
    """Return the labels' probabilities and the label set, in addition to OpenAI's fields."""
    found: Json = {} if answer.scores is None else {"scores": dict(answer.scores)}
    if answer.label_set is not None:
        labels, level = answer.label_set
        found["label_set"] = {"labels": list(labels), "level": level, "abstains": len(labels) != 1}
    return found


MOST_DEPTH = 64
"""Maximum nesting of lists and objects in a body."""
_SURROGATE = re.compile("[\ud800-\udfff]")
Kind = TypeVar("Kind", bound=RequestBody)


async def read_json_body(request: Request) -> dict[str, Any]:
    """The JSON object that a request brings."""
    if (other := wrong_content_type_error(request)) is not None:
        raise other
    value = parse_strict_json(await request.body())
    if not isinstance(value, dict):
        raise APIError("expected a JSON object")
    return value


def wrong_content_type_error(request: Request) -> APIError | None:
    """Build the error for a body that is not declared as JSON."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return None
    return APIError(f"expected a body of type application/json, got {content_type[:80] or 'none'!r}", status=415)


def validate_body(value: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """A body of its kind; `APIError` with the parameter that is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise get_first_validation_error(error.errors(include_url=False, include_input=False)) from error


def parse_strict_json(body: bytes) -> Any:
    """JSON as the standard has it: no NaN, no half characters, nothing deeper than `MOST_DEPTH`."""
    try:
        value = json.loads(body, parse_constant=_no_number)
    except RecursionError as error:
        raise APIError(f"the JSON is deeper than {MOST_DEPTH}") from error
    except ValueError as error:
        raise APIError(f"the body is no JSON: {str(error)[:200]}") from error
    _check(value)
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check(value: Any) -> None:
    """Level by level, so that depth costs no stack."""
    level: Sequence[Any] = [value]
    for _ in range(MOST_DEPTH):
        inside: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                inside += entry
                inside += entry.values()
            elif isinstance(entry, list):
                inside += entry
            elif isinstance(entry, str) and not entry.isascii() and _SURROGATE.search(entry):
                raise APIError("a text holds half of a character (a lone surrogate)")
        if not inside:
            return
        level = inside
    raise APIError(f"the JSON is deeper than {MOST_DEPTH}")


def get_first_validation_error(errors: Sequence[Mapping[str, Any]]) -> APIError:
    """Return pydantic's first error, by field: official clients show only the message.

    For a union, it is the deepest error of the matching member.
    """
    found = max(errors, key=lambda error: sum(map(_is_name, error["loc"])))
    if found["type"] == "model_attributes_type":
        return APIError("expected a JSON object")
    if found["type"] == "json_invalid":
        return APIError(f"the body is no JSON: {found.get('ctx', {}).get('error', found['msg'])}")
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in found["loc"] if _is_name(step))
    path = path.lstrip(".")
    if found["type"] == "extra_forbidden":
        return APIError(f"{path}: there is no such field here; /docs lists the fields", param=path)
    message = str(found["msg"]).removeprefix("Value error, ")[:300]
    return APIError(f"{path}: {message[:1].lower()}{message[1:]}" if path else message, param=path or None)


def _is_name(step: int | str) -> bool:
    """Return whether a step of pydantic's path is a field of the body rather than a union member."""
    return isinstance(step, int) or (re.fullmatch(r"[a-z_]+", step) is not None and step not in ("str", "int", "float"))
