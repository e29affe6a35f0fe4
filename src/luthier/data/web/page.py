"""Extract the text of a web page: decode its bytes, then use trafilatura; no script is run."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any

from luthier.data.web.fetch import FetchError

_PAGES = ("text/html", "application/xhtml+xml")
_TEXTS = ("text/plain", "text/markdown")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s{0,5}=\s{0,5}[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_HEADER_CHARSET = re.compile(r"charset\s{0,5}=\s{0,5}[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DATES = {"extensive_search": False, "max_date": "2100-01-01"}
"""Dates that a page states about itself; without a bound of its own the search would look at the clock."""


def detect_page_kind(headers: Mapping[str, str]) -> str:
    """`page` or `text`; `FetchError` for what is neither."""
    kind = headers.get("content-type", "text/html").partition(";")[0].strip().lower()
    if kind in _PAGES:
        return "page"
    if kind in _TEXTS:
        return "text"
    raise FetchError(f"expected a page, got {kind or 'nothing'}")


def decode_page(body: bytes, headers: Mapping[str, str]) -> str:
    """The bytes as text: a mark or valid UTF-8 speaks for itself, whatever is declared; then what is declared."""
    for mark, name in _MARKS:
        if body.startswith(mark):
            return body.decode(name, "replace")
    if not body.isascii() and (text := _strict(body, "utf-8")) is not None:
        return text
    in_header = _HEADER_CHARSET.search(headers.get("content-type", ""))
    in_page = _META_CHARSET.search(body[:2048])
    declared = [in_header[1] if in_header else "", in_page[1].decode("ascii") if in_page else ""]
    for name in (*declared, "utf-8", "cp1252"):
        if name and (text := _strict(body, name)) is not None:
            return text
    return body.decode("latin-1")


def _strict(body: bytes, name: str) -> str | None:
    try:
        return body.decode(name)
    except (LookupError, UnicodeError):
        return None


def extract_page_row(body: bytes, headers: Mapping[str, str], url: str) -> dict[str, Any]:
    """The columns of a row; `FetchError` when the page has no main text."""
    text = decode_page(body, headers).replace("\0", "")
    found: dict[str, Any] = {"text": text.strip()}
    tags = headers.get("x-robots-tag", "")
    if detect_page_kind(headers) == "page":
        found = _extracted(text, url)
        tags = ", ".join(filter(None, (tags, found.pop("robots"))))
    if not found["text"]:
        raise FetchError("has no main text")
    return {**found, "url": url, "robots": tags or None}


def _extracted(text: str, url: str) -> dict[str, Any]:
    import trafilatura

    tree = trafilatura.load_html(text) if text.strip() else None
    if tree is None:
        return {"text": "", "robots": ""}
    robots = tree.xpath("//meta[translate(@name, 'ROBTS', 'robts') = 'robots']/@content")
    licences = tree.xpath("//*[self::link or self::a][contains(concat(' ', @rel, ' '), ' license ')]/@href")
    document: Any = trafilatura.bare_extraction(
        text, url=url, include_comments=False, with_metadata=True, date_extraction_params=dict(_DATES)
    )
    metadata: Mapping[str, Any] = document.as_dict() if document is not None else {}
    return {
        "text": (metadata.get("text") or "").strip(),
        "title": metadata.get("title"),
        "author": metadata.get("author"),
        "date": metadata.get("date"),
        "site": metadata.get("sitename"),
        "licence": (str(licences[0]) if licences else None) or metadata.get("license"),
        "robots": ", ".join(str(each).strip() for each in robots),
    }
