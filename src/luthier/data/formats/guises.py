"""Texts that are something else inside: chats, subtitles and mails, which are read as prose unless somebody says so."""

from __future__ import annotations

import re

_LOOKED_AT = 200
"""So many first lines tell."""
_LINE_CHARS = 200
_FEWEST = 3
_SAID = re.compile(
    r"\[?\d{1,4}[./-]\d{1,2}[./-]\d{2,4},? \d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s?[AaPp]\.?\s?[Mm]\.?)?(?:\] | - )"
    r"[^:]{1,60}: "
)
_SHOWN = re.compile(r"(?:\d{1,2}:)?\d{2}:\d{2}[.,]\d{3} --> ")
_HEADER = re.compile(r"([A-Za-z][A-Za-z-]{1,40}):")
_MAIL = frozenset(["from", "to", "subject", "date", "message-id", "received", "mime-version"])
MAILBOX = (
    "python -c \"import glob, mailbox; box = mailbox.mbox('mails.mbox'); "
    "[box.add(open(name, 'rb')) for name in sorted(glob.glob('*.eml'))]; box.close()\""
)
"""What makes a mailbox of mails that are a file each."""


def told(text: str) -> str:
    """What a text looks like that begins so, how it is read, and what to do; empty for plain prose."""
    lines = [line[:_LINE_CHARS].strip("\ufeff\u200e\u200f \t\r") for line in text.split("\n", _LOOKED_AT)[:_LOOKED_AT]]
    filled = [line for line in lines if line]
    if _many(_SAID, filled, 3):
        return (
            "looks like a chat given out by WhatsApp or its like, and is read as plain text to continue, times and "
            "names too; for conversations, write a CSV with the columns conversation_id, sender (customer or agent), "
            "content and sent_at, a message a row"
        )
    if _many(_SHOWN, filled, 6) or (filled and filled[0].startswith("WEBVTT")):
        return (
            "looks like subtitles, and is read as plain text to continue, numbers and times too; to learn only what "
            r"is said: grep -vE '^WEBVTT|^[0-9]+\s*$|-->' FILE > said.txt"
        )
    if _is_mail(lines):
        return (
            "looks like a mail, and is read as plain text to continue, headers too; for conversations, make a mailbox "
            f"of all mails, whose threads are read: {MAILBOX}"
        )
    return ""


def _many(pattern: re.Pattern[str], lines: list[str], one_in: int) -> bool:
    """Whether at least three lines, and one in so many, begin so."""
    found = sum(pattern.match(line) is not None for line in lines)
    return found >= _FEWEST and found * one_in >= len(lines)


def _is_mail(lines: list[str]) -> bool:
    """Whether headers of a mail stand at the start, as nothing but a mail has them together."""
    names: set[str] = set()
    for line in lines:
        if not line:
            break
        if found := _HEADER.match(line):
            names.add(found[1].lower())
    return "from" in names and len(names & _MAIL) >= _FEWEST
