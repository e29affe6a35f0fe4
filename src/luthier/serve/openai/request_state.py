"""The state of a request from arrival to end, which becomes its trace, and the runner of `/v1/embeddings`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.chat.messages import Media, Message
from luthier.models.embeddings.base import EmbeddingSpace
from luthier.serve.engine import ModelRunner
from luthier.serve.openai.protocol import APIError, ServerBusyError
from luthier.serve.request import AggregatedOutput, EngineRequest, OutputChunk, Usage, Verb
from luthier.traces.record import END_FIELDS, Finish, Operation, TraceEnd, TraceStart, Variant

if TYPE_CHECKING:
    from luthier.models.embeddings.base import Points as EmbeddingPoints

CLOSED = 499
"""The status of a request whose client went away before it was answered."""
_NOTHING, _STATUS = Usage(), END_FIELDS.index("status")


class _Hidden:
    """Internal state of a request besides the start of its trace."""

    __slots__ = ("_began", "_tell", "end", "first_token_s", "media", "ready", "unused")
    _tell: Callable[[RequestState], None]
    end: TraceEnd | None
    """Finish reason; None while it is running."""
    first_token_s: float | None
    media: Mapping[Media, bytes]
    """The pictures and sounds that it brought."""
    ready: Any
    """The recorder's version of the start of its trace."""
    unused: Sequence[str]
    """Settings of sampling that were asked for and change nothing."""


class RequestState(_Hidden):
    """The state of a request in progress; its fields are the first part of its trace. Its fields are the beginning of
    its trace, so that nothing is put together while a client waits."""

    def __init__(
        self, prefix: str, operation: Operation, tell: Callable[[RequestState], None], key: str | None
    ) -> None:
        self._began, self._tell = time.monotonic(), tell
        self.end = self.first_token_s = self.ready = None
        self.unused, self.media = (), {}
        self.id = f"{prefix}-{secrets.token_hex(14)}"
        self.timestamp = datetime.now(UTC)
        self.operation: Operation = operation
        self.model, self.release = "", ""
        self.variant: Variant = "stable"
        self.messages: Sequence[Mapping[str, Any]] = ()
        self.user: str | None = None
        self.key = key
        self.consent = True
        self.parameters: dict[str, Any] = {}
        self.meta: dict[str, str] = {}

    @property
    def trace_start(self) -> TraceStart:
        """The beginning of its trace."""
        return self.__dict__

    @property
    def status(self) -> int:
        """The HTTP status, once it is over."""
        return int(self.end[_STATUS]) if self.end is not None else 0

    def record_messages(self, messages: Iterable[Message]) -> None:
        """Record the request's messages."""
        self.messages = [message.__dict__ for message in messages]

    def shadow(self) -> RequestState:
        """Return the state of a shadow request with the same contents."""
        other = RequestState(self.id.partition("-")[0], self.operation, self._tell, self.key)
        other.model, other.messages, other.user, other.consent = self.model, self.messages, self.user, self.consent
        other.parameters, other.meta, other.variant = self.parameters, {**self.meta, "shadow_of": self.id}, "shadow"
        return other

    def prepare(self, ready: Callable[[TraceStart], Any]) -> None:
        """The model is at work: make the beginning of the trace, so that its end alone is left."""
        if self.end is None:
            self.ready = ready(self.__dict__)

    def first(self) -> None:
        """Record the first chunk of the answer."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self._began

    def done(self, answer: AggregatedOutput, usage: Usage) -> None:
        """Answered."""
        self._end(200, answer.finish or "stop", answer=answer, usage=usage)

    def refused(self, refusal: APIError, answer: AggregatedOutput | None = None) -> None:
        """Not answered, or not to the end."""
        finish: Finish = "cancelled" if refusal.status in (CLOSED, 504) else "error"
        self._end(refusal.status, finish, answer=answer, error=refusal.message)

    def gone(self, answer: AggregatedOutput | None = None) -> None:
        """Record that the client disconnected."""
        self._end(CLOSED, "cancelled", answer=answer, error="the client went away")

    def _end(
        self,
        status: int,
        finish: Finish,
        *,
        answer: AggregatedOutput | None,
        usage: Usage | None = None,
        error: str = "",
    ) -> None:
        """Record the end; the client waits for this, so it builds only what is written."""
        if self.end is not None:
            return
        message: dict[str, Any] | None = None
        scores: dict[str, float] | None = None
        label_set: tuple[str, ...] | None = None
        if answer is not None:
            if status == 200 or answer.text or answer.calls:
                message = {"role": "assistant", "content": answer.text}
                if answer.calls:
                    message["tool_calls"] = tuple(answer.calls)
            if answer.scores:
                scores = dict(answer.scores)
            if answer.label_set is not None:
                label_set = answer.label_set.labels
            if answer.calibration is not None:  # by which the model's own probabilities became those of the scores
                self.parameters, self.ready = {**self.parameters, "calibration": answer.calibration}, None
            usage = usage or answer.usage
        used = usage or _NOTHING
        tokens = used.prompt_tokens, used.cached_tokens, used.completion_tokens
        latency_s = time.monotonic() - self._began
        self.end = (message, finish, status, error, *tokens, latency_s, self.first_token_s, scores, label_set)
        self._tell(self)


WAITING = 64
"""Requests that wait, at most."""


class EmbedderRunner(ModelRunner):
    """An open embedder. One request is computed at a time: texts of different requests gain nothing together."""

    able: ClassVar[frozenset[Verb]] = frozenset({"embedding"})

    def __init__(self, space: EmbeddingSpace, digest: str) -> None:
        super().__init__(digest)
        self._space = space
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="luthier-points")
        self._asked = 0

    @property
    def waiting(self) -> int:
        return max(0, self._asked - 1)

    @property
    def running(self) -> int:
        return min(1, self._asked)

    async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        nothing: tuple[OutputChunk, ...] = ()
        for piece in nothing:
            yield piece  # an async generator, as all answers are
        raise APIError("this model writes no text: it makes embeddings", param="model")

    async def points(self, texts: Sequence[str]) -> tuple[EmbeddingPoints, int]:
        if self._asked > WAITING:
            raise ServerBusyError(f"{self._asked} requests wait already", retry_after_s=1.0)
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._desk, self._read, texts)
        finally:
            self._asked -= 1

    def _read(self, texts: Sequence[str]) -> tuple[EmbeddingPoints, int]:
        from luthier.models.embeddings.sentence import SentenceEncoder

        tokens = self._space.tokens(texts) if isinstance(self._space, SentenceEncoder) else []
        return self._space.points(texts), sum(map(len, tokens))

    async def close(self) -> None:
        self._desk.shutdown(wait=False, cancel_futures=True)
