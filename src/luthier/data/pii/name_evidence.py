"""Find evidence of personal names without a model: greetings, signatures, titles, columns of names.

That is enough to know that rows hold names, and not to find all of them: a recogniser does that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from luthier.data.pii.redaction import known_names
from luthier.data.row import Row

NamePosition = Literal["greeting", "signature", "introduction", "title"]
_GREETINGS = """
hi hello hey dear hallo hej liebe lieber moin servus guten_tag guten_morgen guten_abend bonjour bonsoir cher chère salut
hola estimado estimada querido querida ciao gentile olá prezado prezada beste geachte kära cześć ahoj
"""
_ENDINGS = """
regards sincerely cheers thanks thank_you thx yours best wishes grüße grüßen gruß grüsse grüssen gruss lg vg mfg danke
cordialement amicalement merci saludo saludos gracias atentamente saluti grazie obrigado obrigada atenciosamente
pozdrawiam hälsningar groeten groet hilsen terveisin
"""
_INTRODUCTIONS = """
my_name_is mein_name_ist ich_heiße ich_heisse je_m'appelle je_m’appelle me_llamo mi_nombre_es mi_chiamo meu_nome_é
nazywam_się jag_heter jeg_heter jeg_hedder mijn_naam_is ik_heet this_is hier_ist hier_spricht i_am i'm i’m ich_bin
"""
_TITLES = """
Mr Mrs Ms Dr Prof Herr Herrn Frau Mme Madame Monsieur Señor Señora Sr Sra Signor Signora Senhor Senhora Mevrouw Meneer
"""


def _any_of(words: str) -> str:
    """A pattern of one of some words, to its end; `_` is a space."""
    return "(?:" + "|".join(word.replace("_", " ") for word in words.split()) + r")(?!\w)"


_WORD = r"[^\W\d_]+(?:['’-][^\W\d_]+)*"
_WORDS = re.compile(_WORD)
_NAME = rf"(?P<name>{_WORD}(?:[ \u00a0]{_WORD}){{0,3}})"
_GREETED = re.compile(
    rf"(?:^|\n)[ \t]*{_any_of(_GREETINGS)},? {_NAME}(?=[ ]?[,!.:;–-]|[ ]*\n|[ ]*\Z)",
    re.IGNORECASE,
)
_SIGNED = re.compile(
    rf"(?<!\w){_any_of(_ENDINGS)}[ ]?[,.!–-]{{0,4}}[ ]{{0,8}}\n{{0,4}}[ \t]{{0,8}}[–-]{{0,4}}[ ]?{_NAME}"
    r"[ ]{0,8}[.]?[ ]{0,8}(?=\n|\Z)",
    re.IGNORECASE,
)
_INTRODUCED = re.compile(rf"(?<!\w){_any_of(_INTRODUCTIONS)} {_NAME}", re.IGNORECASE)
_TITLED = re.compile(rf"(?<!\w){_any_of(_TITLES)}\.? {_NAME}")
_SIGNS: tuple[tuple[NamePosition, re.Pattern[str], bool], ...] = (
    ("greeting", _GREETED, True),
    ("signature", _SIGNED, True),
    ("introduction", _INTRODUCED, True),
    ("title", _TITLED, False),
)
"""Each place with its pattern, and whether the first word must be a given name that is known."""
_WORDS = re.compile(_WORD)
_OFFICES = """
kollege kollegin doktor doctor professor prof präsident präsidentin president minister ministerin kanzler kanzlerin
chairman speaker secretary und and oder or
"""
_NO_NAMES = frozenset(_OFFICES.split())
"""What follows a title and is no name."""
_FIELDS = re.compile(
    r"(?<![a-z])(?:(?:full|first|last|given|sur|user|contact|customer|client|agent|author|sender)?[ _-]?names?|vorname"
    r"|nachname|familienname|kund(?:e|in|enname)|customer|client|agent|author|autor|autorin|sender|absender|contact"
    r"|ansprechpartner(?:in)?|bearbeiter(?:in)?|sachbearbeiter(?:in)?|mitarbeiter(?:in)?|assignee|owner|reporter|employee"
    r"|nom|prénom|prenom|nombre|apellidos?|nome|cognome|sobrenome|imię|nazwisko|from|von)(?![a-z])",
    re.IGNORECASE,
)
"""What columns of names are called."""
_MOST_WORDS = 4
_COLUMN_SHARE = 0.5
"""So large a part of a column's different values must be names."""


class NameEvidence(NamedTuple):
    """A name in a text, and what shows it."""

    start: int
    end: int
    position: NamePosition


def find_name_evidence(text: str) -> Iterator[NameEvidence]:
    """The names that a text shows by what stands before them."""
    for position, pattern, must_be_known in _SIGNS:
        for match in pattern.finditer(text):
            words = match["name"].split()
            count = _length(words, must_be_known=must_be_known)
            if count:
                end = match.start("name") + len(" ".join(words[:count]))
                yield NameEvidence(match.start("name"), end, position)


def rows_with_names(rows: Sequence[Row]) -> dict[str, int]:
    """Rows that show names, by where they do (`greeting`, `column agent`), the most first; empty when none does."""
    row_counts: Counter[str] = Counter()
    columns: dict[str, Counter[str]] = {}
    for row in rows:
        positions: set[str] = set()
        for field, text in row.everything():
            if field.startswith("messages["):
                positions |= {sign.position for sign in find_name_evidence(text)}
            elif field == "group" or field.startswith("meta."):
                positions |= {sign.position for sign in find_name_evidence(text)}
                columns.setdefault(field.removeprefix("meta.").partition("/")[0], Counter())[text.strip()] += 1
        row_counts.update(positions)
    row_counts.update(
        {f"column {name}": values.total() for name, values in columns.items() if _holds_names(name, values)}
    )
    return dict(row_counts.most_common())


def find_possible_names(text: str) -> list[tuple[int, int]]:
    """What may be a name, to hide it in an example: what signs show, and known given names with the word behind each.

    The spans are in order and apart.
    """
    words = [(found.start(), found.end()) for found in _WORDS.finditer(text) if _may_be_one(found[0])]
    given = [(start, end) for start, end in words if text[start:end].casefold() in _given()]
    behind = dict(words)
    whole = [(start, behind.get(end + 1, end)) for start, end in given]
    spans: list[tuple[int, int]] = []
    for start, end in sorted([*((sign.start, sign.end) for sign in find_name_evidence(text)), *whole]):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _given() -> frozenset[str]:
    return known_names()[0]


def _holds_names(column: str, values: Counter[str]) -> bool:
    """Whether most of a column's values are given names with surnames; where its name says so, one of these will do."""
    is_called_so = _FIELDS.search(column) is not None
    alike = sum(_is_name(value, alone=is_called_so) for value in values)
    return alike >= max(1 if is_called_so else 2, _COLUMN_SHARE * len(values))


def _is_name(value: str, *, alone: bool) -> bool:
    words = value.replace(",", " ").split()
    if not 0 < len(words) <= _MOST_WORDS or not all(map(_may_be_one, words)):
        return False
    named = [word.casefold() in _given() for word in words]
    if len(words) > 1:
        return any(named)
    return alone and (named[0] or words[0].casefold() in known_names()[1])


def _length(words: Sequence[str], *, must_be_known: bool) -> int:
    """How many of some words are a name; 0 when they are none."""
    if not _may_be_one(words[0]) or words[0].casefold() in _NO_NAMES:
        return 0
    if must_be_known and words[0].casefold() not in _given():
        return 0
    return next((at for at, word in enumerate(words) if not _may_be_one(word)), len(words))


def _may_be_one(word: str) -> bool:
    """Whether a word is written as a name is: `Anna`, `O'Neill`, `MÜLLER`, and no `SEPA` or `A`."""
    letters = word.strip(".")
    return len(letters) > 1 and letters[0].isupper() and all(char.isalpha() or char in "'’-" for char in letters)
