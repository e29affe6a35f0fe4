"""The table of the rules, and what is said around a place: that somebody lives there or has something sent there."""

from __future__ import annotations

from pathlib import Path

from luthier.pii.rules import RuleTable

RULES = RuleTable(Path(__file__).with_name("rules.toml"))
PATTERNS = RULES.patterns
STRONG, CUES, SAID, PREPOSITIONS = (RULES.words(name) for name in ("strong", "cues", "said", "prepositions"))
AT, AT_ENGLISH, IS, WHERE, HOMES, LIVES = (
    RULES.words(name) for name in ("at", "at_english", "is", "where", "homes", "lives")
)
FIRST_WORDS, LAST, LAST_WORDS = (RULES.words(name) for name in ("first_words", "last", "last_words"))
NUMBERED, CALENDAR, PLACES = (RULES.words(name) for name in ("numbered", "calendar", "places"))
_LABELS = tuple(SAID)
_REACH, _WORDS, _AT_REACH, _LABEL_REACH, _WORDS_BEHIND = 60, 8, 10, 30, 4
_OPENERS = (",", "\n", ";", "(", ":", "/", "|", "=", ">", '"', "\t")


def split_words_and_marks(text: str) -> list[str]:
    """Its words in small letters, and the marks that part what is said."""
    return PATTERNS["spoken"].findall(text.lower())


def _said_before(text: str, start: int) -> list[str]:
    return split_words_and_marks(text[max(0, start - _REACH) : start])[-_WORDS:]


def is_at(text: str, start: int, words: frozenset[str] = AT) -> bool:
    """Whether a word such as `at` stands just before."""
    return any(word in words for word in split_words_and_marks(text[max(0, start - _AT_REACH) : start])[-1:])


def is_labelled(text: str, start: int) -> bool:
    """Whether *address:*, or a word that ends so, stands just before."""
    before = split_words_and_marks(text[max(0, start - _LABEL_REACH) : start])[-2:]
    return len(before) > 1 and before[1] in (":", "=") and before[0].endswith(_LABELS)


def is_cue_near(text: str, start: int) -> bool:
    """Whether one of the few words before says that somebody lives, meets or has something sent somewhere."""
    return not CUES.isdisjoint(_said_before(text, start))


def is_said_before(text: str, start: int, cues: frozenset[str] = STRONG) -> bool:
    """Whether somebody lives, or has something sent, to what follows: *I live in …*, *ship it to …*."""
    before = _said_before(text, start)
    last = before[-1] if before else ""
    return (last in (":", "=") or last in PREPOSITIONS or last in cues) and not cues.isdisjoint(before)


def has_address_context(text: str, start: int, end: int) -> bool:
    """Return whether the text around a span says that somebody lives there, or wants something sent there."""
    return is_said_before(text, start, CUES) or is_said_after(text, end)


def is_said_after(text: str, end: int) -> bool:
    """Whether what follows says so: *… is my address*, *…, where I live*."""
    clause = PATTERNS["clause"].match(text, end)
    words = clause[1].lower().split()[:_WORDS_BEHIND] if clause else []
    is_home = bool(words) and words[0] in IS and not HOMES.isdisjoint(words)
    return is_home or (not WHERE.isdisjoint(words[:2]) and not LIVES.isdisjoint(words))


def is_apart(text: str, start: int, end: int) -> bool:
    """Whether it is a line of its own, or stands between commas."""
    before = text[max(0, start - 2) : start].rstrip(" ")
    return (start == 0 or before[-1:] in _OPENERS) and PATTERNS["closed"].match(text, end) is not None
