"""A crawl: the pages that are asked for, each once, kept on the disk; afterwards it is read without the network.

CACHE/web/pages/DIGEST.json     what a server last said of one address: headers, where it ended, which body
CACHE/web/bodies/DIGEST         bytes, named by their digest
CACHE/web/crawls/DIGEST.json    a finished crawl: its pages in order, each with its body or its problem
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import chain, islice
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock

from luthier.core.errors import DataError, SourceLocation
from luthier.core.files import cache_folder, expand_env_vars, translate_write_errors, write_atomically
from luthier.core.hashing import digest_of
from luthier.core.system.net import redact_url
from luthier.data.web import page, sitemap
from luthier.data.web.fetch import FetchError, HttpResponse, RateLimitedFetcher
from luthier.data.web.robots import RobotsRules

_REPORT_EVERY_S = 10.0
_AGAIN = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}


@dataclass(frozen=True, kw_only=True)
class CrawlRequest:
    """Which pages, and how they are asked for."""

    pages: tuple[str, ...]
    sitemap: str | None
    glob: str
    limit: int
    edition: str
    user_agent: str
    delay_s: float
    timeout_s: float
    retries: int
    page_bytes: int
    hosts: tuple[str, ...]
    stops: bool
    """Whether a page that cannot be had stops the crawl."""
    is_from_settings: bool = False
    """Whether a recipe wrote the addresses: then `$NAME` in them stands for a variable. Addresses in rows are data."""
    text_only: bool = True
    """Whether only pages with text are taken; else files of any type."""

    @property
    def key(self) -> str:
        """Names the crawl: what decides which pages it holds."""
        hashed_settings = (
            self.pages,
            self.sitemap,
            self.glob,
            self.limit,
            self.edition,
            self.user_agent,
            self.page_bytes,
        )
        return digest_of([*hashed_settings, self.hosts, self.stops, *([] if self.text_only else ["any type"])])


def load_finished_crawl(request: CrawlRequest) -> dict[str, Any] | None:
    """The crawl as it was finished; None when it was not."""
    path = _folder() / "crawls" / f"{request.key}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def read_page_body(entry: Mapping[str, Any]) -> bytes:
    """The bytes of a page of a finished crawl; `DataError` when they are gone or changed."""
    path = _folder() / "bodies" / entry["body"]
    data: bytes | None = path.read_bytes() if path.is_file() else None
    if data is None or xxhash.xxh3_128_hexdigest(data) != entry["body"]:
        hint = f"remove the folder {_folder()}, and the pages are fetched anew"
        raise DataError("the kept page is gone or damaged", where=SourceLocation(file=entry["url"]), hint=hint)
    return data


def crawl(request: CrawlRequest, say: Callable[[str], None]) -> dict[str, Any]:
    """Fetch what is not here yet; a killed crawl goes on where it was."""
    path = _folder() / "crawls" / f"{request.key}.json"
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if (found := load_finished_crawl(request)) is not None:
            return found
        made = {"fetched": datetime.now(UTC).date().isoformat(), "pages": _Crawl(request, say).entries()}
        write_atomically(path, json.dumps(made, ensure_ascii=False, indent=1).encode())
        return made


def _folder() -> Path:
    return cache_folder() / "web"


class _Crawl:
    """One crawl under way."""

    def __init__(self, request: CrawlRequest, say: Callable[[str], None]) -> None:
        self._wanted = request
        self._say = say

    def entries(self) -> list[dict[str, Any]]:
        """Every page with its body or its problem, in order."""
        request = self._wanted
        self._say(f"asking as {request.user_agent!r}, one request to a host each {request.delay_s:g} s or as it wishes")
        made: list[dict[str, Any]] = []
        reported = time.monotonic()
        with RateLimitedFetcher(
            request.user_agent, request.delay_s, request.timeout_s, request.retries, request.hosts
        ) as fetcher:
            robots = RobotsRules(fetcher, re.split(r"[\s/]", request.user_agent)[0])
            for url in self._addresses(fetcher):
                made.append(self._entry(url, fetcher, robots))
                if time.monotonic() - reported >= _REPORT_EVERY_S:
                    reported = time.monotonic()
                    self._say(self._describe_progress(len(made)))
        return made

    def _describe_progress(self, fetched: int) -> str:
        """How many pages are here, of how many where that is known: a sitemap is read as the crawl goes."""
        request = self._wanted
        known = f" of {min(len(request.pages), request.limit)}" if request.pages and request.glob == "*" else ""
        return f"{fetched}{known} pages; an interrupted crawl goes on from here"

    def _addresses(self, fetcher: RateLimitedFetcher) -> Iterator[str]:
        request = self._wanted
        named: Iterator[str] = map(expand_env_vars, request.pages) if request.is_from_settings else iter(request.pages)
        if request.sitemap is not None:
            named = sitemap.list_page_urls(fetcher, expand_env_vars(request.sitemap), self._say)
        chosen = _distinct(named, request.glob)
        try:
            first = next(chosen, None)
            if first is None:
                where = SourceLocation(file=redact_url(request.sitemap or ""), field="glob")
                raise DataError("names no page", where=where, hint=f"check `glob`, which is {request.glob!r}")
            yield from islice(chain((first,), chosen), request.limit)
            if next(chosen, None) is not None:
                self._say(f"there are more pages than the limit of {request.limit}; the first are taken")
        except FetchError as error:
            where = SourceLocation(file=redact_url(request.sitemap or ""), field="sitemap")
            hint = _trusting(error, "open the address in a browser, and check it")
            raise DataError(error.problem, where=where, hint=hint) from None

    def _entry(self, url: str, fetcher: RateLimitedFetcher, robots: RobotsRules) -> dict[str, Any]:
        try:
            return self._kept(url) or self._fetched(url, fetcher, robots)
        except FetchError as error:
            if self._wanted.stops:
                raise page_error(redact_url(url), error) from None
            return {"url": redact_url(url), "problem": error.problem}

    def _place(self, url: str) -> Path:
        return _folder() / "pages" / f"{digest_of([url, self._wanted.user_agent])}.json"

    def _kept(self, url: str) -> dict[str, Any] | None:
        """What is here of this page from this edition."""
        known = self._known(url)
        if known is None or known.pop("edition") != self._wanted.edition or known["bytes"] > self._wanted.page_bytes:
            return None
        return known

    def _known(self, url: str) -> dict[str, Any] | None:
        with suppress(FileNotFoundError, ValueError, DataError):
            known: dict[str, Any] = json.loads(self._place(url).read_text(encoding="utf-8"))
            read_page_body(known)
            return known
        return None

    def _fetched(self, url: str, fetcher: RateLimitedFetcher, robots: RobotsRules) -> dict[str, Any]:
        known = self._known(url)
        headers = known["headers"] if known else {}
        conditional_headers = {ask: headers[name] for name, ask in _AGAIN.items() if name in headers}
        answer = fetcher.get(url, self._wanted.page_bytes, conditional_headers, robots.may)
        if answer.status == 304 and known is not None:
            made = {name: value for name, value in known.items() if name != "edition"}
        else:
            made = self._taken(url, answer)
        kept = json.dumps({**made, "edition": self._wanted.edition}, ensure_ascii=False)
        write_atomically(self._place(url), kept.encode())
        return made

    def _taken(self, url: str, answer: HttpResponse) -> dict[str, Any]:
        if self._wanted.text_only:
            page.detect_page_kind(answer.headers)
        digest = xxhash.xxh3_128_hexdigest(answer.body)
        write_atomically(_folder() / "bodies" / digest, answer.body)
        ended = redact_url(answer.url)
        return {
            "url": redact_url(url),
            "ended": ended,
            "headers": answer.headers,
            "body": digest,
            "bytes": len(answer.body),
        }


def _distinct(named: Iterable[str], glob: str) -> Iterator[str]:
    """The addresses that fit, without the part behind #, each once."""
    visited = set[str]()
    for url in named:
        bare = url.partition("#")[0]
        if bare not in visited and fnmatchcase(bare, glob):
            visited.add(bare)
            yield bare


def page_error(url: str, error: FetchError) -> DataError:
    """A page that cannot be had, as an error."""
    hint = "take it out, or set `on_error: drop` to leave such pages out and list them"
    if error.passing:
        hint = f"try again later (what was fetched is kept); or {hint}"
    return DataError(error.problem, where=SourceLocation(file=url), hint=_trusting(error, hint))


def _trusting(error: FetchError, hint: str) -> str:
    """What to do about it, where it may be one's own network, too."""
    if "private network" not in error.problem:
        return hint
    return f"if you trust it, name the host in `hosts`; else {hint}"
