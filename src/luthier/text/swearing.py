"""Swear words in texts, by lists: an insult and the report of one are found alike, what is said politely is not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from luthier.core.errors import MissingExtra


def swear_words(texts: Sequence[str], languages: Sequence[str], ignore: Sequence[str] = ()) -> list[int]:
    """How many listed words each text has; `MissingExtra` where the package `badwords-py` is not installed."""
    lists = _lists(tuple(languages), tuple(ignore))
    plain = [text.encode("utf-8", "replace").decode() for text in texts]
    return [len(matches) for matches in lists.find_many(plain)]


@lru_cache(maxsize=8)
def _lists(languages: tuple[str, ...], ignore: tuple[str, ...]) -> Any:
    try:
        from badwords import ProfanityFilter
    except ImportError as error:
        remedy = "pip install 'luthier[toxicity]'"
        raise MissingExtra("word lists need the package badwords-py", remedy=remedy) from error
    listed = ProfanityFilter()
    listed.init(languages=list(languages))
    if ignore:
        listed.add_whitelist(list(ignore))
    return listed
