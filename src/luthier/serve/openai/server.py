"""The gateway: OpenAI's API in front of open models. It knows who is to answer, and tells what was answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from luthier.chat.messages import Message
from luthier.core.errors import LuthierError, did_you_mean
from luthier.serve.auth import build_error_body, build_error_headers
from luthier.serve.detokenizer import merge_output_streams
from luthier.serve.engine import ModelRunner
from luthier.serve.metrics import ModelUtilization, RequestMetrics
from luthier.serve.model_pool import ModelPool
from luthier.serve.openai.protocol import (
    AnswerTimeoutError,
    APIError,
    ChatRequestBody,
    CompletionRequestBody,
    EmbeddingsBody,
    to_api_error,
)
from luthier.serve.openai.request_state import CLOSED, RequestState
from luthier.serve.openai.responses import (
    END,
    ChatShape,
    Kind,
    ResponseBuilder,
    TextShape,
    embeddings_json,
    format_sse_event,
    read_json_body,
    validate_body,
)
from luthier.serve.openai.sse import (
    ClientDisconnected,
    EventStreamResponse,
    TrackedJSONResponse,
    TrackedTextResponse,
    cancel_on_disconnect,
)
from luthier.serve.openai.transcriptions import (
    parse_transcription_form,
    read_transcription_form,
    transcription_json,
)
from luthier.serve.request import AggregatedOutput, EngineRequest, OutputChunk, Usage, Verb
from luthier.traces.api_keys import Caller, Scope
from luthier.traces.record import AliasResolver, Operation, RequestRecorder, Route

_LOG = logging.getLogger("luthier.serve")
_GRACE_S = 5.0
"""Seconds beyond the deadline that a client has to read a stream to its end."""
_LIMITS = ("max_tokens", "max_completion_tokens")
"""The two names of the longest answer."""
_SHADOWS = 32
"""Questions that are put to shadows at once; what comes beyond is not put to them."""


@dataclass(frozen=True, kw_only=True)
class _Asking:
    """The parsed parts of a chat or completion request."""

    case: RequestState
    queries: Sequence[EngineRequest]
    shape: ResponseBuilder
    stream: bool
    with_usage: bool
    until: float
    """The loop's time at which the answer must be whole."""


class Gateway:
    """Handles the requests of the OpenAI-compatible API with the models of a pool."""

    def __init__(
        self,
        fleet: ModelPool,
        *,
        resolver: AliasResolver | None = None,
        recorder: RequestRecorder | None = None,
        deadline_s: float = 600.0,
    ) -> None:
        self.fleet = fleet
        self._resolver, self._recorder, self._deadline_s = resolver, recorder, deadline_s
        self.meter = RequestMetrics(self._loads, self._knows)
        self.ready = True
        """Whether new requests are welcome."""
        self.cut_off = 0
        """Requests that were ended by the server's stop."""
        self._shadows: set[asyncio.Task[None]] = set()

    # ── the routes ──────────────────────────────────────────────────────────────────────────────────────────────

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, as OpenAI's `/v1/chat/completions` does."""
        case = self._case(request, "chatcmpl", "chat")
        return await self._guarded(request, case, self._chat(request, case))

    async def complete(self, request: Request) -> Response:
        """Continue a plain text, as OpenAI's `/v1/completions` does."""
        case = self._case(request, "cmpl", "completion")
        return await self._guarded(request, case, self._complete(request, case))

    async def embed(self, request: Request) -> Response:
        """Make points of texts, as OpenAI's `/v1/embeddings` does."""
        case = self._case(request, "embd", "embedding")
        return await self._guarded(request, case, self._embed(request, case))

    async def transcribe(self, request: Request) -> Response:
        """Transcribe audio, as OpenAI's `/v1/audio/transcriptions` does."""
        case = self._case(request, "trans", "chat")
        return await self._guarded(request, case, self._transcribe(request, case))

    async def models(self, request: Request) -> Response:
        """The names that can be asked for."""
        caller = require_scope(request, "infer")
        names = [name for name in self.names() if self._is_for(caller, name)]
        return JSONResponse({"object": "list", "data": [_model(name) for name in names]})

    async def model(self, request: Request) -> Response:
        """Return one model."""
        caller = require_scope(request, "infer")
        name = request.path_params["model"]
        if not self._shows(caller, name):
            raise self._unknown(name, caller)
        return JSONResponse(_model(name))

    async def open_conversation(
        self, name: str, messages: Sequence[Message], caller: Caller
    ) -> tuple[str, tuple[Message, ...]]:
        """The digest of the model that a name means to a caller, and a conversation as that model reads it; `APIError`
        where there is no such model."""
        route = self._find_route(name, caller, None, name)
        async with self.fleet.using(route.model) as model:
            return model.digest, model.apply_training_prompt(EngineRequest(messages=tuple(messages))).messages

    def names(self) -> list[str]:
        """Return the served names: models and releases."""
        return [*self.fleet.names(), *(self._resolver.names() if self._resolver is not None else ())]

    def counts(self, caller: Caller) -> bytes:
        """Return the Prometheus metrics: all to `admin`, otherwise those of the caller's models."""
        return self.meter.page(lambda name: caller.may("admin") or self._shows(caller, name))

    # ── what a request goes through ─────────────────────────────────────────────────────────────────────────────

    def _case(self, request: Request, prefix: str, operation: Operation) -> RequestState:
        return RequestState(prefix, operation, self._record, get_caller(request).key)

    def _prepare(self, case: RequestState) -> None:
        """Build the start of a trace while the model computes."""
        if self._recorder is not None:
            asyncio.get_running_loop().call_later(0, case.prepare, self._recorder.ready)

    def _record(self, case: RequestState) -> None:
        """A request is over: let it be kept. It is counted once its answer is sent."""
        recorder, end = self._recorder, case.end
        if recorder is not None and end is not None:
            ready = recorder.ready(case.trace_start) if case.ready is None else case.ready
            recorder.end(ready, end)
            if case.media and case.consent and case.status == 200 and ready is not None:
                recorder.keep_media(case.media)
        self.meter.add(case)
        if not self.ready:
            self.cut_off += case.status == CLOSED

    async def _guarded(self, request: Request, case: RequestState, work: Coroutine[Any, Any, Response]) -> Response:
        """Return the response; any error is sent to the client and recorded in its trace."""
        try:
            require_scope(request, "infer")
            async with asyncio.timeout(self._deadline_s):
                return await cancel_on_disconnect(request.receive, work)
        except ClientDisconnected:
            case.gone()
            return Response(status_code=204)  # nobody hears it
        except (TimeoutError, LuthierError) as error:
            return self._refused(case, self._why(error, case))
        except asyncio.CancelledError:
            case.gone()
            raise
        except Exception:
            case.refused(_fault())
            raise
        finally:
            work.close()

    def _why(self, error: Exception, case: RequestState) -> APIError:
        """Return the error for the client; an unexpected one is logged."""
        if isinstance(error, TimeoutError):
            return AnswerTimeoutError(f"the answer was not whole within {self._deadline_s:g} s")
        if isinstance(error, LuthierError):
            return _in_its_words(to_api_error(error), case.parameters)
        _LOG.error("a request failed", exc_info=error)
        return _fault()

    def _answer(self, content: dict[str, Any], case: RequestState) -> Response:
        return TrackedJSONResponse(content, _named(case), sent=self.meter.settle)

    def _refused(self, case: RequestState, refusal: APIError) -> Response:
        case.refused(refusal)
        headers = {**build_error_headers(refusal), **_named(case)}
        return TrackedJSONResponse(build_error_body(refusal), headers, status=refusal.status, sent=self.meter.settle)

    async def _read(self, request: Request, kind: type[Kind], case: RequestState) -> Kind:
        """The body; the case knows which model was asked for even where the rest of it is wrong."""
        body = await read_json_body(request)
        case.model = str(body.get("model", ""))[:512]
        return validate_body(body, kind)

    async def _chat(self, request: Request, case: RequestState) -> Response:
        body = await self._read(request, ChatRequestBody, case)
        case.user = body.user or body.safety_identifier
        case.meta, case.consent = body.metadata, body.store
        case.parameters = _said(body, "messages", "tools", "user", "metadata", "safety_identifier", "store")
        query = await asyncio.to_thread(body.query) if body.count_media() else body.query()
        case.record_messages(query.messages)  # all that is known of one that nobody answers
        case.media = {medium: query.media[medium.digest] for turn in query.messages for medium in turn.media}
        route = self._route(body.model, case, get_caller(request))
        shape = ChatShape(case.id, body.model, case.release, logprobs=body.logprobs)
        return await self._respond(self._asking(body, case, [query], shape), route)

    async def _complete(self, request: Request, case: RequestState) -> Response:
        body = await self._read(request, CompletionRequestBody, case)
        case.user, case.meta = body.user, body.metadata
        case.parameters = _said(body, "prompt", "user", "metadata")
        queries = body.queries()
        case.record_messages(Message(role="user", content=str(query.text)) for query in queries)
        route = self._route(body.model, case, get_caller(request))
        shape = TextShape(case.id, body.model, case.release, logprobs=body.logprobs is not None)
        return await self._respond(self._asking(body, case, queries, shape), route)

    def _asking(
        self,
        body: ChatRequestBody | CompletionRequestBody,
        case: RequestState,
        queries: Sequence[EngineRequest],
        shape: ResponseBuilder,
    ) -> _Asking:
        until = asyncio.get_running_loop().time() + self._deadline_s
        stream, with_usage = body.stream, body.with_usage
        return _Asking(case=case, queries=queries, shape=shape, stream=stream, with_usage=with_usage, until=until)

    async def _transcribe(self, request: Request, case: RequestState) -> Response:
        fields, sent = await read_transcription_form(request)
        case.model = fields.get("model", "")[:512]
        form = parse_transcription_form(fields, sent)
        case.parameters = form.body.model_dump(mode="json", exclude_defaults=True, exclude={"model", "prompt"})
        media, content = await asyncio.to_thread(form.keep)
        query = form.body.query(media, content)
        case.record_messages(query.messages)
        route = self._route(form.body.model, case, get_caller(request))
        whole = AggregatedOutput()
        async with self.fleet.using(route.model) as model:
            if not model.transcribes:
                what = "this model does not transcribe; ask it by /v1/chat/completions"
                raise APIError(what, param="model", code="unsupported_model")
            async with aclosing(model.answer(query)) as pieces:
                self._prepare(case)
                async for piece in pieces:
                    case.first()
                    whole.add(piece)
        case.done(whole, whole.usage)
        if form.body.response_format == "text":
            return TrackedTextResponse(f"{whole.text.strip()}\n", _named(case), sent=self.meter.settle)
        return self._answer(transcription_json(form.body, media, whole, whole.usage), case)

    async def _embed(self, request: Request, case: RequestState) -> Response:
        body = await self._read(request, EmbeddingsBody, case)
        case.user = body.user
        case.record_messages(Message(role="user", content=text) for text in body.texts)
        route = self._route(body.model, case, get_caller(request))
        async with self.fleet.using(route.model) as model:
            _require_able(model, "embedding")
            self._prepare(case)
            points, tokens = await model.points(body.texts)
        if body.dimensions not in (None, points.shape[1]):
            raise APIError(f"this model's points have {points.shape[1]} numbers", param="dimensions")
        case.done(AggregatedOutput(finish="stop"), Usage(prompt_tokens=tokens))
        as_base64 = body.encoding_format == "base64"
        return self._answer(embeddings_json(points, tokens, body.model, base64_wanted=as_base64), case)

    def _route(self, name: str, case: RequestState, caller: Caller) -> Route:
        """Return the model of a request, and record it in the state."""
        route = self._find_route(name, caller, case.user, case.id)
        case.variant = route.variant
        case.release = route.release or self.fleet.digest(route.model)
        return route

    def _find_route(self, name: str, caller: Caller, user: str | None, id: str) -> Route:
        """Return the model of a request. A model of another key is not found."""
        if not self._is_for(caller, name):
            raise self._unknown(name, caller)
        route = self._resolver.resolve(name, user, id) if self._resolver is not None else None
        if route is None and self.fleet.knows(name):
            route = Route(model=name)
        if route is None:
            raise self._unknown(name, caller)
        return route

    async def _respond(self, asking: _Asking, route: Route) -> Response:
        """The whole answer, or its beginning as a stream: what is refused is refused before anything is sent."""
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(self.fleet.using(route.model))
            _require_able(model, asking.queries[0].verb)
            if asking.queries[0].media and not model.reads_media:
                raise APIError("this model reads text only", param="messages", code="unsupported_parameter")
            if asking.queries[0].echo and not model.echoes:
                raise APIError(
                    "this model's engine does not read prompts back", param="echo", code="unsupported_parameter"
                )
            if asking.queries[0].label_set and not model.chooses:
                what = "this model names no class, so it has no label sets"
                raise APIError(what, param="label_set", code="unsupported_parameter")
            if unused := model.unused(asking.queries[0]):
                asking.case.unused = _as_sent(unused, asking.case.parameters)
                asking.shape.warn(asking.case.unused)
            if model.chooses:
                asking.case.operation = "label"
            self._shadow(asking, route)
            queries = [model.apply_training_prompt(query) for query in asking.queries]
            if queries[0].verb == "chat":
                asking.case.record_messages(queries[0].messages)
            pieces = await stack.enter_async_context(
                aclosing(merge_output_streams([model.answer(query) for query in queries], queries[0].answers))
            )
            self._prepare(asking.case)
            first = await anext(pieces)
            asking.case.first()
            if asking.stream:
                return self._stream(asking, first, pieces, stack.pop_all())
            wholes = _Wholes(asking.queries)
            wholes.add(first)
            async for piece in pieces:
                wholes.add(piece)
            asking.case.done(wholes.answers[0], wholes.usage)
            return self._answer(asking.shape.answer(wholes.answers, wholes.usage), asking.case)

    def _stream(
        self, asking: _Asking, first: OutputChunk, pieces: AsyncGenerator[OutputChunk, None], kept: AsyncExitStack
    ) -> Response:
        async def after() -> None:
            asking.case.gone()  # unless it was told how it ended
            await kept.aclose()

        events = self._events(asking, first, pieces)
        until, sent = asking.until + _GRACE_S, self.meter.settle
        return EventStreamResponse(events, _named(asking.case), until=until, after=after, sent=sent)

    async def _events(
        self, asking: _Asking, first: OutputChunk, pieces: AsyncGenerator[OutputChunk, None]
    ) -> AsyncGenerator[bytes, None]:
        """A stream, to its end or to what ends it."""
        case, wholes, started = asking.case, _Wholes(asking.queries), set[int]()
        try:
            piece: OutputChunk | None = first
            while piece is not None:
                wholes.add(piece)
                for chunk in asking.shape.chunks(piece, first=piece.answer not in started, usage=asking.with_usage):
                    yield format_sse_event(chunk)
                started.add(piece.answer)
                async with asyncio.timeout_at(asking.until):
                    piece = await anext(pieces, None)
            if asking.with_usage:
                yield format_sse_event(asking.shape.last(wholes.usage))
            case.done(wholes.answers[0], wholes.usage)
            yield END
        except (asyncio.CancelledError, GeneratorExit):
            case.gone(wholes.answers[0])
            raise
        except Exception as error:  # noqa: BLE001  # the answer has begun: its end is the last place to say it
            yield self._ended(case, self._why(error, case), wholes)

    def _ended(self, case: RequestState, refusal: APIError, wholes: _Wholes) -> bytes:
        """A refusal in the middle of a stream."""
        case.refused(refusal, wholes.answers[0])
        return format_sse_event(build_error_body(refusal))

    # ── shadows ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _shadow(self, asking: _Asking, route: Route) -> None:
        """Send the same request to a shadow model; its answer is recorded, not returned."""
        if route.shadow is None or len(self._shadows) >= _SHADOWS:
            return
        task = asyncio.create_task(self._unheard(asking, route.shadow))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _unheard(self, asking: _Asking, shadow: str) -> None:
        case = asking.case.shadow()
        query = replace(asking.queries[0], answers=1)
        whole = AggregatedOutput()
        try:
            async with self.fleet.using(shadow) as model, asyncio.timeout(self._deadline_s):
                case.release = model.digest
                query = replace(query, label_set=query.label_set and model.label_sets is not None)
                query = model.apply_training_prompt(query)
                case.record_messages(query.messages)
                async with aclosing(model.answer(query)) as pieces:
                    async for piece in pieces:
                        case.first()
                        whole.add(piece)
            case.done(whole, whole.usage)
        except asyncio.CancelledError:
            case.gone(whole)
            raise
        except Exception as error:  # noqa: BLE001  # nobody hears a shadow: its trace and the log do
            case.refused(self._why(error, case), whole)

    async def close(self) -> None:
        """Cancel shadow requests, and close the models."""
        for task in list(self._shadows):
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        await self.fleet.close()

    def _is_for(self, caller: Caller, name: str) -> bool:
        """Return whether a caller may use a name: public ones, those of their key, and with `admin` all."""
        owners = self._resolver.owners() if self._resolver is not None and not caller.may("admin") else {}
        if not owners:
            return True
        words = {name} if name in owners else self.fleet.words(name)
        return not words or any(word not in owners or owners[word] == caller.key for word in words)

    def _shows(self, caller: Caller, name: str) -> bool:
        """Return whether a name is visible to a caller."""
        return self._knows(name) and self._is_for(caller, name)

    def _knows(self, name: str) -> bool:
        return self.fleet.knows(name) or name in self.names()

    def _unknown(self, name: str, caller: Caller) -> APIError:
        """Build the error for an unknown name, with the caller's known ones."""
        names = dict.fromkeys(entry for entry in self.names() if self._is_for(caller, entry))
        message = f"the model {name[:200]!r} is not served here; {did_you_mean(name[:200], names)}"
        return APIError(message, param="model", code="model_not_found", status=404)

    def _loads(self) -> list[ModelUtilization]:
        return [ModelUtilization(name, model.waiting, model.running) for name, model in self.fleet.each()]


class _Wholes:
    """All answers to a request, put together."""

    def __init__(self, queries: Sequence[EngineRequest]) -> None:
        self.answers = [AggregatedOutput() for query in queries for _ in range(query.answers)]
        self._each = queries[0].answers

    def add(self, piece: OutputChunk) -> None:
        """Take in the next piece."""
        self.answers[piece.answer].add(piece)

    @property
    def usage(self) -> Usage:
        """Return the usage of all answers; a prompt with several answers counts once."""
        prompts = self.answers[:: self._each]
        return Usage(
            prompt_tokens=sum(prompt.usage.prompt_tokens for prompt in prompts),
            cached_tokens=sum(prompt.usage.cached_tokens for prompt in prompts),
            completion_tokens=sum(answer.usage.completion_tokens for answer in self.answers),
        )


def get_caller(request: Request) -> Caller:
    """Return the caller of a request, as the authentication found it."""
    caller: Caller = request.state.caller
    return caller


def require_scope(request: Request, scope: Scope) -> Caller:
    """Return the caller, if they have the scope; otherwise `APIError` (403)."""
    caller = get_caller(request)
    if not caller.may(scope):
        raise APIError(f"this key may not do that: it lacks the scope {scope!r}", code="missing_scope", status=403)
    return caller


def _require_able(model: ModelRunner, verb: Verb) -> None:
    if verb not in model.able:
        where = {"chat": "/v1/chat/completions", "completion": "/v1/completions", "embedding": "/v1/embeddings"}
        able = " and ".join(where[entry] for entry in sorted(model.able))
        raise APIError(f"this model answers to {able} only", param="model", code="unsupported_model")


def _named(case: RequestState) -> dict[str, str]:
    """The request's id, by which feedback names it, and which of its settings change nothing."""
    unused = {"X-Unused-Parameters": ", ".join(case.unused)} if case.unused else {}
    return {"X-Request-Id": case.id, **unused}


def _as_sent(names: Sequence[str], body: Mapping[str, Any]) -> list[str]:
    """Names of settings as the client wrote them, where one has two names."""
    return [next((other for other in _LIMITS if other in body), name) if name in _LIMITS else name for name in names]


def _said(body: ChatRequestBody | CompletionRequestBody, *but: str) -> dict[str, Any]:
    """Return the request's parameters besides its messages, as a trace records them."""
    return body.model_dump(mode="json", exclude_defaults=True, by_alias=True, exclude={"model", *but})


def _in_its_words(refusal: APIError, body: Mapping[str, Any]) -> APIError:
    """A refusal that names the field that was sent, where that has two names."""
    if refusal.param in _LIMITS and refusal.param not in body:
        refusal.param = next((name for name in _LIMITS if name in body), refusal.param)
    return refusal


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "luthier"}


def _fault() -> APIError:
    return APIError("a fault of the server's own", status=500)
