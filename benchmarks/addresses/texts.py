"""The texts: sentences with addresses of many countries, sentences that only look so, numbers of other kinds."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks.organisations import texts as others
from benchmarks.organisations.names import Drawn
from benchmarks.organisations.texts import Text

from luthier.pii.detect import find_pii

HERE = Path(__file__).parent
ADDRESS = 1
_MARKED = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)
_SLOT = re.compile(r"\{(\w+)\}")
_LOCALES = {
    "GB": "en_GB", "US": "en_US", "CA": "en_CA", "AU": "en_AU", "NZ": "en_NZ", "IE": "en_IE", "IN": "en_IN",
    "DE": "de_DE", "AT": "de_AT", "CH": "de_CH", "FR": "fr_FR", "NL": "nl_NL", "BE": "nl_BE", "ES": "es_ES",
    "IT": "it_IT", "PT": "pt_PT", "BR": "pt_BR", "MX": "es_MX", "CL": "es_CL", "CO": "es_CO", "PL": "pl_PL",
    "CZ": "cs_CZ", "SK": "sk_SK", "HU": "hu_HU", "RO": "ro_RO", "SI": "sl_SI", "HR": "hr_HR", "SE": "sv_SE",
    "DK": "da_DK", "NO": "no_NO", "FI": "fi_FI", "EE": "et_EE", "LV": "lv_LV", "LT": "lt_LT", "TR": "tr_TR",
    "PH": "en_PH", "ID": "id_ID",
}  # fmt: skip
_FAKED = 300


class Rows(NamedTuple):
    """Addresses by country, texts with the spans of theirs, and texts that only look so."""

    addresses: dict[str, list[str]]
    texts: list[tuple[str, str, list[tuple[int, int]]]]
    none: list[str]


@cache
def rows() -> Rows:
    """What was written by hand."""
    found = Rows({}, [], [])
    for line in (HERE / "marked.txt").read_text(encoding="utf-8").splitlines():
        land, kind, told = line.split("\t", 2)
        told = told.replace("\\n", "\n")
        if kind == "A":
            found.addresses.setdefault(land, []).append(told)
        elif kind == "N":
            found.none.append(told)
        else:
            text, spans, at = "", [], 0
            for one in _MARKED.finditer(told):
                text += told[at : one.start()]
                spans.append((len(text), len(text) + len(one[1])))
                text, at = text + one[1], one.end()
            found.texts.append((land, text + told[at:], spans))
            found.addresses.setdefault(land, []).extend(text[start:end] for start, end in spans if end - start > 8)
    return found


@cache
def faked(land: str) -> list[str]:
    """Addresses by Faker, where it knows the country."""
    if land not in _LOCALES:
        return []
    from faker import Faker

    faker = Faker(_LOCALES[land])
    faker.seed_instance(1)
    return [faker.address() for _ in range(_FAKED)]


@cache
def numbers() -> list[str]:
    """Sentences with slots for numbers that are no address's."""
    lines = (HERE / "numbers.txt").read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n") for line in lines]


@cache
def without() -> list[str]:
    """Texts of the other experiment in one line, in which patterns see no address."""
    lines = (one.text for one in others.marked() if "\n" not in one.text)
    return [line for line in lines if not any(one.kind == "address" for one in find_pii(line))]


def anew(drawn: Drawn, text: str, chance: float) -> str:
    """With other digits in some of its numbers."""

    def other(one: re.Match[str]) -> str:
        if drawn.draw.random() > chance:
            return one[0]
        made = "".join(drawn.draw.choice("0123456789") for _ in one[0])
        return made if made[0] != "0" or one[0][0] == "0" else drawn.draw.choice("123456789") + made[1:]

    return re.sub(r"\d+", other, text)


def address(drawn: Drawn, land: str) -> str:
    """One as people of a country write it, now and then of another, now and then with another name in it."""
    draw = drawn.draw
    land = draw.choice(list(rows().addresses)) if draw.random() < 0.15 else land
    if draw.random() < 0.2 and faked(land):
        value = draw.choice(faked(land))
        value = value if draw.random() < 0.4 else value.replace("\n", ", ")
    else:
        value = draw.choice(rows().addresses[land])
    value, luck = anew(drawn, value, 0.7), draw.random()
    if luck < 0.10:
        value = re.sub(r", ?", "\n", value)
    elif luck < 0.17:
        value = value.replace(",", "")
    elif luck < 0.24:
        value = value.lower()
    elif luck < 0.28:
        value = value.upper()
    return renamed(drawn, value) if luck > 0.9 else value


def renamed(drawn: Drawn, text: str) -> str:
    """With another name or word in the place of one with a capital."""
    words = text.split(" ")
    place = drawn.draw.randrange(len(words))
    if words[place].isalpha() and words[place][:1].isupper() and len(words[place]) > 3:
        words[place] = drawn.draw.choice((drawn.last, drawn.city, lambda: drawn.word(title=True)))()
    return " ".join(words)


def _with_addresses(drawn: Drawn) -> Text:
    land, text, spans = drawn.draw.choice(rows().texts)
    made, marked, at = "", [], 0
    for start, end in spans:
        made += text[at:start]
        value = address(drawn, land) if drawn.draw.random() < 0.75 else anew(drawn, text[start:end], 0.7)
        if "\n" in value and drawn.draw.random() < 0.3:  # whom it is to, in the line above
            made += drawn.person() + "\n"
        marked.append((len(made), len(made) + len(value), ADDRESS))
        made, at = made + value, end
        if drawn.draw.random() < 0.06:
            made += drawn.draw.choice(("\n", ", ", ", Tel. ", " / ")) + drawn.phone().split("\n")[0]
    return Text(made + anew(drawn, text[at:], 0.3), marked, whole=True)


def _looks_so(drawn: Drawn) -> Text:
    text = anew(drawn, drawn.draw.choice(rows().none), 0.6)
    text = renamed(drawn, text) if drawn.draw.random() < 0.4 else text
    text = text.lower() if drawn.draw.random() < 0.07 else text
    return Text(f"{text} {drawn.draw.choice(rows().none)}" if drawn.draw.random() < 0.1 else text, [], whole=True)


def _numbered(drawn: Drawn) -> Text:
    text = _SLOT.sub(lambda slot: _value(drawn, slot[1]), drawn.draw.choice(numbers()))
    return Text(text.lower() if drawn.draw.random() < 0.1 else text, [], whole=True)


def _value(drawn: Drawn, slot: str) -> str:
    draw = drawn.draw
    many = "".join(draw.choice("0123456789") for _ in range(draw.randint(4, 8)))
    letters = "".join(draw.choice("ABCDEFGHKLMNPRSTVX") for _ in range(2))
    if slot == "order":
        forms = (f"{letters}-{many}", f"{letters}{many}", f"20{many[:2]}/{many}/{letters[0]}", f"#{many}",
                 f"{letters[0]}{many[:2]}-{many[:4]}-{many[0]}", f"ORD-{many}", f"{many}-{letters}")  # fmt: skip
        return draw.choice(forms)
    if slot == "iban":
        return f"{letters}{many[:2]} " + " ".join(f"{draw.randint(0, 9999):04d}" for _ in range(draw.randint(3, 5)))
    ways = {
        "person": drawn.person, "first": drawn.first, "last": drawn.last, "city": drawn.city, "email": drawn.email,
        "url": drawn.url, "phone": lambda: drawn.phone().split("\n")[0], "number": lambda: many,
        "n": lambda: str(draw.randint(1, 99)),
        "vat": lambda: f"{letters} {many[:4]} {draw.randint(100, 999)} {letters}",
        "date": lambda: draw.choice(("{}/{}/2025", "{}.{}.2024", "2026-{1:02}-{0:02}")).format(
            draw.randint(1, 28), draw.randint(1, 12)
        ),
        "amount": lambda: draw.choice(("{},{:02} €", "£{}.{:02}", "${}.{:02}", "{}.{:02} EUR")).format(
            draw.randint(1, 900), draw.randint(0, 99)
        ),
    }  # fmt: skip
    return ways[slot]()


def text(drawn: Drawn) -> Text:
    """One to learn from."""
    chance = drawn.draw.random()
    if chance < 0.50:
        return _with_addresses(drawn)
    if chance < 0.70:
        return _looks_so(drawn)
    if chance < 0.82:
        return _numbered(drawn)
    if chance < 0.90:
        return Text(anew(drawn, drawn.draw.choice(without()), 0.3), [], whole=True)
    plain = drawn.draw.choice(others.ordinary() if chance < 0.975 else others.foreign())
    return Text(plain.text, [], whole=True)
