"""HTTP client of a fine-tuning provider: bounded retries, and an error when it is unknown whether a request took
effect.

The key is read from the environment at each call, and removed from everything that the provider returns.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from luthier.core.errors import LuthierError, ModelError, SourceLocation

if TYPE_CHECKING:
    import httpx

    Say = Callable[[str], None]
    """Takes a sentence for the user."""

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
BUSY = 429
NOT_FOUND = 404
_REFUSED_KEY = (401, 403)
_UNKNOWN = frozenset({408, 500, 502, 503, 504, 529})
"""Status codes after which it is unknown whether the request took effect."""
_MOST_SAID = 300
Result = TypeVar("Result")


class ProviderRefusalError(ModelError):
    """A provider refused a request."""

    def __init__(self, message: str, status: int, hint: str) -> None:
        super().__init__(message, where=SourceLocation(field="technique"), hint=hint)
        self.status = status


class LostRequestError(Exception):
    """A request that changes something, of which it is unknown whether it took effect."""


class ProviderAuth(Protocol):
    """Signs requests and knows its secrets."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must not appear in an error or a log."""
        ...

    def sign(self, request: httpx.Request) -> httpx.Request:
        """Return the request with its credentials."""
        ...


class ProviderClient:
    """Calls the API of one provider; used as a context manager."""

    def __init__(
        self,
        url: str,
        key_env: str | None,
        say: Say,
        *,
        patience_s: float,
        timeout_s: float,
        key_header: str | None = None,
        params: Mapping[str, str] | None = None,
        auth: ProviderAuth | None = None,
    ) -> None:
        """`key_header` carries the bare key in place of `Authorization: Bearer`; `params` are in every request; `auth`
        signs requests in place of a key."""
        import httpx

        self.url, self._key_env, self._say = url.rstrip("/"), key_env, say
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._auth, self._key = auth, _read_key(key_env)
        headers = {key_header or "Authorization": self._key if key_header else f"Bearer {self._key}"}
        try:
            self._http = httpx.Client(
                base_url=f"{self.url}/",
                headers=headers if self._key else {},
                timeout=timeout_s,
                params=dict(params or {}),
                auth=auth.sign if auth is not None else None,
            )
        except httpx.InvalidURL as error:
            hint = "as in https://api.openai.com/v1"
            where = SourceLocation(field="technique.url")
            raise ModelError(f"{self.url} is no address: {error}", where=where, hint=hint) from error

    def __enter__(self) -> ProviderClient:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int) -> dict[str, Any]:
        """Return the JSON at an address; retried while the provider is busy, failing or unreachable."""
        return self._repeat(lambda: self._send("GET", path, params=params))

    def post(self, path: str, body: Mapping[str, Any], **params: str) -> dict[str, Any]:
        """Return the response to a request that changes something; `LostRequestError` where it may have
        taken effect.
        """
        return self._send("POST", path, json=dict(body), params=params)

    def upload(self, path: str, file: Path, name: str, fields: Mapping[str, str]) -> dict[str, Any]:
        """Upload a file and return the response; `LostRequestError` where it may have arrived."""
        with file.open("rb") as opened:
            return self._send("POST", path, data=dict(fields), files={"file": (name, opened, "application/jsonl")})

    def send_file(self, method: str, path: str, file: Path) -> None:
        """Send the bytes of a file to an address that may receive them twice without harm."""
        headers = {"Content-Type": "application/jsonl"}
        self._repeat(lambda: self._request(method, path, content=file.read_bytes(), headers=headers))

    def exists(self, path: str) -> bool:
        """Return whether there is something readable at an address."""
        try:
            self._repeat(lambda: self._request("HEAD", path))
        except ProviderRefusalError as error:
            if error.status in (NOT_FOUND, *_REFUSED_KEY):
                return False
            raise
        return True

    def download(self, path: str, to: Path) -> None:
        """Write the content of an address to a file; retried while the provider is busy, failing or unreachable.

        A complete URL, as providers sign them, is requested without the key.
        """
        self._repeat(lambda: self._receive(path, to))

    def _receive(self, path: str, to: Path) -> None:
        import httpx

        try:
            with ExitStack() as stack:
                signed = "://" in path
                http = stack.enter_context(httpx.Client(timeout=self._timeout_s)) if signed else self._http
                response = stack.enter_context(http.stream("GET", path, follow_redirects=True))
                if not response.is_success:
                    response.read()
                    self._refuse(response)
                digest = hashlib.md5(usedforsecurity=False)
                with to.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
                        digest.update(chunk)
                if _read_md5(response) not in (None, digest.digest()):
                    raise LostRequestError(f"sent other bytes than its digest says of {to.name}")
        except httpx.TransportError as error:
            raise LostRequestError(f"does not answer ({type(error).__name__})") from None

    def find_or_create(self, find: Callable[[], Result | None], create: Callable[[], Result]) -> Result:
        """Return what `find` finds, else what `create` makes.

        After a request of which it is unknown whether it took effect, `find` runs again, so that nothing is created
        twice.
        """

        def once() -> Result:
            return create() if (result := find()) is None else result

        return self._repeat(once)

    def hide_key(self, text: str) -> str:
        """Return a text without the key, in case the provider repeats it."""
        for secret in filter(None, (self._key, *(self._auth.secrets if self._auth is not None else ()))):
            text = text.replace(secret, "…")
        return text

    def _repeat(self, ask: Callable[[], Result]) -> Result:
        """Return the response within the time that the user allows."""
        began, wait = monotonic(), FIRST_WAIT_S
        while True:
            try:
                return ask()
            except (LostRequestError, BusyError) as error:
                pause = min(LONGEST_WAIT_S, error.after if isinstance(error, BusyError) and error.after else wait)
                if monotonic() - began + pause > self._patience_s:
                    what = f"{self.url} {error}, and has not done so for {self._patience_s:g} s (`patience_s`)"
                    hint = "run it again later: what was uploaded and started there is found again"
                    raise ModelError(what, where=SourceLocation(field="technique"), hint=hint) from None
                self._say(f"{self.url} {error}; asking again in {pause:g} s")
                sleep(pause)
                wait = min(LONGEST_WAIT_S, 2 * wait)

    def _send(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        return self._read(self._request(method, path, **more))

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        import httpx

        try:
            response = self._http.request(method, path, **more)
        except httpx.TransportError as error:
            raise LostRequestError(f"does not answer ({type(error).__name__})") from None
        if not response.is_success:
            self._refuse(response)
        return response

    def _refuse(self, response: httpx.Response) -> NoReturn:
        """Raise the error that a response stands for."""
        status, text = response.status_code, self.hide_key(_read_message(response.text))
        if status == BUSY:
            raise BusyError(f"answered 429: {text}", response.headers.get("retry-after", ""))
        if status in _UNKNOWN:
            raise LostRequestError(f"answered {status}: {text}")
        hint = "look at the model's name, the address and the rows"
        if status in _REFUSED_KEY:
            hint = f"look at the key in ${self._key_env}" if self._key_env else "name the key's variable in `key_env`"
        raise ProviderRefusalError(f"{self.url} answered {status}: {text}", status, hint)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            record = response.json()
        except ValueError:
            record = None
        if not isinstance(record, dict):
            text = self.hide_key(response.text)[:80]
            hint = "is this the address of such an API? what was started there is found again by the next run"
            raise ProviderRefusalError(f"{self.url} answered what is no JSON object: {text!r}", 0, hint)
        return record


class BusyError(Exception):
    """The provider asks to retry later; nothing was done."""

    def __init__(self, text: str, after: str) -> None:
        super().__init__(text)
        self.after = float(after) if after.isdecimal() else 0.0


def is_missing(error: LuthierError) -> bool:
    """Return whether an error says that the requested thing does not exist."""
    return isinstance(error, ProviderRefusalError) and error.status == NOT_FOUND


def _read_md5(response: httpx.Response) -> bytes | None:
    """Return the MD5 of a file as its store reports it: Google by `x-goog-hash`, Azure and others by `Content-MD5`."""
    google = [part.strip() for part in response.headers.get("x-goog-hash", "").split(",")]
    values = [part.removeprefix("md5=") for part in google if part.startswith("md5=")]
    if not values and "content-encoding" not in response.headers:
        values = [value] if (value := response.headers.get("content-md5")) else []
    try:
        return base64.b64decode(values[0], validate=True) if values else None
    except ValueError:
        return None


def _read_key(name: str | None) -> str:
    if name is None:
        return ""
    if not (key := os.environ.get(name, "").strip()):
        where, hint = SourceLocation(field="technique.key_env"), f"`export {name}=…`, or set `key_env: null`"
        raise ModelError(f"the environment variable {name} is not set", where=where, hint=hint)
    return key


def _read_message(text: str) -> str:
    """Return the message in an error's body, or the start of the body."""
    try:
        record = json.loads(text)
    except ValueError:
        return text.strip()[:_MOST_SAID]
    error = record.get("error", record) if isinstance(record, dict) else record
    message = error.get("message") if isinstance(error, dict) else error
    return str(message if message is not None else text).strip()[:_MOST_SAID]
