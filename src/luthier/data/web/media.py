"""Pictures, sounds and films that rows name by URL: fetched once under the rules of the web source, then kept.

CACHE/web/media/DIGEST.json     which addresses the rows of a source name, and what was fetched of each
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from luthier.core.component import add_field_descriptions
from luthier.core.errors import DataError, MissingExtra
from luthier.core.files import cache_folder, write_atomically
from luthier.core.hashing import digest_of
from luthier.core.system.net import redact_url

if TYPE_CHECKING:
    from luthier.data.web.crawl import CrawlRequest

USER_AGENT = "Luthier (prepares data for language models; obeys robots.txt)"


class MediaFetchSettings(BaseModel):
    """How pictures, sounds and films are fetched from the web. robots.txt is obeyed, also on redirects, and addresses
    inside private networks are refused. Each is fetched once and kept; `run` fetches, `plan` never does."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)

    edition: str = Field(default="1", min_length=1)
    """A name for the state of the files. With another name every one is asked for again."""
    user_agent: str = Field(default=USER_AGENT, min_length=3, pattern=r"^[\x20-\x7e]+$")
    """How the program introduces itself; the first word is what robots.txt knows it by. Say how to reach you."""
    delay_s: float = Field(default=1.0, ge=0)
    """Seconds between two requests to one host; more when its robots.txt asks for more."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds in which a file must have come whole."""
    retries: int = Field(default=2, ge=0, le=20)
    """How often a file is asked for again when its server is busy or cannot be reached."""
    file_bytes: int = Field(default=20_000_000, ge=1, le=256 << 20)
    """The largest file."""
    hosts: tuple[str, ...] = ()
    """Hosts that may lie inside a private network, such as `photos.local`; all others must be public."""

    def build_request(self, urls: Iterable[str], *, stops: bool) -> CrawlRequest:
        """What is asked for; `stops` where one file that cannot be had ends it."""
        from luthier.data.web.crawl import CrawlRequest

        pages = tuple(urls)
        return CrawlRequest(
            pages=pages, sitemap=None, glob="*", limit=max(1, len(pages)), edition=self.edition,
            user_agent=self.user_agent, delay_s=self.delay_s, timeout_s=self.timeout_s, retries=self.retries,
            page_bytes=self.file_bytes, hosts=self.hosts, stops=stops, text_only=False,
        )  # fmt: skip


def fetch_media(
    key: str, urls: Iterable[str], settings: MediaFetchSettings, say: Callable[[str], None], *, stops: bool
) -> None:
    """Fetch what is not here yet, and write down under a key what was fetched; a killed one goes on where it was.

    `DataError` names the URL that cannot be had, where one stops it; `MissingExtra` without the extra `web`.
    """
    from luthier.data.web.crawl import crawl

    requested = list(dict.fromkeys(urls))
    entries: dict[str, Any] = {}
    if requested:
        try:
            import protego  # noqa: F401  # asked for before anything is fetched
        except ImportError as error:
            raise MissingExtra("URLs of media need protego", hint="pip install 'luthier[web]'") from error
        found = crawl(settings.build_request(requested, stops=stops), say)
        entries = {digest_of(url): entry for url, entry in zip(_distinct(requested), found["pages"], strict=True)}
    write_atomically(_record(key), json.dumps(entries, ensure_ascii=False).encode())


def _distinct(urls: Iterable[str]) -> list[str]:
    """As a crawl asks for them: without the part behind #, each once."""
    return list(dict.fromkeys(url.partition("#")[0] for url in urls))


def _record(key: str) -> Any:
    return cache_folder() / "web" / "media" / f"{key}.json"


class FetchedMedia:
    """What was fetched under a key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._path = _record(key)

    def is_here(self) -> bool:
        """Whether all of it was fetched."""
        return bool(self._path.is_file())

    def fingerprint(self) -> str:
        """A digest of what was fetched."""
        return digest_of({name: entry.get("body", entry.get("problem")) for name, entry in self._entries.items()})

    def read(self, url: str) -> bytes:
        """The bytes of a URL; `DataError` says why they are not here."""
        from luthier.data.web.crawl import page_error, read_page_body
        from luthier.data.web.fetch import FetchError

        entry = self._entries.get(digest_of(url.partition("#")[0]))
        if entry is None:
            hint = "run again when nothing writes into the source; another `fetch: {edition: …}` fetches all anew"
            raise DataError(f"{redact_url(url)} was not among the addresses that were fetched", hint=hint)
        if "problem" in entry:
            error = page_error(entry["url"], FetchError(entry["problem"]))
            raise DataError(f"{entry['url']}: {entry['problem']}", hint=error.hint)
        return read_page_body(entry)

    @cached_property
    def _entries(self) -> Mapping[str, Any]:
        found: dict[str, Any] = json.loads(self._path.read_bytes()) if self._path.is_file() else {}
        return found
