"""HTTP to schedulers whose official clients are heavy: one request, its errors in a person's words.

What is only read is asked again while the scheduler is busy, broken or away; what changes something is sent once, since
a run that is started again finds its job by its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from luthier.core.errors import SourceLocation, SystemResourceError

_SECONDS = 60.0
"""How long one answer may take."""
_PATIENCE_S = 120.0
"""How long something is read again before the scheduler counts as away."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_ANSWERED = set[str]()
"""Addresses that answered this process; one that never did is not waited for."""
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_MOST_TEXT = 600
WHERE = SourceLocation(field="on")


class SchedulerTimeoutError(SystemResourceError):
    """A scheduler did not answer what changes something: nobody knows whether it was done."""


class SchedulerApi:
    """The REST API of one scheduler."""

    def __init__(self, name: str, url: str, headers: Callable[[], Mapping[str, str]]) -> None:
        self._name, self._url, self._headers = name, url.rstrip("/"), headers

    def read(self, path: str) -> dict[str, Any] | None:
        """What stands at a path; None where there is nothing."""
        began, wait = time.monotonic(), _FIRST_WAIT_S
        while True:
            status, found, text = self._send("GET", path, None)
            if status == 404:
                return None
            if status is not None and status < 400:
                return found
            if status is not None and status not in _PASSING:
                raise self._refusal(status, text)
            if self._url not in _ANSWERED or time.monotonic() - began + wait > _PATIENCE_S:
                raise self._refusal(status, text)
            time.sleep(wait)
            wait = min(_LONGEST_WAIT_S, 2 * wait)

    def find_newest(self, path_of: Callable[[int], str]) -> tuple[int, dict[str, Any] | None]:
        """The number of the newest of jobs that are numbered from 1, and what stands there; 0 and None without any."""
        newest, number = None, 0
        while (found := self.read(path_of(number + 1))) is not None:
            newest, number = found, number + 1
        return number, newest

    def change(self, method: str, path: str, body: Any = None, *, unless: tuple[int, ...] = ()) -> int:
        """Send what changes something, once; `unless` are answers that are no errors. Returns the status;
        `SchedulerTimeoutError` where it may have been done for all that is known."""
        status, _, text = self._send(method, path, body)
        if status is None or (status >= 400 and status not in unless):
            refusal = self._refusal(status, text)
            if status is None or status >= 500:
                raise SchedulerTimeoutError(refusal.message, where=refusal.where, hint=refusal.hint)
            raise refusal
        return status

    def _send(self, method: str, path: str, body: Any) -> tuple[int | None, dict[str, Any], str]:
        import httpx

        headers = dict(self._headers())
        try:
            response = httpx.request(method, f"{self._url}/{path}", json=body, headers=headers, timeout=_SECONDS)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            return None, {}, type(error).__name__
        _ANSWERED.add(self._url)
        try:
            found = response.json()
        except ValueError:
            found = {}
        text = _find_message(found) or response.text
        for secret in headers.values():
            text = text.replace(secret, "…")
        return response.status_code, found if isinstance(found, dict) else {}, " ".join(text.split())[:_MOST_TEXT]

    def _refusal(self, status: int | None, text: str) -> SystemResourceError:
        if status is None:
            message = f"{self._name} cannot be reached at {self._url} ({text})"
            hint = "jobs that run go on, and running again finds them"
        else:
            message, hint = f"{self._name} refused: {status} {text}".rstrip(), "look at the executor's settings"
            if status in (401, 403):
                hint = "look at the credentials of this machine: `luthier doctor --on EXECUTOR` tries them"
        return SystemResourceError(message, where=WHERE, hint=hint)


def _find_message(found: Any) -> str:
    """The sentence of an error, as Google and Azure write it."""
    error = found.get("error") if isinstance(found, dict) else None
    return str(error.get("message", "")) if isinstance(error, dict) else ""


__all__ = ["WHERE", "SchedulerApi", "SchedulerTimeoutError"]
