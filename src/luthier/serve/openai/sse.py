"""Server-sent events, and cancellation of work when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")


class ClientDisconnected(Exception):  # it is no error
    """The client went away."""


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of some work; it is cancelled, and `ClientDisconnected` raised, when the client goes away before."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leaving(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


class EventStreamResponse(Response):
    """A stream of server-sent events. A client that reads slowly is waited for, and only it waits."""

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        *,
        until: float,
        after: Callable[[], Awaitable[None]],
        sent: Callable[[], None],
    ) -> None:
        """`until` is the loop's time after which a client that still reads is left; `after` is called in any case, and
        `sent` with the last byte on its way."""
        all_headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers}
        super().__init__(headers=all_headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events, self._until, self._after, self._sent = events, until, after, sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a disconnect ends the stream."""
        try:
            async with asyncio.timeout_at(self._until):
                await cancel_on_disconnect(receive, self._pump(send))
        except (ClientDisconnected, OSError, TimeoutError):
            return  # nobody reads on; what was being written has ended with the stream
        finally:
            await self._after()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self._sent()


class TrackedJSONResponse(JSONResponse):
    """A whole JSON response that is recorded in the request's trace once it is sent."""

    def __init__(
        self, content: Any, headers: Mapping[str, str], *, status: int = 200, sent: Callable[[], None]
    ) -> None:
        """`sent` is called with the last byte on its way."""
        super().__init__(content, status_code=status, headers=headers)
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await super().__call__(scope, receive, send)
        self._sent()


class TrackedTextResponse(PlainTextResponse):
    """A whole answer that is plain text."""

    def __init__(self, content: str, headers: Mapping[str, str], *, sent: Callable[[], None]) -> None:
        """`sent` is called with the last byte on its way."""
        super().__init__(content, headers=headers)
        self._sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await super().__call__(scope, receive, send)
        self._sent()
