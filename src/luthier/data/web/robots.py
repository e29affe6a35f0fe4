"""Rules of robots.txt (RFC 9309): longest match wins, a missing file allows all, an unreachable one nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from luthier.data.web.fetch import FetchError, RateLimitedFetcher, check_fetchable_url

_LIMIT = 512 << 10
"""Bytes that must be read at least (RFC 9309, 2.5); a longer file is not obeyed in part, but refused."""

LONGEST_DELAY_S = 120.0
"""Where a host wants to be asked less often than this, it is not asked at all."""


@dataclass
class RobotsRules:
    """The rules of each host, asked for once."""

    fetcher: RateLimitedFetcher
    agent: str
    _rules: dict[str, Any] = field(default_factory=dict)

    def may(self, url: str) -> float:
        """Seconds that the host wants between two requests; `FetchError` when it forbids the page."""
        check_fetchable_url(url)
        rules = self._of(url)
        if isinstance(rules, str):
            raise FetchError(rules)
        if not rules.can_fetch(url, self.agent):
            raise FetchError("robots.txt forbids it")
        delay = float(rules.crawl_delay(self.agent) or 0.0)
        if not delay <= LONGEST_DELAY_S:
            raise FetchError(f"robots.txt wants {delay:g} s between two requests, more than {LONGEST_DELAY_S:g}")
        return delay

    def _of(self, url: str) -> Any:
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._rules:
            self._rules[host] = self._asked(f"{host}/robots.txt")
        return self._rules[host]

    def _asked(self, url: str) -> Any:
        from protego import Protego

        try:
            return Protego.parse(self.fetcher.get(url, _LIMIT).body.decode("utf-8", "replace"))
        except FetchError as error:
            if 400 <= error.status < 500 and not error.passing:
                return Protego.parse("")
            return f"its robots.txt {error.problem}, so nothing is asked there"
