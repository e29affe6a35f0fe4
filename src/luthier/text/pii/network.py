"""Addresses of machines: IP versions 4 and 6, and MAC, but no versions of programs."""

from __future__ import annotations

import ipaddress
import re

from luthier.text.pii.found import Marks, Span, Spans, near

_MAC = re.compile(
    r"[0-9A-Fa-f](?<![0-9A-Za-z:.-][0-9A-Fa-f])[0-9A-Fa-f]([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![0-9A-Za-z:-])"
)
_IPV4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\d)")
_IPV6_MARK = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6_CHARS = frozenset("0123456789abcdefABCDEF:")
_IPV6_LONGEST = 39
_COLONS = 2
_VERSION_BEFORE = re.compile(
    r"\bv$|\b(?:versions?|releases?|build|firmware|ver|rev|upgraded?|updated?)\b[ .:]{0,2}"
    r"(?:(?:of|is|on|in|to|from|the|my|your|now|at|sensors?|device|router|app) ){0,5}$"
    r"|(?:版本?|バージョン?|버전?)[、:： ]{0,2}$",
    re.IGNORECASE,
)


def macs(text: str, _marks: Marks) -> Spans:
    """Hardware addresses in pairs; letters tell them from times."""
    if text.count(":") >= 5 or text.count("-") >= 5:
        for found in _MAC.finditer(text):
            if not found[0].replace(":", "").replace("-", "").isdigit():
                yield Span(*found.span())


def fours(text: str, marks: Marks) -> Spans:
    """Addresses of version 4, where no word says that it is a version."""
    for found in near(_IPV4, text, marks, 7):
        before = text[max(0, found.start() - 50) : found.start()]
        if is_ip(found[0]) and not _VERSION_BEFORE.search(before):
            yield Span(*found.span(), "4")


def sixes(text: str, _marks: Marks) -> Spans:
    """Addresses of version 6: from each pair of colons as far as hexadecimal digits and colons reach."""
    if text.count(":") < _COLONS:
        return
    done = 0
    for mark in _IPV6_MARK.finditer(text):
        start, end = mark.span()
        if start < done:
            continue
        while start > 0 and mark.start() - start < _IPV6_LONGEST and text[start - 1] in _IPV6_CHARS:
            start -= 1
        while end < len(text) and end - start <= _IPV6_LONGEST and text[end] in _IPV6_CHARS:
            end += 1
        done = end
        if text[end - 1] == ":" and text[end - 2] != ":":
            end -= 1
        alone = not text[max(0, start - 1) : start].isalnum() and not text[end : end + 1].isalnum()
        if alone and end - start > 4 and is_ip(text[start:end]):
            yield Span(start, end, "6")


def is_ip(text: str) -> bool:
    """Whether the standard library reads it as an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
