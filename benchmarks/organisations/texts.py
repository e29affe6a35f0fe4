"""The texts: sentences of ours filled with names, real passages with their organisations, rows of other work."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks.organisations.names import (
    HERE,
    WORDS,
    Drawn,
    asked,
    bare,
    common_words,
    organisations,
    people,
    wheel,
    without_form,
)
from benchmarks.pii_rows import SYNTH, synth

from luthier.pii.organizations import find_organizations as by_rules

NOTHING, ORGANISATION, PERSON, PLACE = range(4)
NO_ORGANISATION, UNKNOWN = 4, -100
"""Something else than an organisation, whichever; nothing is learnt from it."""
SHARED = Path(__file__).parents[3] / "shared" / "data"
_SLOT = re.compile(r"\{([\w|]+)\}")
_ENDS = re.compile(r"(?<=[.!?”\"]) +(?=[A-Z\"“])")
_CAPITALS = re.compile(r"\b[A-Z][\w&'’-]+(?: [A-Z&][\w&'’-]*){0,3}")
_MARKED = re.compile(r"\[\[(\??)(.+?)\]\]")
_CHOICES = re.compile(r"\n(?:[A-E]\. )?")
_FOREIGN = {"german-exams-qa": 4, "french-exams-qa": 2, "italian-exams-qa": 1, "portuguese-exams-qa": 1,
            "spanish-exams-qa": 3, "brazilian_laws": 1, "portuguese-sarcasm": 1,
            "french_homonym_and_homograph": 1}  # fmt: skip
"""Tasks of `evals`, and how often each text of theirs stands in the list."""


class Text(NamedTuple):
    """A text, its spans (start, end, class), and whether what stands in no span is nothing for sure."""

    text: str
    spans: list[tuple[int, int, int]]
    whole: bool


@cache
def templates() -> tuple[list[str], list[str]]:
    """Ours, all of them and those of one line."""
    lines = (HERE / "templates.txt").read_text(encoding="utf-8").splitlines()
    every = [line.replace("\\n", "\n") for line in lines if line.strip()]
    return every, [one for one in every if "\n" not in one]


def filled(drawn: Drawn) -> Text:
    """One of our sentences or forms; sometimes two, marked as quoted, without capitals or with nothing else."""
    every, single = templates()
    text, spans = _fill(drawn, drawn.one(every))
    if "\n" not in text and drawn.draw.random() < 0.25:
        more, its_spans = _fill(drawn, drawn.one(single))
        text += " " if text[-1] in ".?!" else ". "
        spans += [(start + len(text), end + len(text), kind) for start, end, kind in its_spans]
        text += more
    if "\n" in text and drawn.draw.random() < 0.4:
        text, spans = _quoted(text, spans, drawn.one("prefixes"))
    chance = drawn.draw.random()
    if chance < 0.10:
        text = _same_length(text, str.lower)
    elif chance < 0.13:
        text = _same_length(text, str.upper)
    elif chance < 0.155:
        text = re.sub(r"(?<![\w’'])[a-z]", lambda one: one[0].upper(), text)
    return Text(text, spans, whole=True)


def _same_length(text: str, change: object) -> str:
    return "".join(new if len(new := change(sign)) == 1 else sign for sign in text)  # type: ignore[operator]


def _fill(drawn: Drawn, template: str) -> tuple[str, list[tuple[int, int, int]]]:
    template = _misspelt(template, drawn.draw) if drawn.draw.random() < 0.06 else template
    text, spans, at = "", [], 0
    for slot in _SLOT.finditer(template):
        text += template[at : slot.start()]
        value, kind = _value(drawn, drawn.draw.choice(slot[1].split("|")))
        if kind:
            spans.append((len(text), len(text) + len(value), kind))
        text, at = text + value, slot.end()
    return text + template[at:], spans


def _value(drawn: Drawn, slot: str) -> tuple[str, int]:
    number = drawn.draw.randint
    ways = {
        "org": (drawn.organisation, ORGANISATION), "univ": (drawn.school, ORGANISATION),
        "city": (drawn.city, PLACE), "country": (drawn.country, PLACE), "addr": (drawn.address, PLACE),
        "addrlines": (lambda: drawn.address(lines=True), PLACE), "first": (drawn.first, PERSON),
        "last": (drawn.last, PERSON), "per": (drawn.person, PERSON),
        "job": (lambda: drawn.one(people()["job"]) if number(1, 5) < 3 else drawn.one("jobs"), NOTHING),
        "phone": (drawn.phone, NOTHING), "product": (drawn.product, NOTHING), "noun": (drawn.noun, NOTHING),
        "acr": (drawn.short, NOTHING),
        "thing": (lambda: drawn.word() if number(1, 4) == 1 else drawn.one("things"), NOTHING),
        "Thing": (lambda: drawn.one("things").capitalize(), NOTHING),
        "subject": (lambda: drawn.one("subjects"), NOTHING), "Title": (drawn.title, NOTHING),
        "title": (drawn.title, NOTHING), "Word": (lambda: drawn.word(title=True), NOTHING),
        "year": (lambda: str(number(1950, 2025)), NOTHING), "n": (lambda: str(number(2, 99)), NOTHING),
        "day": (lambda: drawn.one("days"), NOTHING), "month": (lambda: drawn.one("months"), NOTHING),
        "email": (drawn.email, NOTHING), "url": (drawn.url, NOTHING),
    }  # fmt: skip
    way, kind = ways[slot]
    return way(), kind


def _quoted(text: str, spans: list[tuple[int, int, int]], mark: str) -> tuple[str, list[tuple[int, int, int]]]:
    """Each line behind a mark; a span of several lines becomes several."""
    moved = []
    for start, end, kind in spans:
        for line in re.finditer(r"[^\n]+", text[start:end]):
            begin = start + line.start()
            shift = len(mark) * (1 + text.count("\n", 0, begin))
            moved.append((begin + shift, begin + shift + len(line[0]), kind))
    return mark + text.replace("\n", f"\n{mark}"), moved


def swapped(drawn: Drawn, one: Text, organisation: float, person: float, *, marked_names: float = 0.0) -> Text:
    """With other names in place of some; `marked_names` of the organisations come out of the marked texts."""
    text, spans, at = "", [], 0
    new: dict[str, str] = {}
    for start, end, kind in one.spans:
        text += one.text[at:start]
        value, chance = one.text[start:end], drawn.draw.random()
        if kind == ORGANISATION and chance < organisation and value not in new:
            ours = chance < organisation * marked_names
            new[value] = as_written(drawn.one(names_marked()) if ours else drawn.organisation(), one.text)
        elif kind == PERSON and chance < person:
            new[value] = drawn.person() if " " in value else drawn.first()
        value = new.get(value, value)
        spans.append((len(text), len(text) + len(value), kind))
        text, at = text + value, end
    text += one.text[at:]
    return Text(_same_length(text, str.lower) if drawn.draw.random() < 0.1 else text, spans, one.whole)


def as_written(name: str, text: str) -> str:
    """In small letters or in capitals where the text is."""
    return name.lower() if text.islower() else name.upper() if text.isupper() else name


@cache
def marked(file: str = "marked.txt") -> list[Text]:
    """Lines with organisations in double brackets, written by hand; `?` stands before what may be one."""
    found = []
    for line in (HERE / file).read_text(encoding="utf-8").splitlines():
        text, spans, at = "", [], 0
        for one in _MARKED.finditer(line):
            text += line[at : one.start()].replace("\\n", "\n")
            spans.append((len(text), len(text) + len(one[2]), UNKNOWN if one[1] else ORGANISATION))
            text, at = text + one[2], one.end()
        found.append(Text(text + line[at:].replace("\\n", "\n"), spans, whole=False))
    return found


@cache
def names_marked() -> list[str]:
    """The organisations of the marked texts."""
    names = {one.text[start:end] for one in marked() for start, end, kind in one.spans if kind == ORGANISATION}
    return sorted(name for name in names if not name.islower())


def _passages() -> list[str]:
    """2,000 passages of the web and of Wikipedia, from a task of `evals` (MIT)."""
    with wheel("evals") as opened:
        lines = [
            line
            for name in ("owt", "wikipedia")
            for line in opened.read(f"evals/registry/data/schelling_point/{name}_5.jsonl").decode().splitlines()
        ]
    return [" ".join(json.loads(line)["0"].split()) for line in lines]


@cache
def read() -> list[Text]:
    """Passages whose organisations were marked by hand; `?` stands before what may be one."""
    found = []
    for line in (HERE / "passages.txt").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        passage = _passages()[row["passage"]][row["start"] : row["end"]]
        spans: list[tuple[int, int, int]] = []
        for name in sorted(row["names"], key=len, reverse=True):
            kind = UNKNOWN if name.startswith("?") else ORGANISATION
            for one in re.finditer(rf"(?<!\w){re.escape(name.lstrip('?'))}(?!\w)", passage):
                if all(one.end() <= start or end <= one.start() for start, end, _ in spans):
                    spans.append((*one.span(), kind))
        found.append(Text(passage, sorted(spans), whole=False))
    return found


@cache
def guessed() -> list[Text]:
    """The other passages: what rules find is an organisation, other capitals are left open."""
    marked = {one.text[:60] for one in read()}
    common = frozenset(common_words())
    sure = {name for name in WORDS["known"] if len(name) > 3 and name.lower() not in common}
    found = []
    for passage in _passages():
        piece = ""
        for sentence in [*_ENDS.split(passage), ""]:
            if piece and (len(piece) + len(sentence) > 330 or not sentence):
                if piece[:60] not in marked and len(piece) < 500:
                    found.append(_guess(piece, sure, common))
                piece = ""
            piece = f"{piece} {sentence}".strip()
    return found


def _guess(text: str, sure: set[str], common: frozenset[str]) -> Text:
    spans = [(one.start, one.end, ORGANISATION) for one in by_rules(text, listed=False)]
    for one in _CAPITALS.finditer(text):
        begins = one.start() == 0 or text[one.start() - 2 : one.start()] in (". ", "? ", "! ", "” ")
        ordinary = (begins and one[0].lower() in common) or one[0] in (*WORDS["days"], *WORDS["months"])
        if not ordinary and all(one.end() <= start or end <= one.start() for start, end, _ in spans):
            spans.append((*one.span(), ORGANISATION if one[0] in sure else UNKNOWN))
    return Text(text, sorted(spans), whole=False)


@cache
def ordinary() -> list[Text]:
    """Sums, orders and questions of other sets: nearly nobody in them is an organisation; what may be is left open."""
    known = {bare(without_form(name)) for names in organisations().values() for name in names}
    texts = [json.loads(line)["question"] for line in _lines("gsm8k/train.jsonl")]
    for line in _lines("self_instruct/seed_tasks.jsonl"):
        row = json.loads(line)
        texts += [row["instruction"], row["instances"][0]["input"][:390]]
    for intent in ("GetWeather", "RateBook", "AddToPlaylist", "SearchCreativeWork"):
        rows = json.loads((SHARED / f"snips/validate_{intent}.json").read_text(encoding="utf-8"))[intent]
        texts += ["".join(part["text"] for part in row["data"]) for row in rows]
    found = []
    for text in map(str.strip, texts):
        spans = [(one.start, one.end, UNKNOWN) for one in by_rules(text, listed=False)]
        for one in _CAPITALS.finditer(text):
            if bare(one[0]) in known and all(one.end() <= start or end <= one.start() for start, end, _ in spans):
                spans.append((*one.span(), UNKNOWN))
        if 8 < len(text) < 400:
            found.append(Text(text, sorted(spans), whole=False))
    return found


@cache
def foreign() -> list[Text]:
    """Questions of examinations, laws and remarks in other languages; German ones more often."""
    known = {bare(name) for name in WORDS["known"]}
    found = []
    for task, share in _FOREIGN.items():
        for line in asked(task):
            told = json.loads(line)["input"][-1]["content"].replace("classifique isto: ", "")
            for piece in map(str.strip, _CHOICES.split(told)):
                if len(piece) > len("Answer: A or B") and not piece.startswith("Answer"):
                    capitals = _CAPITALS.finditer(piece)
                    spans = [(*one.span(), UNKNOWN) for one in capitals if bare(one[0]) in known or one[0].isupper()]
                    found += [Text(piece[:300], [one for one in spans if one[1] <= 300], whole=True)] * share
    return found


def misspelt(drawn: Drawn, one: Text) -> Text:
    """As it is written in haste, where it names nobody and by chance; sometimes in small letters."""
    if not one.spans and drawn.draw.random() < 0.4:
        one = one._replace(text=_misspelt(one.text, drawn.draw))
    return one._replace(text=_same_length(one.text, str.lower)) if drawn.draw.random() < 0.2 else one


def _misspelt(text: str, draw: random.Random) -> str:
    """Letters changed about, left out, doubled or put in; two words joined."""
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) > 2 and word.isalpha() and draw.random() < 0.2:
            at = draw.randrange(len(word) - 1)
            head, sign, after, tail = word[:at], word[at], word[at + 1], word[at + 2 :]
            ways = (head + after + sign + tail, head + after + tail, head + sign + sign + after + tail,
                    head + draw.choice("abcdefghijklmnoprstuw") + sign + after + tail)  # fmt: skip
            words[place] = draw.choices(ways, (40, 30, 15, 15))[0]
        elif draw.random() < 0.02 and place + 1 < len(words) and words[place + 1].isalpha() and word.isalpha():
            words[place : place + 2] = [word + words[place + 1], ""]
    text = " ".join(word for word in words if word)
    return text.replace("you ", "u ").replace("your ", "ur ") if draw.random() < 0.2 else text


def _lines(file: str) -> list[str]:
    return (SHARED / file).read_text(encoding="utf-8").splitlines()


@cache
def rows() -> list[Text]:
    """Half 0 of pii_synth_small, on which the rules were written, too; those with an organisation twice."""
    kinds = {"organisation": ORGANISATION, "person": PERSON}
    found = [
        Text(row.text, [(one.start, one.end, kinds[one.kind]) for one in row.spans if one.kind in kinds], whole=False)
        for row in synth(0)
    ]
    if not found:
        raise FileNotFoundError(SYNTH)
    return found + [one for one in found if any(kind == ORGANISATION for *_, kind in one.spans)]


def text(drawn: Drawn) -> Text:
    """One to learn from."""
    chance = drawn.draw.random()
    if chance < 0.42:
        one = swapped(drawn, drawn.draw.choice(marked()), 0.3, 0.0, marked_names=0.5)
        return misspelt(drawn, one) if drawn.draw.random() < 0.1 else one
    if chance < 0.71:
        return filled(drawn)
    if chance < 0.81:
        return swapped(drawn, drawn.draw.choice(read()), 0.3, 0.0)
    if chance < 0.84:
        return drawn.draw.choice(guessed())
    if chance < 0.92:
        return misspelt(drawn, drawn.draw.choice(ordinary() if chance < 0.87 else foreign()))
    return swapped(drawn, drawn.draw.choice(rows()), 0.75, 0.4)
