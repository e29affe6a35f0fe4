"""Keys, tokens and passwords: by the beginnings that providers publish, by their shape, and where a word names them."""

from __future__ import annotations

import math
import re
from collections import Counter

from luthier.pii.span import CandidateSpan, Spans, TextPrescan

_PUBLISHED = re.compile(
    r"(?:sk-[A-Za-z0-9_-]{20,200}"  # OpenAI, Anthropic, DeepSeek, OpenRouter
    r"|gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_[A-Za-z0-9_]{20,255}|gl(?:pat|dt|ptt|rt)-[A-Za-z0-9_.-]{20,64}"
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-\d-[A-Za-z0-9-]{10,250}"
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,300}|GOCSPX-[A-Za-z0-9_-]{20,40}"
    r"|hf_[A-Za-z0-9]{30,60}|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,120}|whsec_[A-Za-z0-9+/=]{20,100}"
    r"|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}|(?:SK|AC)[0-9a-f]{32}|key-[0-9a-f]{32}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,300}|do[opr]_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"
    r"|sq0(?:atp|csp|idp)-[A-Za-z0-9_-]{22,43}|dapi[0-9a-f]{32}|lin_api_[A-Za-z0-9]{40}|gsk_[A-Za-z0-9]{40,60}"
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"
    r"|(?<=hooks\.slack\.com/services/)T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,30}"
    r"|\d{8,10}:AA[A-Za-z0-9_-]{33}"
    r")(?![A-Za-z0-9])"
)
_BEGINNINGS = (
    *("sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glptt-", "glrt-"),
    *("AKIA", "ASIA", "ABIA", "ACCA", "xoxa-", "xoxb-", "xoxe-", "xoxo-", "xoxp-", "xoxr-", "xoxs-", "xapp-", "AIza"),
    *("ya29.", "GOCSPX-", "hf_", "sk_live_", "pk_live_", "rk_live_", "sk_test_", "pk_test_", "rk_test_", "whsec_"),
    *("SG.", "SK", "AC", "key-", "npm_", "pypi-", "dop_v1_", "doo_v1_", "dor_v1_", "shpat_", "shpca_", "shppa_"),
    *("shpss_", "sq0atp-", "sq0csp-", "sq0idp-", "dapi", "lin_api_", "gsk_", "eyJ"),
)
"""What keys of providers begin with, from their own pages."""
SHORTEST_KEY = 18
"""What begins as providers' keys do has at least so many characters without white space."""
SHORTEST_NAMED = 6
"""What a word names has at least so many, letters and digits among them."""
_SLACK_HOOK = "hooks.slack.com/services/"
_BOT_MARK = ":AA"
_NAME_WORDS = (
    *("key", "secret", "token", "pass", "kennwort", "contraseña", "pwd", "pin code", "senha", "wachtwoord", "hasło"),
)
_NAMED = re.compile(
    r"(?:word|wort|wd|phrase|code|e|s|key|_?id)?(?: (?:number|code|key|value))?['\"]?"
    r"\s{0,3}(?:is now|is|ist|es|est|lautet|was|=>|:=|=|:)\s{0,3}['\"`]?([^\s'\"`,;<>]{6,200})",
    re.IGNORECASE,
)
"""From just after such a word to what it names."""
_CALLED = re.compile(r"=\s{0,3}[A-Za-z]\w{0,40}(?:(?<=_)\w{1,40}|\.\w{1,40}){1,4}[(\[]")
"""A call in a program: `password = generate_password(8)`, `key=operator.itemgetter(1)`."""
_BEARER = re.compile(r"(?:Bearer|Basic) ([A-Za-z0-9+/_.=-]{16,1000})(?![A-Za-z0-9])")
_URL_LOGIN = re.compile(r"[^\s/:@<>\"']{0,100}:[^\s/@<>\"']{1,200}@[^\s<>\"']{1,300}")
_URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,15}$")
_URL_TOKEN = re.compile(
    r"[?&#](?:[a-z]{0,20}[_-]?token|api[_-]?key|apikey|subscription[_-]key|key|(?:client[_-]?)?secret|password|passwd|pwd"
    r"|pass|sig|signature|x-amz-signature|x-amz-security-token|sas|sid|session(?:[_-]?id)?|auth)=([^\s&#<>\"')]{6,})",
    re.IGNORECASE,
)
_STANDS_FOR = re.compile(r"\[[A-Z_a-z]{2,20}(?::[a-z]{10})?\]")
"""A tag that stands where a token stood: `[URL_SECRET]`."""
_ENDS_A_CLAUSE = ".,;:!?"
KEY_BEGIN = "-----BEGIN "
"""What a private key begins with."""
_ENOUGH_BITS = 2.0
"""Least entropy of a character; passwords people choose have about 2.5 bits, words repeated have less."""


def find_named_secrets(text: str, _marks: TextPrescan) -> Spans:
    """Private keys, and what a word such as `password` or `Bearer` names."""
    if "Bearer " in text or "Basic " in text:
        yield from (
            CandidateSpan(*found.span(1), "bearer") for found in _BEARER.finditer(text) if _looks_random(found[1])
        )
    yield from _named(text)
    yield from _private_keys(text)


def find_provider_keys(text: str, marks: TextPrescan) -> Spans:
    """Keys and tokens with a beginning that their provider has published."""
    long = marks.long
    if long is None:
        long = " ".join([word for word in text.split() if len(word) >= SHORTEST_KEY])
    if not long:
        return
    for beginning in _BEGINNINGS:
        if beginning in long:
            yield from _at(text, beginning)
    for mark, back in ((_SLACK_HOOK, -len(_SLACK_HOOK)), (_BOT_MARK, 10)):
        at = text.find(mark)
        while at >= 0:
            start = at - back if back < 0 else at
            while start > 0 and at - start < back and text[start - 1].isdigit():
                start -= 1
            match = _PUBLISHED.match(text, start)
            if match and not text[start - 1 : start].isalnum():
                yield CandidateSpan(*match.span(), "published")
            at = text.find(mark, match.end() if match else at + len(mark))


def _at(text: str, beginning: str) -> Spans:
    """Keys with this beginning, where no longer word ends in it."""
    at = text.find(beginning)
    while at >= 0:
        match = _PUBLISHED.match(text, at) if at == 0 or not text[at - 1].isalnum() else None
        if match:
            yield CandidateSpan(*match.span(), "published")
        at = text.find(beginning, match.end() if match else at + len(beginning))


def _named(text: str) -> Spans:
    low = text.lower()
    if len(low) != len(text):
        low = text
    for word in _NAME_WORDS:
        at = low.find(word)
        while at >= 0:
            at += len(word)
            match = _NAMED.match(text, at)
            if match and _looks_random(match[1]) and not _is_called(text, match.start(1)):
                end = match.end(1)
                while text[end - 1] in ".)":
                    end -= 1
                yield CandidateSpan(match.start(1), end, "named")
                at = end
            at = low.find(word, at)


def _is_called(text: str, start: int) -> bool:
    """Whether what is named is a call of a function, which stands behind `=` and without quotes."""
    equals = text.rfind("=", max(0, start - 4), start)
    return equals >= 0 and _CALLED.match(text, equals) is not None


def _private_keys(text: str) -> Spans:
    at = text.find(KEY_BEGIN)
    while at >= 0:
        end = text.find("-----END ", at)
        close = text.find("-----", end + 9) if end >= 0 else -1
        if close < 0:
            return
        if "PRIVATE KEY" in text[at : at + 50] or "PGP PRIVATE" in text[at : at + 50]:
            yield CandidateSpan(at, close + 5, "private_key")
        at = text.find(KEY_BEGIN, close)


def _looks_random(text: str) -> bool:
    """Letters and digits mixed, in no few repeated ones: a password or key rather than a word or a placeholder."""
    mixed = any(char.isdigit() for char in text) and any(char.isalpha() for char in text)
    return mixed and text[0] not in "$[{<%" and entropy(text) >= _ENOUGH_BITS


def entropy(text: str) -> float:
    """Shannon's entropy of its characters, in bits a character."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def find_url_logins(text: str, _marks: TextPrescan) -> Spans:
    """Addresses with a login in them."""
    at = text.find("://")
    while at >= 0:
        login = _URL_LOGIN.match(text, at + 3)
        scheme = _URL_SCHEME.search(text[max(0, at - 16) : at]) if login else None
        if login and scheme:
            yield CandidateSpan(at - len(scheme[0]), login.end(), "login")
        at = text.find("://", max(at + 3, login.end() if login else 0))


def find_url_query_tokens(text: str, _marks: TextPrescan) -> Spans:
    """Tokens in what is asked of an address."""
    if "?" in text or "&" in text or "#" in text:
        for match in _URL_TOKEN.finditer(text):
            token = match[1].rstrip(_ENDS_A_CLAUSE)
            if any(map(str.isalnum, _STANDS_FOR.sub("", token))):
                yield CandidateSpan(match.start(1), match.start(1) + len(token), "query")
