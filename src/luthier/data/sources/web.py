"""Pages of the web."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core.files import EnvVarMarker
from luthier.core.hashing import digest_of
from luthier.core.system.net import find_plain_secret
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say, Source

if TYPE_CHECKING:
    from luthier.data.web.crawl import CrawlRequest

USER_AGENT = "Luthier (prepares text for language models; obeys robots.txt)"


class Web(Source):
    """The main text of web pages: those of a sitemap, or a list.

    robots.txt is obeyed, also on redirects, and addresses inside private networks are refused. Pages are fetched once
    and kept; `run` fetches them, `plan` never does. Columns: text, title, author, date, site, licence, url, robots.
    """

    kind: Literal["web"] = "web"
    libraries: ClassVar[Mapping[str, str]] = dict.fromkeys(("lxml", "protego", "trafilatura"), "web")

    sitemap: Annotated[str | None, EnvVarMarker()] = None
    """Address of a sitemap: XML, an index of several, or a list of lines; gzip is understood."""
    pages: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Addresses of pages, in place of a sitemap. A secret in an address must be `$NAME`."""
    glob: str = Field(default="*", min_length=1)
    """Which addresses are taken, such as `https://example.com/help/*`."""
    max_pages: int = Field(default=1000, ge=1)
    """At most so many pages, the first ones."""
    edition: str = Field(default="1", min_length=1)
    """A name for the state of the pages. With another name every page is asked for again (one that has not changed is
    not sent again); with the same, pages stay as they were fetched."""
    user_agent: str = Field(default=USER_AGENT, min_length=3, pattern=r"^[\x20-\x7e]+$")
    """How the crawler introduces itself; the first word is what robots.txt knows it by. Say how to reach you."""
    delay_s: float = Field(default=1.0, ge=0)
    """Seconds between two requests to one host; more when its robots.txt asks for more."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds in which a page must have come whole."""
    retries: int = Field(default=2, ge=0, le=20)
    """How often a page is asked for again when its server is busy or cannot be reached."""
    page_bytes: int = Field(default=5_000_000, ge=1)
    """The largest page, before and after unpacking."""
    hosts: tuple[str, ...] = ()
    """Hosts that may lie inside a private network, such as `wiki.local`; all others must be public."""

    @field_validator("sitemap", "pages")
    @classmethod
    def _no_secret_in_clear(cls, value: Any) -> Any:
        for url in (value,) if isinstance(value, str) else value or ():
            if (name := find_plain_secret(url)) is not None:
                raise ValueError(f"holds a secret in clear ({name}); write $NAME there, and export NAME=… first")
        return value

    @model_validator(mode="after")
    def _one_list(self) -> Web:
        if bool(self.pages) == (self.sitemap is not None):
            raise ValueError("wants either `sitemap` or `pages`; name one of them")
        return self

    @property
    def crawl_request(self) -> CrawlRequest:
        """What is asked for."""
        from luthier.data.web.crawl import CrawlRequest

        self.check_installed(Path())
        return CrawlRequest(
            pages=self.pages,
            sitemap=self.sitemap,
            glob=self.glob,
            limit=min(self.max_pages, self.limit or self.max_pages),
            edition=self.edition,
            user_agent=self.user_agent,
            delay_s=self.delay_s,
            timeout_s=self.timeout_s,
            retries=self.retries,
            page_bytes=self.page_bytes,
            hosts=self.hosts,
            stops=self.on_error == "stop",
            is_from_settings=True,
        )

    def gather(self, recipe_dir: Path, say: Say) -> None:
        """Fetch the pages that are not here yet."""
        from luthier.data.web.crawl import crawl, load_finished_crawl

        if load_finished_crawl(self.crawl_request) is None:
            crawl(self.crawl_request, say)

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield the text of every page in order, fetched first when it is not here; a page is its own file."""
        from luthier.data.web.crawl import crawl

        found = crawl(self.crawl_request, say)
        say(f"{len(found['pages'])} pages as they were on {found['fetched']}; another `edition` asks for them again")
        for entry in found["pages"]:
            yield _row(entry)

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """A digest of the fetched pages; None when they are not here."""
        from luthier.data.web.crawl import load_finished_crawl

        found = load_finished_crawl(self.crawl_request)
        return None if found is None else digest_of(found["pages"])

    def here(self, recipe_dir: Path) -> Source | None:
        """The source itself, when the pages are here already."""
        from luthier.data.web.crawl import load_finished_crawl

        return self if load_finished_crawl(self.crawl_request) is not None else None

    def size(self, recipe_dir: Path) -> int | None:
        """The pages' bytes, when they are here."""
        from luthier.data.web.crawl import load_finished_crawl

        found = load_finished_crawl(self.crawl_request)
        return None if found is None else sum(entry.get("bytes", 0) for entry in found["pages"])


def _row(entry: dict[str, Any]) -> SourceRecord | BrokenRow:
    from luthier.data.web import page
    from luthier.data.web.crawl import page_error, read_page_body
    from luthier.data.web.fetch import FetchError

    try:
        if "problem" in entry:
            raise FetchError(entry["problem"])
        return SourceRecord(
            page.extract_page_row(read_page_body(entry), entry["headers"], entry["ended"]), entry["url"], 1
        )
    except FetchError as error:
        return BrokenRow(entry["url"], 1, error.problem, hint=page_error(entry["url"], error).hint)
