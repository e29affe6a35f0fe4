"""The pages that a sitemap names: XML, an index of others, a list of lines, packed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO

from luthier.data.web.fetch import FetchError, RateLimitedFetcher, gunzip_with_limit

LIMIT = 50 << 20
"""Bytes of one sitemap, unpacked (sitemaps.org)."""
MOST = 1000
"""Sitemaps that are followed from one index."""


def list_page_urls(fetcher: RateLimitedFetcher, url: str, note: Callable[[str], None]) -> Iterator[str]:
    """The addresses in order, each once; a sitemap below an index that is not there is noted."""
    waiting, visited, given = [url], {url}, set[str]()
    while waiting:
        at = waiting.pop(0)
        try:
            found, below = parse_sitemap(gunzip_with_limit(fetcher.get(at, LIMIT).body, LIMIT))
        except FetchError as error:
            if at == url:
                raise
            note(f"{at}: {error.problem}")
            continue
        for page in found:
            if page not in given:
                given.add(page)
                yield page
        new = [each for each in dict.fromkeys(below) if each not in visited]
        if len(visited) + len(new) > MOST:
            raise FetchError(f"names more than {MOST} sitemaps")
        visited.update(new)
        waiting += new


def parse_sitemap(data: bytes) -> tuple[list[str], list[str]]:
    """Pages, and further sitemaps, that one file names."""
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
        return [line for line in lines if line.startswith(("http://", "https://"))], []
    from lxml import etree

    found: dict[str, list[str]] = {"url": [], "sitemap": []}
    try:
        steps = etree.iterparse(
            BytesIO(data), tag="{*}loc", resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
        )
        for _, element in steps:
            parent = element.getparent()
            kind = etree.QName(parent).localname if parent is not None else ""
            if kind in found and element.text:
                found[kind].append(element.text.strip())
    except etree.XMLSyntaxError as error:
        raise FetchError(f"is not a sitemap that can be read: {error.msg}") from None
    return found["url"], found["sitemap"]
