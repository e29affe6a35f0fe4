"""Where an e-mail repeats what was written before: quoted lines, the line that introduces them, a copied header block.

Each line is looked at a fixed number of times, so that no text takes longer than its length allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Span(NamedTuple):
    """A stretch of a text, by character."""

    start: int
    end: int


class _Introduction(NamedTuple):
    """How a mail program introduces what it quotes."""

    first: str
    """What the line begins with."""
    verb: str
    """What stands somewhere behind that."""


_INTRODUCTIONS = (
    _Introduction("on ", "wrote"),
    _Introduction("am ", "schrieb"),
    _Introduction("le ", "a écrit"),
    _Introduction("el ", "escribió"),
    _Introduction("il ", "ha scritto"),
    _Introduction("em ", "escreveu"),
    _Introduction("op ", "schreef"),
    _Introduction("den ", "skrev"),
    _Introduction("w dniu ", "napisał"),
)
_RULED = (
    "original message",
    "ursprüngliche nachricht",
    "original-nachricht",
    "message d'origine",
    "mensaje original",
    "messaggio originale",
    "mensagem original",
    "oorspronkelijk bericht",
)
_HEADERS = {
    "from": frozenset({"from", "von", "de", "da", "van", "od"}),
    "date": frozenset(
        {"sent", "date", "gesendet", "datum", "envoyé", "fecha", "enviado", "inviato", "data", "verzonden"}
    ),
    "to": frozenset({"to", "an", "à", "para", "a", "aan", "do"}),
    "subject": frozenset({"subject", "betreff", "objet", "asunto", "oggetto", "assunto", "onderwerp", "temat"}),
}
_WRAPPED_LINES = 3
"""An introduction may be wrapped over so many lines."""
_BLOCK_LINES = 8
"""A copied header block has at most so many lines."""
_LONGEST_LINE = 1000
"""A line longer than this introduces nothing."""


def quoted_spans(text: str) -> list[Span]:
    """The parts of a mail's text that repeat earlier mails, in order and apart from each other.

    Lines that begin with `>` are quoted, with the line before them that says who wrote (in nine languages). Behind
    such a line without `>`, behind "-----Original Message-----" and from a copied block of From, Sent, To and Subject
    on, everything is quoted.
    """
    starts = _starts(text)
    lines = [text[start:end] for start, end in pairwise(starts)]
    last = _history(lines)
    spans = [Span(starts[last], len(text))] if last is not None else []
    for first, end in _marked(lines[:last]):
        spans.append(Span(starts[first], starts[end]))
    return sorted(spans)


def without_quoted(text: str) -> str:
    """The text without what it repeats, and without the blank lines that would be left at its ends."""
    kept: list[str] = []
    at = 0
    for span in quoted_spans(text):
        kept.append(text[at : span.start])
        at = span.end
    kept.append(text[at:])
    return "".join(kept).strip()


def _starts(text: str) -> list[int]:
    """Where each line starts, and the end of the text."""
    starts, at = [0], 0
    while (at := text.find("\n", at) + 1) > 0:
        starts.append(at)
    return starts if starts[-1] == len(text) else [*starts, len(text)]


def _history(lines: Sequence[str]) -> int | None:
    """The line from which on everything is history; None when there is none."""
    for number, line in enumerate(lines):
        if _is_ruled(line) or _is_block(lines, number):
            return number - 1 if number and _is_rule(lines[number - 1]) else number
        if (behind := _introduced(lines, number)) and not _is_marked(_next_filled(lines, behind)):
            return number
    return None


def _marked(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Runs of lines that begin with `>`, each with its introduction."""
    found: list[tuple[int, int]] = []
    number = 0
    while number < len(lines):
        first = number
        behind = _introduced(lines, number)
        number = behind or number
        while number < len(lines) and behind and not lines[number].strip():
            number += 1
        begun = number
        while number < len(lines) and _is_marked(lines[number]):
            number += 1
        if number > begun:
            found.append((first, number))
        else:
            number = first + 1
    return found


def _introduced(lines: Sequence[str], number: int) -> int:
    """The line behind an introduction that starts here; 0 when none does."""
    first = lines[number].lstrip(" >").lower()[:_LONGEST_LINE]
    known = [one for one in _INTRODUCTIONS if first.startswith(one.first)]
    joined = ""
    for end in range(number, min(number + _WRAPPED_LINES, len(lines)) if known else number):
        line = lines[end].strip().lower()
        if not line or len(line) > _LONGEST_LINE:
            return 0
        joined += " " + line
        if line.endswith(":"):
            says = any(one.verb in joined for one in known) and any(char.isdigit() or char == "@" for char in joined)
            return end + 1 if says else 0
    return 0


def _next_filled(lines: Sequence[str], number: int) -> str:
    """The next line that isn't blank, as far as an introduction reaches."""
    return next((line for line in lines[number : number + _WRAPPED_LINES] if line.strip()), "")


def _is_marked(line: str) -> bool:
    return line.lstrip(" ").startswith(">")


def _is_rule(line: str) -> bool:
    bare = line.strip()
    return len(bare) >= 5 and set(bare) <= {"_", "-"}


def _is_ruled(line: str) -> bool:
    bare = line.strip()
    return bare.startswith("--") and bare.endswith("--") and bare.strip("- ").lower() in _RULED


def _is_block(lines: Sequence[str], number: int) -> bool:
    """Whether a copied header block starts here: From first, then at least two of the date, To and Subject."""
    if _name(lines[number]) not in _HEADERS["from"]:
        return False
    names = {_name(line) for line in lines[number + 1 : number + _BLOCK_LINES]}
    return sum(not names.isdisjoint(_HEADERS[kind]) for kind in ("date", "to", "subject")) >= 2


def _name(line: str) -> str:
    """The name of a header line, without marks of emphasis."""
    before, colon, _ = line[:80].partition(":")
    return before.strip(" *\t").lower() if colon else ""
