"""From what people said, one after the other, to the turns of a conversation with the desk as the assistant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_FREE = frozenset(
    {"gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "yahoo.com", "icloud.com", "aol.com"}
    | {"gmx.de", "gmx.net", "web.de", "mail.ru", "yandex.ru", "qq.com", "163.com", "proton.me", "protonmail.com"}
)
"""Domains that strangers share: they tell nothing of a desk."""


class Speech(NamedTuple):
    """What somebody said once."""

    who: str
    text: str
    desk: bool
    """Whether it was one of those who answer."""


class Talk(NamedTuple):
    """The turns of a conversation."""

    messages: list[dict[str, str]]
    left_out: int
    """Speeches of the desk before the first question, and of others behind the last answer."""


class Meeting(NamedTuple):
    """Who wrote in one thread."""

    began: str
    answered: frozenset[str]
    """All who wrote behind the first."""


def conversation(speeches: Iterable[Speech]) -> Talk:
    """Turns from the first question to the last answer; what one side says in a row is one turn.

    Without an answer (or without a question) all is kept, and the reader of rows says why it cannot be learnt.
    """
    turns: list[tuple[bool, list[str]]] = []
    for speech in speeches:
        if not speech.text.strip():
            continue
        if turns and turns[-1][0] == speech.desk:
            turns[-1][1].append(speech.text.strip())
        else:
            turns.append((speech.desk, [speech.text.strip()]))
    begin, end = int(bool(turns) and turns[0][0]), len(turns) - int(bool(turns) and not turns[-1][0])
    whole = not any(desk for desk, _ in turns[begin:end])
    kept = turns if whole else turns[begin:end]
    messages = [{"role": "assistant" if desk else "user", "content": "\n\n".join(texts)} for desk, texts in kept]
    return Talk(messages, sum(len(texts) for _, texts in turns) - sum(len(texts) for _, texts in kept))


def guessed_desk(meetings: Sequence[Meeting]) -> tuple[str, ...]:
    """The address that answers in most threads that others began, or its domain when several of it answer.

    Empty when nobody answers in two threads.
    """
    answers: Counter[str] = Counter()
    for meeting in meetings:
        answers.update(meeting.answered - {meeting.began})
    if not answers:
        return ()
    best = min(answers, key=lambda one: (-answers[one], one))
    if answers[best] < min(2, len(meetings)):
        return ()
    domain = best.rpartition("@")[2]
    if "@" not in best or domain in _FREE:
        return (best,)
    fellows = [one for one in answers if one.endswith(f"@{domain}")]
    return (f"@{domain}",) if len(fellows) > 1 else (best,)


def told(file: str, desk: tuple[str, ...]) -> str:
    """What is said of a guess."""
    if not desk:
        return f"{file}: nobody answers in two threads; set `desk` to the addresses of those who answer"
    return f"{file}: those who answer are taken to be {', '.join(desk)}; set `desk` if they are not"
