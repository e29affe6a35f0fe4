"""Two lines for an application that asks a model elsewhere: it keeps the same log.

    from luthier.traces.client import watched

    client = watched(OpenAI())

It works for the official `openai` clients, plain and asynchronous, and for Azure's, streams included, since it listens
where they send: `build_tracing_transport` does the same for anything else that speaks OpenAI's API over httpx.
"""

from __future__ import annotations

import importlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from luthier.chat.messages import Media
from luthier.traces.record import RequestOutcome, assemble_stream_chunks, build_trace
from luthier.traces.recorder import TraceRecorder
from luthier.traces.retention import RetentionPolicy, traffic_folder

if TYPE_CHECKING:
    from luthier.traces.record import Trace

KeepMedia = Callable[[Mapping[Media, bytes]], None]
Client = TypeVar("Client")
_PATHS = ("/chat/completions", "/completions", "/embeddings")
_LONGEST = 64 << 20
"""Of a longer answer nothing is read along."""
_LOG = logging.getLogger("luthier.traces")


def trace_client(client: Client, folder: Path | str | None = None, keeping: RetentionPolicy | None = None) -> Client:
    """The same client, whose requests are kept in a traffic folder (the one here, or `LUTHIER_TRAFFIC`)."""
    recorder = _recorder(Path(folder) if folder is not None else traffic_folder(Path()), keeping)
    openai: Any = importlib.import_module("openai")  # whoever has a client has it
    untyped_client: Any = client
    kind: Any = openai.DefaultAsyncHttpxClient if isinstance(client, openai.AsyncOpenAI) else openai.DefaultHttpxClient
    library = importlib.import_module(kind.__mro__[-2].__module__.partition(".")[0])
    listening = _asynchronous(library) if kind is openai.DefaultAsyncHttpxClient else _plain(library)
    transport = listening(recorder.record, recorder.keep_media)
    made: Client = untyped_client.with_options(http_client=kind(transport=transport))
    return made


@cache
def _recorder(folder: Path, keeping: RetentionPolicy | None) -> TraceRecorder:
    """One for all clients of a process; it is closed when the process ends."""
    return TraceRecorder(folder, keeping)


class _Heard:
    """One request on its way, and the trace that it comes to."""

    def __init__(self, request: Any, record: Callable[[Trace], None], keep_media: KeepMedia | None) -> None:
        self._record, self._keep_media = record, keep_media
        self._at, self._began = datetime.now(UTC), time.perf_counter()
        self._request = _json(request.content)
        self._first: float | None = None
        self._pieces = list[bytes]()
        self._size, self._over = 0, False
        self.status, self.is_stream = 0, False

    def answered(self, response: Any) -> None:
        """The head of the answer."""
        self.status = response.status_code
        self.is_stream = response.headers.get("content-type", "").startswith("text/event-stream")

    def piece(self, data: bytes) -> None:
        """Some of the answer."""
        if self._first is None:
            self._first = time.perf_counter() - self._began
        self._size += len(data)
        if self._size <= _LONGEST:
            self._pieces.append(data)

    def __enter__(self) -> None:
        """Whatever ends what stands inside is how the request ended."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.end(kind.__name__)

    def end(self, error: str = "") -> None:
        """The answer is over, or broke off; never a reason for the application to fail."""
        if self._over:
            return
        self._over = True
        try:
            media: dict[Media, bytes] = {}
            trace = self._trace(error, media)
            self._record(trace)
            if self._keep_media is not None and media and trace.status == 200 and not trace.error:
                self._keep_media(media)
        except Exception:  # noqa: BLE001  # watching must not break what is watched; the log tells
            _LOG.exception("a request could not be recorded")

    def _trace(self, error: str, media: dict[Media, bytes]) -> Trace:
        body = b"".join(self._pieces) if self._size <= _LONGEST else b""
        whole = assemble_stream_chunks(_events(body)) if self.is_stream else _json(body)
        if self.status >= 400 and not error:
            error = str(_mapping(whole.get("error")).get("message") or f"HTTP {self.status}")
        outcome = RequestOutcome(
            id=str(whole.get("id") or f"watched-{time.time_ns():x}"),
            timestamp=self._at,
            latency_s=time.perf_counter() - self._began,
            first_token_s=self._first if self.is_stream else None,
            status=self.status or 599,
            error=error,
        )
        return build_trace(self._request, whole, outcome, media)


def _is_asked(request: Any) -> bool:
    return bool(request.method == "POST" and request.url.path.endswith(_PATHS))


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    """The pieces of a stream of events."""
    for line in body.split(b"\n"):
        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
            yield _json(line[5:])


def build_tracing_transport(
    record: Callable[[Trace], None], library: Any = httpx, keep_media: KeepMedia | None = None
) -> Any:
    """A transport for a client of `httpx` (or of what is like it): it sends on, and records what models are asked.

    `keep_media` takes the bytes of the pictures and sounds of a request that was answered.
    """
    return _plain(library)(record, keep_media)


@cache
def _plain(library: Any) -> Any:
    class Stream(library.SyncByteStream):  # type: ignore[misc]  # of whichever library the client uses
        def __init__(self, inner: Any, exchange: _Heard) -> None:
            self._inner, self._heard = inner, exchange

        def __iter__(self) -> Iterator[bytes]:
            for data in self._inner:
                self._heard.piece(data)
                yield data
            self._heard.end()

        def close(self) -> None:
            self._heard.end("broke off")
            self._inner.close()

    class Listening(library.BaseTransport):  # type: ignore[misc]  # as above
        def __init__(self, record: Callable[[Trace], None], keep_media: KeepMedia | None = None) -> None:
            self._record, self._keep_media, self._inner = record, keep_media, library.HTTPTransport()

        def handle_request(self, request: Any) -> Any:
            if not _is_asked(request):
                return self._inner.handle_request(request)
            request.headers["accept-encoding"] = "identity"  # what is read along is read as it comes
            request.read()
            exchange = _Heard(request, self._record, self._keep_media)
            with exchange:
                response = self._inner.handle_request(request)
            exchange.answered(response)
            response.stream = Stream(response.stream, exchange)
            return response

        def close(self) -> None:
            self._inner.close()

    return Listening


@cache
def _asynchronous(library: Any) -> Any:
    class Stream(library.AsyncByteStream):  # type: ignore[misc]  # of whichever library the client uses
        def __init__(self, inner: Any, exchange: _Heard) -> None:
            self._inner, self._heard = inner, exchange

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for data in self._inner:
                self._heard.piece(data)
                yield data
            self._heard.end()

        async def aclose(self) -> None:
            self._heard.end("broke off")
            await self._inner.aclose()

    class Listening(library.AsyncBaseTransport):  # type: ignore[misc]  # as above
        def __init__(self, record: Callable[[Trace], None], keep_media: KeepMedia | None = None) -> None:
            self._record, self._keep_media, self._inner = record, keep_media, library.AsyncHTTPTransport()

        async def handle_async_request(self, request: Any) -> Any:
            if not _is_asked(request):
                return await self._inner.handle_async_request(request)
            request.headers["accept-encoding"] = "identity"
            await request.aread()
            exchange = _Heard(request, self._record, self._keep_media)
            with exchange:
                response = await self._inner.handle_async_request(request)
            exchange.answered(response)
            response.stream = Stream(response.stream, exchange)
            return response

        async def aclose(self) -> None:
            await self._inner.aclose()

    return Listening
