"""Asking another OpenAI-compatible server for the pieces of an answer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from luthier.chat.messages import ToolCall, messages_to_openai
from luthier.chat.prompt import PromptPrefix
from luthier.models.sources.endpoint import EndpointModelSource
from luthier.serve.engine import ModelRunner
from luthier.serve.openai.protocol import APIError, ModelUnavailableError, ServerBusyError
from luthier.serve.request import EngineRequest, Finish, OutputChunk, TokenCandidate, TokenLogprobs, Usage

if TYPE_CHECKING:
    import httpx

    from luthier.serve.subprocess_server import SubprocessServer

Json = Mapping[str, Any]
_FINISHES: Mapping[str, Finish] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class UpstreamModel(ModelRunner):
    """A model behind an endpoint."""

    reads_media = True

    def __init__(
        self,
        settings: EndpointModelSource,
        before: PromptPrefix,
        at_once: int,
        waiting: int,
        digest: str,
        server: SubprocessServer | None = None,
    ) -> None:
        """`server` is the program that answers there, when it was started for this; it ends with it."""
        super().__init__(digest)
        self._beside = server
        self._settings, self._before = settings, before
        self._at_once, self._most = at_once, at_once + waiting
        self._turns = asyncio.Semaphore(at_once)
        self._asked = 0
        self._http: httpx.AsyncClient | None = None

    @property
    def waiting(self) -> int:
        return max(0, self._asked - self._at_once)

    @property
    def running(self) -> int:
        return min(self._asked, self._at_once)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
        if self._beside is not None:
            await asyncio.to_thread(self._beside.close)

    async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        path, body = self._body(query)
        async with self._turn(), self._sent(path, body) as events:
            reader = _Reader(query)
            async for event in events:
                for piece in reader.read(event):
                    yield piece
            for piece in reader.rest():
                yield piece

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._asked >= self._most:
            raise ServerBusyError(f"{self.waiting} requests wait already", retry_after_s=2.0)
        self._asked += 1
        try:
            async with self._turns:
                yield
        finally:
            self._asked -= 1

    def _body(self, query: EngineRequest) -> tuple[str, dict[str, Any]]:
        """Return path and body of a request."""
        body: dict[str, Any] = {
            "model": self._settings.model,
            "n": query.answers if query.answers > 1 else None,
            "temperature": query.temperature if self._settings.temperature else None,
            "top_p": query.top_p,
            "seed": query.seed,
            "stop": list(query.stop) or None,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if query.temperature is not None and not self._settings.temperature:
            raise APIError("this model takes no temperature", param="temperature", code="unsupported_parameter")
        if query.text is not None:
            body |= {"prompt": query.text, "max_tokens": query.max_tokens}
            body["logprobs"] = query.top_logprobs if query.logprobs else None
            body["return_tokens_as_token_ids"] = query.by_id or None
            return "completions", _given(body)
        body |= {
            "messages": messages_to_openai(self._before.wrap(query.messages), query.media.__getitem__),
            self._settings.limit: query.max_tokens,
        }
        if query.logprobs:
            body |= {"logprobs": True, "top_logprobs": query.top_logprobs or None}
        if query.schema is not None:
            schema = {"name": "answer", "schema": query.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if query.tools is not None:
            body |= {"tools": [dict(tool) for tool in query.tools.offered], "tool_choice": query.tools.choice}
            body["parallel_tool_calls"] = None if query.tools.parallel else False
        return "chat/completions", _given(body)

    @asynccontextmanager
    async def _sent(self, path: str, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[Json]]:
        """Yield the received events; errors do not contain the key."""
        import httpx

        try:
            async with self._client().stream("POST", path, json=body, headers=self._headers()) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(response.status_code, await response.aread(), response.headers)
                yield _events(response)
        except httpx.HTTPError as error:
            what = f"{self._settings.url} gave no answer: {type(error).__name__}"
            raise ModelUnavailableError(what, status=502) from error

    def _client(self) -> httpx.AsyncClient:
        import httpx

        if self._http is None:
            base = f"{self._settings.url.rstrip('/')}/"
            self._http = httpx.AsyncClient(
                base_url=base, timeout=self._settings.timeout_s, trust_env=self._beside is None
            )
        return self._http

    def _headers(self) -> dict[str, str]:
        name = self._settings.key_env
        if name is None:
            return {}
        if not (key := os.environ.get(name, "").strip()):
            raise ModelUnavailableError(f"the environment variable {name} is not set where this server runs")
        return {"Authorization": f"Bearer {key}"}

    def _refusal(self, status: int, body: bytes, headers: Mapping[str, str]) -> APIError:
        """Convert the upstream server's error."""
        message, param = _why(body)
        key = os.environ.get(self._settings.key_env or "", "")
        message = message.replace(key, "…") if key else message
        if status == 429:
            retry_after = headers.get("retry-after", "")
            return ServerBusyError(message, retry_after_s=float(retry_after) if retry_after.isdigit() else 2.0)
        if status in (401, 403) or status >= 500:
            return ModelUnavailableError(f"{self._settings.url} answered {status}: {message}", status=502)
        return APIError(message, param=param, status=status)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _why(body: bytes) -> tuple[str, str | None]:
    try:
        error = json.loads(body)["error"]
        return str(error["message"])[:300], error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:300].decode("utf-8", "replace"), None


async def _events(response: httpx.Response) -> AsyncIterator[Json]:
    """The JSON of server-sent events, up to `[DONE]`."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            return
        try:
            payload = json.loads(data)
        except ValueError as error:
            raise ModelUnavailableError("the other server sent what is no JSON", status=502) from error
        if isinstance(payload, dict):
            yield payload


class _Reader:
    """Parses stream chunks. The end of an answer comes last, with its usage."""

    def __init__(self, query: EngineRequest) -> None:
        self._chat = query.text is None
        self._finishes: dict[int, Finish | None] = dict.fromkeys(range(query.answers))
        self._calls: dict[tuple[int, int], dict[str, str]] = {}
        self._usage = Usage()

    def read(self, chunk: Json) -> list[OutputChunk]:
        """The pieces of one chunk."""
        if "error" in chunk:
            raise ModelUnavailableError(
                f"the other server broke off: {_why(json.dumps(chunk).encode())[0]}", status=502
            )
        try:
            if usage := chunk.get("usage"):
                self._usage = _usage(usage)
            return [piece for choice in chunk.get("choices") or () for piece in self._piece(choice)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelUnavailableError("the other server answers in another form than OpenAI's", status=502) from error

    def rest(self) -> list[OutputChunk]:
        """The ends of all answers."""
        found = []
        for answer, finish in self._finishes.items():
            if finish is None:
                raise ModelUnavailableError("the other server ended in the middle of an answer", status=502)
            calls = [_call(partial_call) for (whose, _), partial_call in sorted(self._calls.items()) if whose == answer]
            usage = self._usage if answer == 0 else Usage(prompt_tokens=self._usage.prompt_tokens)
            found.append(OutputChunk(answer=answer, calls=tuple(calls), finish=finish, usage=usage))
        return found

    def _piece(self, choice: Json) -> list[OutputChunk]:
        answer = int(choice["index"])
        if answer not in self._finishes:
            raise ValueError("an answer that was not asked for")
        if choice.get("finish_reason"):
            self._finishes[answer] = _FINISHES.get(choice["finish_reason"], "stop")
        if not self._chat:
            return _to_chunks(answer, choice.get("text") or "", _text_tokens(choice.get("logprobs")))
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            self._call(answer, call)
        return _to_chunks(answer, delta.get("content") or "", _tokens(choice.get("logprobs")))

    def _call(self, answer: int, call: Json) -> None:
        """A call comes in parts: its name first, its arguments letter by letter."""
        partial_call = self._calls.setdefault((answer, int(call["index"])), {"id": "", "name": "", "arguments": ""})
        function = call.get("function") or {}
        partial_call["id"] += call.get("id") or ""
        partial_call["name"] += function.get("name") or ""
        partial_call["arguments"] += function.get("arguments") or ""


def _to_chunks(answer: int, text: str, tokens: Sequence[TokenLogprobs]) -> list[OutputChunk]:
    return [OutputChunk(answer=answer, text=text, tokens=tuple(tokens))] if text or tokens else []


def _call(call: Mapping[str, str]) -> ToolCall:
    try:
        arguments = json.loads(call["arguments"] or "{}")
    except ValueError as error:
        raise ModelUnavailableError("the other server wrote a call whose arguments are no JSON", status=502) from error
    return ToolCall(name=call["name"], arguments=arguments if isinstance(arguments, dict) else {}, id=call["id"])


def _usage(usage: Json) -> Usage:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Usage(
        prompt_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=cached,
        completion_tokens=usage.get("completion_tokens") or 0,
    )


def _tokens(logprobs: Json | None) -> list[TokenLogprobs]:
    content = (logprobs or {}).get("content") or ()
    return [
        TokenLogprobs(
            chosen=_candidate(entry), top=tuple(_candidate(other) for other in entry.get("top_logprobs") or ())
        )
        for entry in content
    ]


def _text_tokens(logprobs: Json | None) -> list[TokenLogprobs]:
    """Return the tokens of a text completion from the columns of `logprobs`."""
    logprobs = logprobs or {}
    names = logprobs.get("tokens") or ()
    rows = zip(
        names, logprobs.get("token_logprobs") or (), logprobs.get("top_logprobs") or [None] * len(names), strict=True
    )
    return [
        TokenLogprobs(chosen=_named(name, logprob), top=tuple(_named(*other) for other in (top or {}).items()))
        for name, logprob, top in rows
    ]


def _named(text: str, logprob: float) -> TokenCandidate:
    return TokenCandidate(text, text.encode(), float(logprob))


def _candidate(token: Json) -> TokenCandidate:
    raw = token.get("bytes")
    text = str(token["token"])
    return TokenCandidate(text, bytes(raw) if raw is not None else text.encode(), float(token["logprob"]))
