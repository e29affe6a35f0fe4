"""Answers in the shapes of OpenAI's API: whole, or as the chunks of a stream."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.serve.query import Candidate, Piece, Token, Usage, Whole
from luthier.text.messages import ToolCall

if TYPE_CHECKING:
    from luthier.models.embedder import Points

Json = dict[str, Any]


class Shape:
    """How the answers to one request look. What is the same in all of them is said once, here."""

    whole: str
    """What a whole answer is called."""
    part: str
    """What a chunk of a stream is called."""

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

    def answer(self, answers: Sequence[Whole], usage: Usage) -> Json:
        """All answers, whole."""
        choices = [self.choice(number, one) for number, one in enumerate(answers)]
        return {**self.head, "object": self.whole, "choices": choices, "usage": usage_json(usage)}

    def chunks(self, piece: Piece, *, first: bool, usage: bool) -> Iterable[Json]:
        """A piece as chunks; with `usage`, each says that the usage comes later."""
        later = {"usage": None} if usage else {}
        for choice in self.deltas(piece, first=first):
            yield {**self.head, "object": self.part, "choices": [choice], **later}

    def last(self, usage: Usage) -> Json:
        """The chunk that says what a stream took."""
        return {**self.head, "object": self.part, "choices": [], "usage": usage_json(usage)}

    def choice(self, number: int, answer: Whole) -> Json:
        """One answer, whole."""
        raise NotImplementedError

    def deltas(self, piece: Piece, *, first: bool) -> Iterable[Json]:
        """A piece, as entries of `choices`."""
        raise NotImplementedError


class ChatShape(Shape):
    """`chat.completion`."""

    whole, part = "chat.completion", "chat.completion.chunk"

    def __init__(self, name: str, model: str, release: str, *, logprobs: bool) -> None:
        super().__init__(name, model, release)
        self._logprobs = logprobs
        self._calls: dict[int, int] = {}
        """How many calls each answer has made so far."""

    def choice(self, number: int, answer: Whole) -> Json:
        """A message."""
        calls = {"tool_calls": [_call(one) for one in answer.calls]} if answer.calls else {}
        content = None if answer.calls and not answer.text else answer.text
        message = {"role": "assistant", "content": content, "refusal": None, **calls}
        told = {"index": number, "message": message, "logprobs": self._told(answer.tokens)}
        return {**told, "finish_reason": answer.finish, **_scores(answer.scores)}

    def deltas(self, piece: Piece, *, first: bool) -> Iterable[Json]:
        """What is new in a message."""
        if first:
            yield self._delta(piece.answer, {"role": "assistant", "content": "", "refusal": None})
        if piece.text or piece.tokens:
            yield self._delta(piece.answer, {"content": piece.text}, self._told(piece.tokens))
        for call in piece.calls:
            number = self._calls.get(piece.answer, 0)
            self._calls[piece.answer] = number + 1
            yield self._delta(piece.answer, {"tool_calls": [{"index": number, **_call(call)}]})
        if piece.finish is not None:
            yield {**self._delta(piece.answer, {}), "finish_reason": piece.finish, **_scores(piece.scores)}

    def _delta(self, number: int, delta: Json, logprobs: Json | None = None) -> Json:
        return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _told(self, tokens: Sequence[Token]) -> Json | None:
        if not self._logprobs:
            return None
        told = [{**_candidate(one.chosen), "top_logprobs": [_candidate(other) for other in one.top]} for one in tokens]
        return {"content": told, "refusal": None}


class TextShape(Shape):
    """`text_completion`."""

    whole = part = "text_completion"

    def __init__(self, name: str, model: str, release: str, *, logprobs: bool) -> None:
        super().__init__(name, model, release)
        self._logprobs = logprobs
        self._offsets: dict[int, int] = {}

    def choice(self, number: int, answer: Whole) -> Json:
        """A text."""
        told = {"index": number, "text": answer.text, "logprobs": self._told(number, answer.tokens)}
        return {**told, "finish_reason": answer.finish}

    def deltas(self, piece: Piece, *, first: bool) -> Iterable[Json]:
        """What is new of a text."""
        told = {"index": piece.answer, "text": piece.text, "logprobs": self._told(piece.answer, piece.tokens)}
        yield {**told, "finish_reason": piece.finish}

    def _told(self, number: int, tokens: Sequence[Token]) -> Json | None:
        if not self._logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(number, 0))
            self._offsets[number] = offsets[-1] + len(token.chosen.text)
        return {
            "tokens": [token.chosen.text for token in tokens],
            "token_logprobs": [token.chosen.logprob for token in tokens],
            "top_logprobs": [{one.text: one.logprob for one in token.top} for token in tokens],
            "text_offset": offsets,
        }


def usage_json(usage: Usage) -> Json:
    """What a request took."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def embeddings_json(points: Points, tokens: int, model: str, *, base64_wanted: bool) -> Json:
    """Points as OpenAI's API gives them: lists of numbers, or float32 in base64."""

    def told(point: Any) -> Any:
        return base64.b64encode(point.astype("<f4").tobytes()).decode() if base64_wanted else point.tolist()

    data = [{"object": "embedding", "index": number, "embedding": told(one)} for number, one in enumerate(points)]
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def event(value: Json) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


END = b"data: [DONE]\n\n"


def _candidate(one: Candidate) -> Json:
    return {"token": one.text, "bytes": list(one.raw), "logprob": one.logprob}


def _call(call: ToolCall) -> Json:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _scores(scores: Mapping[str, float] | None) -> Json:
    """Probabilities of labels: beside OpenAI's fields, for whoever looks."""
    return {} if scores is None else {"scores": dict(scores)}
