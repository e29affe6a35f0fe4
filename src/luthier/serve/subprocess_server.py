"""Engines that run as a subprocess server, such as llama.cpp's.

The server starts on a free local port, is awaited, and ends with its model. Requests and responses are token ids.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.chat.plain_text import bos_or_eos_id, encode_plain_texts
from luthier.chat.tokenizer import ChatTokenizer
from luthier.chat.tool_calls import ToolCallFormat
from luthier.core.errors import LuthierError, MissingExtra, ModelError, SourceLocation
from luthier.serve.detokenizer import DetokenizerFactory, OutputProcessor, merge_output_streams
from luthier.serve.engine import ModelRunner
from luthier.serve.engine_loop import EngineOutput
from luthier.serve.openai.protocol import APIError, ModelUnavailableError, ServerBusyError, to_api_error
from luthier.serve.request import EngineRequest, Finish, OutputChunk
from luthier.serve.structured import GrammarCompiler

if TYPE_CHECKING:
    import httpx

    from luthier.serve.engines.llama_cpp import LlamaCppEngine

_LOOK_EVERY_S = 0.1


class SubprocessServer:
    """A server program and the folder with what it reads."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="luthier.serve.")
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(self._folder.name)
        """For the model's files; gone when it is closed."""
        self.port = _free_port()

    @property
    def root(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, words: Sequence[str], wait_s: float) -> None:
        """Start it and wait until it is healthy; `ModelError` with its own last words when it is not."""
        log = self.folder / "log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
        end = time.monotonic() + wait_s
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > end:
                last_line = log.read_bytes()[-400:].decode("utf-8", "replace").strip().rpartition("\n")[2]
                self.close()
                what = f"{Path(words[0]).name} did not begin to answer: {last_line or 'it said nothing'}"
                raise ModelError(what, hint="start it by hand to see what it says")
            time.sleep(_LOOK_EVERY_S)

    def _healthy(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self.root}/health", timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """End it, in order if it will."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()


def find_program(name: str, hint: str) -> str:
    """Return the path of a program; `MissingExtra` when it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise MissingExtra(f"the program {name!r} is not installed", where=SourceLocation(field="program"), hint=hint)
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


_SEEDS = 1 << 31


class LlamaServer(ModelRunner):
    """A model in llama.cpp's server."""

    def __init__(
        self, settings: LlamaCppEngine, text: ChatTokenizer, root: str, server: SubprocessServer | None, digest: str
    ) -> None:
        super().__init__(digest)
        self._settings, self._text, self._root, self._beside = settings, text, root, server
        self._calls = ToolCallFormat.of(text)
        self._spelling = DetokenizerFactory(text, GrammarCompiler(text, text.vocabulary).raw)
        self._turns = asyncio.Semaphore(settings.max_num_seqs)
        self._asked = 0
        self._http: httpx.AsyncClient | None = None

    @property
    def waiting(self) -> int:
        return max(0, self._asked - self._settings.max_num_seqs)

    @property
    def running(self) -> int:
        return min(self._asked, self._settings.max_num_seqs)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()
        if self._beside is not None:
            await asyncio.to_thread(self._beside.close)

    async def answer(self, query: EngineRequest) -> AsyncGenerator[OutputChunk, None]:
        ids = await asyncio.to_thread(self._ids, query)
        body = self._body(ids, query)
        if self._asked + query.answers > self._settings.max_num_seqs + self._settings.max_queue_size:
            raise ServerBusyError(f"{self.waiting} answers wait already", retry_after_s=2.0)
        self._asked += query.answers
        try:
            streams = [self._one(number, ids, body, query) for number in range(query.answers)]
            async with aclosing(merge_output_streams(streams, 0)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._asked -= query.answers

    def _ids(self, query: EngineRequest) -> list[int]:
        if query.tools is not None and (self._calls is None or query.tools.choice == "required"):
            what = (
                "this engine forces no calls" if self._calls else "this model's chat template has no calls it can read"
            )
            raise APIError(what, param="tools", code="unsupported_parameter")
        if query.text is None:
            try:
                return self._text.prompt(query.messages, query.tools.offered if query.tools else ())
            except LuthierError as error:
                raise to_api_error(error, "messages") from error
        if isinstance(query.text, str):
            return encode_plain_texts(self._text, [query.text])[0] or [bos_or_eos_id(self._text)]
        return list(query.text)

    def _body(self, ids: list[int], query: EngineRequest) -> dict[str, Any]:
        room = self._settings.context - len(ids)
        if room < 1 or (query.max_tokens or 1) > room:
            what = f"the prompt has {len(ids)} tokens; there is room for {max(0, room)} more"
            raise APIError(what, param="max_tokens" if room > 0 else "messages", code="context_length_exceeded")
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
        self, number: int, ids: list[int], body: dict[str, Any], query: EngineRequest
    ) -> AsyncGenerator[OutputChunk, None]:
        """Return one of the answers."""
        seed = secrets.randbelow(_SEEDS) if query.seed is None else (query.seed + number) % _SEEDS
        scribe = OutputProcessor(number, query, self._spelling, self._calls, len(ids))
        async with self._turns, aclosing(self._events({**body, "seed": seed})) as events:
            async for event in events:
                for output in _parse_event(event, query):
                    piece = scribe.take(output)
                    if piece is not None:
                        yield piece
                    if scribe.over:
                        return
                if event.get("stop"):
                    finish: Finish = "length" if event.get("stop_type") == "limit" else "stop"
                    yield scribe.end(finish, int((event.get("timings") or {}).get("cache_n") or 0))
                    return
        raise ModelUnavailableError("llama.cpp's server ended in the middle of an answer", status=502)

    async def _events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        import httpx

        if self._http is None:
            self._http = httpx.AsyncClient(timeout=self._settings.timeout_s, trust_env=False)
        try:
            async with self._http.stream("POST", f"{self._root}/completion", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    message = (await response.aread())[:300].decode("utf-8", "replace")
                    raise ModelUnavailableError(
                        f"llama.cpp's server answered {response.status_code}: {message}", status=502
                    )
                async for event in _lines(response):
                    yield event
        except httpx.HTTPError as error:
            raise ModelUnavailableError(
                f"llama.cpp's server gave no answer: {type(error).__name__}", status=502
            ) from error


async def _lines(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            payload = json.loads(line.removeprefix("data:"))
            if isinstance(payload, dict):
                yield payload


def _parse_event(event: dict[str, Any], query: EngineRequest) -> list[EngineOutput]:
    """The tokens of one event, each with its log-probabilities where they are wanted."""
    from luthier.models.generation.sampling import TokenOutput

    probabilities = event.get("completion_probabilities") or []
    found = []
    for index, token in enumerate(event.get("tokens") or []):
        about = probabilities[index] if index < len(probabilities) else {}
        top = tuple((int(entry["id"]), float(entry["logprob"])) for entry in about.get("top_logprobs") or ())
        found.append(
            EngineOutput(TokenOutput(0, int(token), float(about.get("logprob", 0.0)), top[: query.top_logprobs], None))
        )
    return found
