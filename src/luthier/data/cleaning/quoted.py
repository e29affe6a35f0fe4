"""Find quoted replies in an e-mail: quoted lines, the line that introduces them, a copied header block.

Each line is looked at a fixed number of times, so that no text takes longer than its length allows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class QuoteSpan(NamedTuple):
    """A stretch of a text, by character."""

    start: int
    end: int


class _Introduction(NamedTuple):
    """How a mail program introduces what it quotes."""

    first: str
    """What the line begins with."""
    verb: str
    """What stands somewhere behind that."""
    writer_last: bool = False
    """Whether the writer stands behind the verb: "Am 3.2.2025 schrieb Ann:"."""


class _Introduced(NamedTuple):
    """Where an introduction ends."""

    behind: int
    """The line behind it."""
    is_sure: bool
    """Whether it says who wrote and when, so that what stands behind it is quoted without marks, too."""


_INTRODUCTIONS = (
    _Introduction("on ", "wrote"),
    _Introduction("am ", "schrieb", writer_last=True),
    _Introduction("le ", "a écrit"),
    _Introduction("el ", "escribió"),
    _Introduction("il ", "ha scritto"),
    _Introduction("em ", "escreveu"),
    _Introduction("op ", "schreef", writer_last=True),
    _Introduction("den ", "skrev", writer_last=True),
    _Introduction("w dniu ", "napisał"),
)
_WHEN = re.compile(r"\d[:.h]\d\d|(?<!\d)(?:19|20)\d\d(?!\d)|\d[./-]\d{1,2}[./-]\d\d|@")
"""A time, a year, a date, or the address of who wrote then."""
_TIME = re.compile(r"\d[:.]\d\d(?!\d)")
_NO_WRITER = frozenset({"i", "he", "she", "they", "we", "you", "it", "sie", "ihnen"})
_COLONS = (":", "：")
_RULED = frozenset(
    {
        "original message",
        "ursprüngliche nachricht",
        "original-nachricht",
        "message d'origine",
        "mensaje original",
        "messaggio originale",
        "mensagem original",
        "oorspronkelijk bericht",
        "исходное сообщение",
        "原始邮件",
        "forwarded message",
        "weitergeleitete nachricht",
        "message transféré",
        "mensaje reenviado",
        "messaggio inoltrato",
        "mensagem encaminhada",
        "doorgestuurd bericht",
        "пересылаемое сообщение",
    }
)
_FORWARDED = "begin forwarded message:"
_HEADERS = {
    "from": frozenset(
        {
            "from", "von", "de", "da", "van", "od", "från", "fra", "lähettäjä", "kimden", "от", "发件人", "差出人",
            "보낸 사람",
        }
    ),
    "date": frozenset(
        {
            "sent", "date", "gesendet", "datum", "envoyé", "fecha", "enviado", "enviado el", "enviada", "enviada em",
            "inviato", "data", "verzonden", "wysłano", "skickat", "sendt", "dato", "lähetetty", "gönderildi", "tarih",
            "отправлено", "дата", "发送时间", "日期", "送信日時", "日付", "보낸 날짜",
        }
    ),
    "to": frozenset(
        {
            "to", "an", "à", "para", "a", "aan", "do", "till", "til", "vastaanottaja", "kime", "кому", "收件人", "宛先",
            "받는 사람",
        }
    ),
    "subject": frozenset(
        {
            "subject", "betreff", "objet", "asunto", "oggetto", "assunto", "onderwerp", "temat", "ämne", "emne", "aihe",
            "konu", "тема", "主题", "件名", "제목",
        }
    ),
}  # fmt: skip
_ANY_HEADER = frozenset().union(*_HEADERS.values())
_CODE = "`"
_WRAPPED_LINES = 3
"""An introduction may be wrapped over so many lines."""
_BLOCK_LINES = 8
"""A copied header block has at most so many lines."""
_LONGEST_LINE = 1000
"""A line longer than this introduces nothing."""


def quoted_spans(text: str) -> list[QuoteSpan]:
    """The parts of a mail's text that repeat earlier mails, in order and apart from each other.

    Lines that begin with `>` are quoted, with the line before them that says who wrote. Behind such a line without `>`
    (in nine languages, or with a time and an address), behind "-----Original Message-----" and from a copied block of
    From, Sent, To and Subject on, everything is quoted.

    What a writer cites stays: marked lines or headers below a line that ends in a colon and says neither who wrote nor
    when, a session with Python, and what stands between fences as code.
    """
    starts = _starts(text)
    lines = _without_code([text[start:end] for start, end in pairwise(starts)])
    last = _history(lines)
    spans = [QuoteSpan(starts[last], len(text))] if last is not None else []
    for first, end in _marked(lines[:last]):
        spans.append(QuoteSpan(starts[first], starts[end]))
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


def _without_code(lines: Sequence[str]) -> list[str]:
    """The lines, with a mark of code in place of those between fences and of a session with Python."""
    marked = [line for line in lines if _is_marked(line)]
    is_session = bool(marked) and all(line.startswith(">>> ") or line.strip() == ">>>" for line in marked)
    found: list[str] = []
    is_fenced = False
    for line in lines:
        is_fence = line.lstrip().startswith(_CODE * 3)
        is_code = is_fenced or is_fence or (is_session and _is_marked(line))
        found.append(_CODE if is_code else line)
        is_fenced ^= is_fence
    return found


def _history(lines: Sequence[str]) -> int | None:
    """The line from which on everything is history; None when there is none."""
    for number, line in enumerate(lines):
        if _is_ruled(line) or (_is_block(lines, number) and not _is_cited(lines, number)):
            return number - 1 if number and _is_rule(lines[number - 1]) else number
        introduced = _introduced(lines, number)
        if introduced and introduced.is_sure and not _is_marked(_next_filled(lines, introduced.behind)):
            return number
    return None


def _marked(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Runs of lines that begin with `>`, each with its introduction."""
    found: list[tuple[int, int]] = []
    number = 0
    while number < len(lines):
        first = number
        introduced = _introduced(lines, number)
        number = introduced.behind if introduced else number
        while number < len(lines) and introduced and not lines[number].strip():
            number += 1
        start_number = number
        while number < len(lines) and _is_marked(lines[number]):
            number += 1
        if number == start_number:
            number = first + 1
        elif introduced or not _is_cited(lines, start_number):
            found.append((first, number))
    return found


def _introduced(lines: Sequence[str], number: int) -> _Introduced | None:
    """An introduction that starts at a line; None when none does."""
    first = lines[number].lstrip(" >").lower()[:_LONGEST_LINE]
    introductions = [introduction for introduction in _INTRODUCTIONS if first.startswith(introduction.first)]
    joined = ""
    for end in range(number, min(number + _WRAPPED_LINES, len(lines)) if introductions else number):
        line = lines[end].strip()
        if not line or len(line) > _LONGEST_LINE:
            break
        joined += " " + line
        if line.endswith(_COLONS):
            if any(char.isdigit() or char == "@" for char in joined):
                for introduction in introductions:
                    if introduction.verb in joined.lower():
                        return _Introduced(end + 1, is_sure=_tells_who_and_when(joined, introduction))
            break
    return _in_any_language(lines[number], number)


def _in_any_language(line: str, number: int) -> _Introduced | None:
    """A line that gives a time or an address and ends in a colon: "5.01.2024 10:00, Ann Lee пишет:"."""
    bare = line.strip()
    if not bare.endswith(_COLONS) or len(bare) > _LONGEST_LINE:
        return None
    has_time, has_address = _TIME.search(bare) is not None, "@" in bare
    is_said_of_one = bare.endswith(" wrote:") and _is_writer(bare.split()[-2])
    if has_time or has_address or is_said_of_one:
        return _Introduced(number + 1, is_sure=has_time and has_address)
    return None


def _tells_who_and_when(joined: str, one: _Introduction) -> bool:
    """Whether somebody is named right beside the verb: "Ann wrote:", and not "I wrote this:" or "she wrote:"."""
    before, _, after = joined.rstrip(" :：").rpartition(one.verb if one.verb in joined else one.verb.capitalize())
    neighboring_words = after.split() if one.writer_last else before.split()
    if not neighboring_words or _WHEN.search(joined) is None or (not one.writer_last and after.strip(" (ao)")):
        return False
    return _is_writer(neighboring_words[0 if one.writer_last else -1])


def _is_writer(word: str) -> bool:
    """Whether a word beside the verb belongs to a name or an address."""
    bare = word.strip("\"'„“,*")
    return bare.lower() not in _NO_WRITER and (bare[:1].isupper() or not bare[-1:].isalpha())


def _is_cited(lines: Sequence[str], number: int) -> bool:
    """Whether the writer leads over to a line: what stands before it ends in a colon and introduces no mail."""
    for before in range(number - 1, max(-1, number - 1 - _WRAPPED_LINES), -1):
        if line := lines[before].strip():
            is_colon = line.endswith(_COLONS) and not _is_marked(line) and line.lower() != _FORWARDED
            return is_colon and _in_any_language(line, before) is None and _name(line) not in _ANY_HEADER
    return False


def _next_filled(lines: Sequence[str], number: int) -> str:
    """The next line that isn't blank, as far as an introduction reaches."""
    return next((line for line in lines[number : number + _WRAPPED_LINES] if line.strip()), "")


def _is_marked(line: str) -> bool:
    bare = line.lstrip(" ")
    return bare.startswith(">") and not bare.startswith(">=")


def _is_rule(line: str) -> bool:
    bare = line.strip()
    return len(bare) >= 5 and set(bare) <= {"_", "-"}


def _is_ruled(line: str) -> bool:
    bare = line.strip().lower()
    return bare == _FORWARDED or (bare.startswith("--") and bare.endswith("--") and bare.strip("- ") in _RULED)


def _is_block(lines: Sequence[str], number: int) -> bool:
    """Whether a copied header block starts here: From first, then the date, and To or Subject."""
    if _name(lines[number]) not in _HEADERS["from"]:
        return False
    names = {_name(line) for line in lines[number + 1 : number + _BLOCK_LINES]}
    return not names.isdisjoint(_HEADERS["date"]) and not names.isdisjoint(_HEADERS["to"] | _HEADERS["subject"])


def _name(line: str) -> str:
    """The name of a header line, without marks of emphasis."""
    before, colon, _ = line[:80].replace("：", ":").partition(":")
    return before.strip(" *\t").lower() if colon else ""
