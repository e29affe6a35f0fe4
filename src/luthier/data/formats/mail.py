"""Mails of an mbox file: headers first, threads from them, texts one thread at a time."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from email.message import EmailMessage
from email.utils import getaddresses, parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from luthier.data.cleaning.quoted import without_quoted
from luthier.data.columns.conversations import ThreadParticipants
from luthier.data.formats.documents import html_to_text
from luthier.data.formats.lines import LONGEST_BYTES

_SUBJECT_MARK = re.compile(r"^\s*(?:re|aw|antw|sv|vs|tr|fwd?|wg|r)\s*(?:\[\d+\])?:\s*", re.IGNORECASE)
_ID = re.compile(r"<[^<>\s]{1,500}>")


class MailHeader(NamedTuple):
    """A mail's headers, and where it stands in the file."""

    start: int
    end: int
    line: int
    key: str
    """Its Message-ID, or the line on which it stands."""
    before: tuple[str, ...]
    """The mails that it answers, the nearest last."""
    subject: str
    sender: str
    date: str
    """In UTC, as ISO text; empty when it says none."""


class Mail(NamedTuple):
    """A mail with its text."""

    letter: MailHeader
    text: str
    attachments: int = 0
    problem: str = ""
    """Why it cannot be read, if so."""


def read_mail_headers(path: Path) -> Iterator[MailHeader]:
    """The headers of every mail, in the order of the file."""
    with path.open("rb") as file:
        for start, end, line, head in _stretches(file):
            yield _letter(start, end, line, head)


def _stretches(file: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """Where each mail begins and ends, its line, and its headers; a mail begins with `From ` behind a blank line."""
    start, first_line, number, blank, heading = -1, 1, 0, True, False
    head: list[bytes] = []
    at = 0
    while raw := file.readline(LONGEST_BYTES):
        number += 1
        if blank and raw.startswith(b"From "):
            if start >= 0:
                yield start, at, first_line, b"".join(head)
            start, first_line, head, heading = at + len(raw), number, [], True
        elif heading and start >= 0:
            heading = bool(raw.strip())
            head.append(raw)
        blank = not raw.strip()
        at += len(raw)
    if start >= 0:
        yield start, at, first_line, b"".join(head)


def _letter(start: int, end: int, line: int, head: bytes) -> MailHeader:
    parsed = email.message_from_bytes(head, policy=email.policy.compat32)
    named = _ID.findall(str(parsed.get("Message-ID", "")))
    before = _ID.findall(f"{parsed.get('References', '')} {parsed.get('In-Reply-To', '')}")
    senders = _addresses(parsed.get_all("From", []))
    subject = _decoded(str(parsed.get("Subject", "")))
    sender = next(iter(senders), "")
    key = named[0] if named else f"line {line}"
    return MailHeader(start, end, line, key, tuple(before), subject, sender, _date(parsed.get("Date")))


def _addresses(headers: Iterable[object]) -> list[str]:
    return [address.lower() for _, address in getaddresses([str(header) for header in headers]) if "@" in address]


def _decoded(text: str) -> str:
    from email.errors import MessageError
    from email.header import decode_header, make_header

    try:
        decoded = str(make_header(decode_header(text)))
    except (MessageError, LookupError, UnicodeError, ValueError):
        decoded = text
    return " ".join(decoded.split())


def _date(text: object) -> str:
    try:
        time = parsedate_to_datetime(str(text))
    except (TypeError, ValueError, OverflowError, IndexError):
        return ""
    known = time if time.tzinfo else time.replace(tzinfo=UTC)
    try:
        return known.astimezone(UTC).isoformat()
    except (OverflowError, ValueError):
        return ""


def group_into_threads(found: Sequence[MailHeader]) -> Iterator[list[MailHeader]]:
    """Mails that answer each other, by their ids, or by their subject when a reply names no id; in order of time."""
    root_of: dict[str, str] = {}
    by_subject: dict[str, str] = {}
    grouped: dict[str, list[MailHeader]] = {}
    for letter in found:
        root_of.setdefault(letter.key, letter.key)
        for other in letter.before:
            _join(root_of, letter.key, other)
        bare = bare_subject(letter.subject)
        if not letter.before and bare and bare != letter.subject.lower() and bare in by_subject:
            _join(root_of, letter.key, by_subject[bare])
        by_subject.setdefault(bare, letter.key)
    for letter in found:
        grouped.setdefault(_root(root_of, letter.key), []).append(letter)
    for thread in grouped.values():
        yield sorted(thread, key=lambda mail_header: (mail_header.date or thread[0].date, mail_header.line))


def _root(root_of: dict[str, str], key: str) -> str:
    while (above := root_of.setdefault(key, key)) != key:
        root_of[key] = root_of.setdefault(above, above)
        key = above
    return key


def _join(root_of: dict[str, str], one: str, other: str) -> None:
    root_of[_root(root_of, one)] = _root(root_of, other)


def bare_subject(subject: str) -> str:
    """A subject without `Re:` and its like, in small letters."""
    bare = subject
    while (shorter := _SUBJECT_MARK.sub("", bare, count=1)) != bare:
        bare = shorter
    return bare.strip().lower()


def thread_participants(found: Sequence[MailHeader]) -> list[ThreadParticipants]:
    """Who met in each thread."""
    return [
        ThreadParticipants(thread[0].sender, frozenset(letter.sender for letter in thread[1:] if letter.sender))
        for thread in group_into_threads(found)
    ]


def is_support_address(address: str, addresses: Sequence[str]) -> bool:
    """Whether an address is one of the desk's, or of one of its domains."""
    return any(
        address == entry.lower() or (entry.startswith("@") and address.endswith(entry.lower())) for entry in addresses
    )


def read_thread_mails(path: Path, thread: Sequence[MailHeader], *, quoted: bool) -> list[Mail]:
    """The texts of a thread's mails; `quoted` keeps what they repeat."""
    with path.open("rb") as file:
        return [_mail(file, letter, quoted=quoted) for letter in thread]


def _mail(file: BinaryIO, letter: MailHeader, *, quoted: bool) -> Mail:
    if letter.end - letter.start > LONGEST_BYTES * 2:
        return Mail(letter, "", problem=f"the mail is longer than {LONGEST_BYTES * 2 >> 20} MiB")
    file.seek(letter.start)
    data = re.sub(rb"(?m)^>(>*From )", rb"\1", file.read(letter.end - letter.start))
    try:
        parsed = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        text, attachments = _text(parsed)
    except RecursionError:
        return Mail(letter, "", problem="the parts of the mail are nested too deeply")
    except (LookupError, UnicodeError, ValueError, AttributeError, TypeError) as error:
        return Mail(letter, "", problem=f"the mail cannot be read: {error}")
    text = text.replace("\r\n", "\n").strip()
    return Mail(letter, text if quoted else without_quoted(text), attachments)


def _text(parsed: EmailMessage) -> tuple[str, int]:
    """The plain text, or that of the HTML when there is none; and how many attachments stand beside it."""
    attachments = sum(1 for part in parsed.walk() if part.get_content_disposition() == "attachment")
    body = parsed.get_body(("plain", "html"))
    if body is None:
        return "", attachments
    text = _content(body)
    if body.get_content_type() == "text/html":
        text = html_to_text(text)
    return text, attachments


def _content(part: Any) -> str:
    """A part's text; an encoding that nobody knows is read as UTF-8 with what cannot be read marked."""
    try:
        return str(part.get_content())
    except LookupError:
        data = part.get_payload(decode=True)
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else ""
