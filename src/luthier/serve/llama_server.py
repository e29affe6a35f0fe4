"""Speaking with llama.cpp's server: token ids go over, token ids come back."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from luthier.core.errors import LuthierError
from luthier.serve.engine import Answering
from luthier.serve.grammar import Grammars
from luthier.serve.merging import together
from luthier.serve.query import Finish, Piece, Query
from luthier.serve.refusal import Busy, Refusal, Unavailable, as_refusal
from luthier.serve.scribe import Scribe, Spelling
from luthier.serve.writer import Told
from luthier.text.calls import CallForm
from luthier.text.ids import Text
from luthier.text.plain import begin_id, plain_ids

if TYPE_CHECKING:
    import httpx

    from luthier.serve.engines.llama_cpp import LlamaCpp
    from luthier.serve.neighbour import Neighbour

_SEEDS = 1 << 31


class LlamaServer(Answering):
    """A model in llama.cpp's server."""

    def __init__(self, settings: LlamaCpp, text: Text, root: str, beside: Neighbour | None, digest: str) -> None:
        super().__init__(digest)
        self._settings, self._text, self._root, self._beside = settings, text, root, beside
        self._calls = CallForm.of(text)
        self._spelling = Spelling(text, Grammars(text, text.vocabulary).raw)
        self._turns = asyncio.Semaphore(settings.at_once)
        self._asked = 0
        self._http: httpx.AsyncClient | None = None

    @property
    def waiting(self) -> int:
        return max(0, self._asked - self._settings.at_once)

    @property
    def running(self) -> int:
        return min(self._asked, self._settings.at_once)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
        if self._beside is not None:
            await asyncio.to_thread(self._beside.close)

    async def answer(self, query: Query) -> AsyncGenerator[Piece, None]:
        ids = await asyncio.to_thread(self._ids, query)
        body = self._body(ids, query)
        if self._asked + query.answers > self._settings.at_once + self._settings.waiting:
            raise Busy(f"{self.waiting} answers wait already", retry_after_s=2.0)
        self._asked += query.answers
        try:
            streams = [self._one(number, ids, body, query) for number in range(query.answers)]
            async with aclosing(together(streams, 0)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._asked -= query.answers

    def _ids(self, query: Query) -> list[int]:
        if query.tools is not None and (self._calls is None or query.tools.choice == "required"):
            what = (
                "this engine forces no calls" if self._calls else "this model's chat template has no calls it can read"
            )
            raise Refusal(what, param="tools", code="unsupported_parameter")
        if query.text is None:
            try:
                return self._text.prompt(query.messages, query.tools.offered if query.tools else ())
            except LuthierError as error:
                raise as_refusal(error, "messages") from error
        if isinstance(query.text, str):
            return plain_ids(self._text, [query.text])[0] or [begin_id(self._text)]
        return list(query.text)

    def _body(self, ids: list[int], query: Query) -> dict[str, Any]:
        room = self._settings.context - len(ids)
        if room < 1 or (query.max_tokens or 1) > room:
            what = f"the prompt has {len(ids)} tokens; there is room for {max(0, room)} more"
            raise Refusal(what, param="max_tokens" if room > 0 else "messages", code="context_length_exceeded")
        body: dict[str, Any] = {
            "prompt": ids,
            "n_predict": query.max_tokens or min(room, self._settings.max_new_tokens),
            "temperature": self._settings.temperature if query.temperature is None else query.temperature,
            "top_p": 1.0 if query.top_p is None else query.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "samplers": ["temperature", "top_p"],  # applied in this order, as our own engine does
            "stream": True,
            "return_tokens": True,
            "cache_prompt": query.seed is None,  # what was read before in other portions is rounded otherwise
            "n_probs": max(1, query.top_logprobs) if query.logprobs else 0,
        }
        return body if query.schema is None else {**body, "json_schema": query.schema}

    async def _one(
        self, number: int, ids: list[int], body: dict[str, Any], query: Query
    ) -> AsyncGenerator[Piece, None]:
        """One of the answers."""
        seed = secrets.randbelow(_SEEDS) if query.seed is None else (query.seed + number) % _SEEDS
        scribe = Scribe(number, query, self._spelling, self._calls, len(ids))
        async with self._turns, aclosing(self._events({**body, "seed": seed})) as events:
            async for event in events:
                for told in _told(event, query):
                    piece = scribe.take(told)
                    if piece is not None:
                        yield piece
                    if scribe.over:
                        return
                if event.get("stop"):
                    finish: Finish = "length" if event.get("stop_type") == "limit" else "stop"
                    yield scribe.end(finish, int((event.get("timings") or {}).get("cache_n") or 0))
                    return
        raise Unavailable("llama.cpp's server ended in the middle of an answer", status=502)

    async def _events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        import httpx

        if self._http is None:
            self._http = httpx.AsyncClient(timeout=self._settings.timeout_s, trust_env=False)
        try:
            async with self._http.stream("POST", f"{self._root}/completion", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    said = (await response.aread())[:300].decode("utf-8", "replace")
                    raise Unavailable(f"llama.cpp's server answered {response.status_code}: {said}", status=502)
                async for event in _lines(response):
                    yield event
        except httpx.HTTPError as error:
            raise Unavailable(f"llama.cpp's server gave no answer: {type(error).__name__}", status=502) from error


async def _lines(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            told = json.loads(line.removeprefix("data:"))
            if isinstance(told, dict):
                yield told


def _told(event: dict[str, Any], query: Query) -> list[Told]:
    """The tokens of one event, each with its log-probabilities where they are wanted."""
    from luthier.models.decoding.ask import Written

    told = event.get("completion_probabilities") or []
    found = []
    for place, token in enumerate(event.get("tokens") or []):
        about = told[place] if place < len(told) else {}
        top = tuple((int(one["id"]), float(one["logprob"])) for one in about.get("top_logprobs") or ())
        found.append(Told(Written(0, int(token), float(about.get("logprob", 0.0)), top[: query.top_logprobs], None)))
    return found
