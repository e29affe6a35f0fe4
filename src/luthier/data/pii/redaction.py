"""Redact personal data in rows: masks, and pseudonyms that stay the same for one value."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import accumulate
from typing import Any

from luthier.pii import words
from luthier.pii.detect import find_pii
from luthier.pii.hmac_key import HmacKey
from luthier.pii.patterns import to_ascii_digits
from luthier.pii.span import HIGH_RISK, PiiKind, PiiSpan

NUMBERS: tuple[PiiKind, ...] = ("phone", "card", "iban", "ssn", "national_id")
_KEPT_BY_MASK = 4


def canonical_pii_value(found: PiiSpan) -> str:
    """The value without its dress, so that `0170 / 123` and `0170123` have one tag."""
    if found.kind in NUMBERS:
        return re.sub(r"[^0-9A-Za-z+]", "", to_ascii_digits(found.text)).upper()
    if found.kind in ("email", "mac", "person", "organisation", "address"):
        return " ".join(found.text.casefold().split())
    return found.text


def mask_pii_value(found: PiiSpan) -> str:
    """Stars for all letters and digits, but the last four of numbers."""
    indices = [index for index, char in enumerate(found.text) if char.isalnum()]
    kept = _KEPT_BY_MASK if found.kind in NUMBERS and len(indices) > 2 * _KEPT_BY_MASK else 0
    starred = set(indices[: len(indices) - kept])
    return "".join("*" if index in starred else char for index, char in enumerate(found.text))


LOCALES = {
    "en": "en_US", "de": "de_DE", "fr": "fr_FR", "es": "es_ES", "it": "it_IT", "nl": "nl_NL", "pt": "pt_BR",
    "sv": "sv_SE", "da": "da_DK", "no": "no_NO", "fi": "fi_FI", "cs": "cs_CZ", "tr": "tr_TR", "ru": "ru_RU",
}  # fmt: skip
"""Languages with lists of names, and whose."""
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_TRIES = 64


@dataclass(frozen=True)
class PseudonymGenerator:
    """Makes stand-ins within one scope: a conversation, or the whole corpus."""

    hmac_key: HmacKey
    scope: str
    locale: str
    tag: Callable[[PiiSpan], str]

    def of(self, found: PiiSpan) -> str:
        """What takes the place of a find; keys and passwords get a tag, since nothing like them should be learnt."""
        makers: dict[PiiKind, Callable[[PiiSpan], str]] = {
            "person": self._person, "organisation": self._organisation, "address": self._address, "email": self._email,
            "phone": self._phone, "ip": self._ip, "mac": self._mac, "birth_date": self._date,
            "card": self._number, "iban": self._number, "ssn": self._number, "national_id": self._number,
        }  # fmt: skip
        maker = makers.get(found.kind)
        return maker(found) if maker else self.tag(found)

    def _draw(self, what: str, below: int) -> int:
        return self.hmac_key.number(f"{self.scope}\0{what}", below)

    def _digits(self, text: str, key: str, first: int = 0) -> str:
        """The text with other digits from the place `first` on; marks between them have no place of their own."""
        positions = accumulate(char.isalnum() or char == "+" for char in text)
        return "".join(
            str(self._draw(f"{key}\0{at}", 10)) if char.isdigit() and at > first else char
            for at, char in zip(positions, text, strict=True)
        )

    def _person(self, found: PiiSpan) -> str:
        return _WORD.sub(lambda word: self._name(word[0]), found.text)

    def _name(self, word: str) -> str:
        """Another name for one part of a name, by the part alone, so that who shares it goes on sharing it."""
        if len(word) == 1:
            return chr(ord("A") + self._draw(f"initial\0{word.casefold()}", 26))
        choices = _names(self.locale).like(word)
        name = choices[self._draw(f"name\0{word.casefold()}", len(choices))]
        return name.upper() if word.isupper() else name.lower() if word.islower() else name

    def _organisation(self, found: PiiSpan) -> str:
        return _WORD.sub(lambda word: self._other_word(word[0], words.LEGAL), found.text)

    def _address(self, found: PiiSpan) -> str:
        text = _WORD.sub(lambda word: self._other_word(word[0], words.STREET), found.text)
        return self._digits(text, f"address\0{canonical_pii_value(found)}")

    def _other_word(self, word: str, kept: frozenset[str]) -> str:
        if word.casefold() in kept or len(word) <= 2 or not word[0].isupper():
            return word
        end = re.search("(?:straße|strasse|weg|platz|allee|gasse|straat|laan)$", word)
        last = _names(self.locale).last
        return last[self._draw(f"word\0{word.casefold()}", len(last))] + (end[0] if end else "")

    def _email(self, found: PiiSpan) -> str:
        local = found.text.partition("@")[0]
        names = [self._name(word.lower()) for word in _WORD.findall(local)[:2]]
        number = self._draw(f"email\0{canonical_pii_value(found)}", 100)
        return ".".join(re.sub(r"\W", "", name) for name in names or ["someone"]) + f"{number}@example.org"

    def _phone(self, found: PiiSpan) -> str:
        """The prefix stays, so that the country does; of North America, the numbers kept for films."""
        key = f"phone\0{canonical_pii_value(found)}"
        american = re.fullmatch(r"(.*?)\d{3}([ .-]?)\d{4}(\D.*)?", found.text)
        digits = len(re.sub(r"\D", "", found.text))
        if american and digits in (10, 11) and re.match(r"(?:\+?1[ .-]?)?\(?[2-9]\d\d\)?", found.text):
            return f"{american[1]}555{american[2] or '-'}01{self._draw(key, 100):02d}"
        return self._digits(found.text, key, first=4)

    def _ip(self, found: PiiSpan) -> str:
        number = self._draw(f"ip\0{found.text}", 65536)
        return f"192.0.2.{number % 254 + 1}" if found.form == "4" else f"2001:db8::{number:x}"

    def _mac(self, found: PiiSpan) -> str:
        sign = found.text[2]
        numbers = [self._draw(f"mac{at}\0{canonical_pii_value(found)}", 256) for at in range(5)]
        return sign.join(["02", *(f"{number:02x}" for number in numbers)])

    def _date(self, found: PiiSpan) -> str:
        """Another day; month and year stay, since how old somebody is may matter to what is learnt."""
        day = 1 + self._draw(f"date\0{canonical_pii_value(found)}", 28)
        matches = list(re.finditer(r"(?<!\d)\d{1,2}(?!\d)", found.text))
        day_match = matches[-1] if re.match(r"\d{4}", found.text) else matches[0] if matches else None
        if day_match is None:
            return found.text
        return f"{found.text[: day_match.start()]}{day:0{len(day_match[0])}d}{found.text[day_match.end() :]}"

    def _number(self, found: PiiSpan) -> str:
        """Other digits in the same dress, until no checksum is right, be it of this kind of number or of another."""
        kinds = HIGH_RISK if found.kind == "ssn" else (found.kind,)  # nine digits of others are a security number's
        for tries in range(_TRIES):
            text = self._digits(found.text, f"{found.kind}\0{canonical_pii_value(found)}\0{tries}", first=1)
            if found.kind == "ssn":
                text = re.sub(r"^\d", "9", text)
            if found.form == "gb.nino":
                text = re.sub(r"^\w\w", "QQ", text)
            if not (find_pii(f"identity number: {text}", kinds) or find_pii(text, HIGH_RISK)):
                return text
        return self.tag(found)


@dataclass(frozen=True)
class _Names:
    male: tuple[str, ...]
    female: tuple[str, ...]
    last: tuple[str, ...]
    men: frozenset[str]
    women: frozenset[str]

    def like(self, word: str) -> tuple[str, ...]:
        """Names of the same sort: given names of a man, of a woman or of either; surnames for what is no given name."""
        name = word.casefold()
        if name in self.men:
            return self.male + self.female if name in self.women else self.male
        return self.female if name in self.women else self.last


@cache
def _names(locale: str) -> _Names:
    """Faker's names of a locale, sorted."""
    provider: Any = import_module(f"faker.providers.person.{locale}").Provider
    male, female, last = (
        tuple(sorted(set(getattr(provider, name)))) for name in ("first_names_male", "first_names_female", "last_names")
    )
    return _Names(male, female, last, *(frozenset(name.casefold() for name in names) for names in (male, female)))


@cache
def known_names() -> tuple[frozenset[str], frozenset[str]]:
    """Given names and surnames of all locales, in small letters."""
    lists = [_names(locale) for locale in LOCALES.values()]
    given = frozenset[str]().union(*(names.men | names.women for names in lists))
    return given, frozenset(name.casefold() for names in lists for name in names.last)
