"""Repair of text: wrong decoding, HTML remains, invisible characters, white space."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.core.events import format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.data.cleaning.spans import CODE, FENCE, clean_outside_code, diff_to_edits
from luthier.data.operator import OperatorResult, Reads, RowOperator, Suggestion
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile

_TAGS = (
    r"a|abbr|article|b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|font|footer|form|h[1-6]|head|header|hr|html|i"
    r"|img|input|label|li|link|main|meta|nav|o:p|ol|option|p|pre|s|section|select|small|span|strike|strong|sub|sup"
    r"|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul"
)
_SWITCHES = r"(?:\s+(?:checked|controls|disabled|hidden|multiple|noshade|nowrap|open|readonly|required|selected))*"
_TAG = re.compile(rf"</?(?:{_TAGS}){_SWITCHES}(?:[\s/]*|[\s/]+[a-z_:@][\w:.-]*\s*=[^<>]*)>", re.IGNORECASE)
"""What stands in a tag is named and given a value, or is a switch: `a<b && c>d` is none."""
_BREAK = re.compile(r"</?(?:br|p|div|tr|li|h[1-6]|ul|ol|table|blockquote|section|article)\b", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_SPOKEN_OF = re.compile(r"\b(?:x?html5?|css3?|jsx|svg|xml)\b", re.IGNORECASE)
_HIDDEN_PARTS = ("script", "style")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0e-\x1f\x7f]")
"""Zero-width and direction marks, soft hyphens and control characters; joiners stay, emoji and scripts need them."""
_SPACES = re.compile("[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_MORE_SPACES = re.compile("  +")
"""The same in a printable text, which has no other white space than spaces."""
_UNTIDY_PIECES = ("  ", " \n", "\n\n\n", "\n ")
_ODD_LINE = re.compile("[\r\x1b\x80-\x9f\u2028\u2029\ud800-\udfff]")
"""Besides wrong decoding, what ftfy changes: line breaks, terminal escapes, C1 controls, surrogates."""
_ASCII_RUN = re.compile(r"[\x00-\x7f]{16,}")
_SEEN_CHARS = 7
_CUT, _SUBSTITUTE = "\x00", "\x1a"
"""What stands for the middle of such a run; what ftfy writes for a character that was lost."""
_ALARMING = re.compile("[^\x00-\x7f](?:[^\x00-\x7f]|(?<=[ŒœÃÂ\x80-\x9f]))")
"""Without a match, ftfy finds nothing wrong: alone among ASCII, only these few characters alarm it.

It begins with one set of characters, so that a search runs over all others quickly."""
_UNTIDY = re.compile(
    "[\t\r\x0b\x0c\x1c-\x1f\x85\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]| [ \n]|\n\n\n|\n "
)
"""Where white space needs a closer look."""
_PRINTABLE = bytes([ord("\n"), *range(ord(" "), 0x7F)])
_ROUNDS = 12
"""Repair is repeated until nothing changes (`&amp;lt;` hides in layers), at most so often."""


class Normalize(RowOperator):
    """Repair Unicode, remove HTML remains and invisible characters, tidy white space.

    Wrong decoding (`schÃ¶n`) is undone by ftfy; quotes and dashes stay as they are. Indentation at the beginning of a
    line is kept, and so are tags, entities and white space in fenced code, so that code stays code.
    """

    kind: Literal["normalize"] = "normalize"
    reads: ClassVar[tuple[Reads, ...]] = ("system", "prompt", "answer")
    suggested_at: ClassVar[int] = 0

    unicode: bool = True
    """Undo wrong decoding, and write composed characters in one way (NFC)."""
    html: bool = True
    """Remove HTML tags, scripts and styles, and resolve entities, but not in code between backticks; switch it off when
    other texts are about HTML, too."""
    invisible: bool = True
    """Remove zero-width and control characters, soft hyphens and direction marks."""
    spaces: bool = True
    """Cut white space at both ends and at ends of lines, fold runs of spaces into one and empty lines into one, but not
    in fenced code."""

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Say which spans of which turns change."""
        outcome = OperatorResult()
        for index, row in enumerate(rows):
            for field, text in row.texts_with_rejected(("system", "user", "assistant", "tool")):
                if (clean := self.clean(text)) != text:
                    outcome.edits.setdefault(index, []).extend(diff_to_edits(field, text, clean, "text repaired"))
        return outcome

    def clean(self, text: str) -> str:
        """One text, repaired until nothing changes any more."""
        if self.spaces and "\r\n" in text:
            text = text.replace("\r\n", "\n")
        for _ in range(_ROUNDS):
            bare = text.strip(" \n") if self.spaces else text
            if _is_plain(bare):
                return bare
            before, text = text, self._once(text)
            if text == before:
                break
        return text

    def _once(self, text: str) -> str:
        if self.unicode:
            text = _repaired(text)
        if self.html and ("<" in text or "&" in text):
            text = clean_outside_code(text, _bare)  # there, HTML is what is spoken of
        if self.invisible and not _is_printable(text):
            text = _INVISIBLE.sub("", text)
        if self.spaces:
            text = _tidy(text)
        return unicodedata.normalize("NFC", text) if self.unicode else text

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when some texts of the sample would change."""
        tried = profile.trials.get("normalize")
        if tried is None:
            return None
        edited, rows = tried.edited, profile.looked_at
        if profile.about_html * 2 > profile.html_rows:
            about, html_rows = profile.about_html, profile.html_rows
            broken = gettext_noop(
                f"{format_rows_affected(edited, rows, 'holds', 'hold')} broken characters or stray spaces"
            )
            speaking = gettext_noop(
                f"{format_rows_affected(about, html_rows, 'with HTML speaks', 'with HTML speak')} of HTML, so it stays"
            )
            return Suggestion({"html": False}, f"{broken}; {speaking}")
        why = gettext_noop(
            f"{format_rows_affected(edited, rows, 'holds', 'hold')} broken characters, HTML or stray spaces"
        )
        return Suggestion({}, why)

    @classmethod
    def trial(cls) -> Normalize:
        """With defaults."""
        return cls()


def holds_html(row: Row) -> bool:
    """Whether tags stand in any turn outside of code."""
    return any(
        "<" in text and _TAG.search(CODE.sub("", text)) for _, text in row.texts_with_rejected(("user", "assistant"))
    )


def is_about_html(row: Row) -> bool:
    """Whether any turn speaks of HTML or what belongs to it, in words and not by tags alone."""
    return any(
        _SPOKEN_OF.search(_TAG.sub(" ", text)) for _, text in row.texts_with_rejected(("system", "user", "assistant"))
    )


def _is_plain(text: str) -> bool:
    """Whether a text is ASCII without anything to repair, so that nothing needs a closer look."""
    return (
        text.isascii()
        and not ("&" in text or "<" in text or "  " in text)
        and not ("\n" in text and (" \n" in text or "\n\n\n" in text or "\n " in text))
        and text == text.strip()
        and _is_printable(text)
    )


def _is_printable(text: str) -> bool:
    """Whether all is printable but line feeds, which nothing invisible and no odd white space is."""
    if text.isascii():
        return not text.encode().translate(None, _PRINTABLE)
    return text.replace("\n", "").isprintable()


def _repaired(text: str) -> str:
    """What ftfy makes of a text, which goes line by line; lines that it would not change are not shown to it."""
    if text.isascii() and not _is_odd(text):
        return text
    *lines, last = text.split("\n")
    found: list[str] = []
    for line in [*(f"{line}\n" for line in lines), last]:
        found.append(line if line.isascii() and not _is_odd(line) else _repaired_line(line))
    return "".join(found)


def _repaired_line(line: str) -> str:
    if not _is_odd(line):
        if not _ALARMING.search(line):
            return line
        short = shorten_ascii_runs(line)
        if not has_mojibake(short):
            return line
        if _CUT not in line and _SUBSTITUTE not in line:
            return _with_ascii_runs(_fixed(short), line) or _fixed(line)
    return _fixed(line)


def _is_odd(text: str) -> bool:
    """Whether a text holds any of `_ODD_LINE`, none of which is printable; two of them are ASCII."""
    if text.isascii():
        return "\r" in text or "\x1b" in text
    return not _is_printable(text) and _ODD_LINE.search(text) is not None


def _fixed(line: str) -> str:
    import ftfy

    return str(
        ftfy.fix_text(
            line,
            unescape_html=False,
            uncurl_quotes=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            remove_control_chars=False,
            normalization="NFC",
        )
    )


def has_mojibake(line: str) -> bool:
    """What ftfy says of a line; it is only asked when something beyond ASCII has such a neighbour, or is of few."""
    from ftfy.badness import is_bad

    return _ALARMING.search(line) is not None and bool(is_bad(line))


def shorten_ascii_runs(line: str) -> str:
    """A line with a mark in place of the middle of long ASCII runs.

    What looks like wrong decoding to ftfy is at most seven characters long and holds one beyond ASCII, so that this
    is all it needs to see, and to repair.
    """
    return _ASCII_RUN.sub(lambda found: f"{found[0][:_SEEN_CHARS]}{_CUT}{found[0][-_SEEN_CHARS:]}", line)


def _with_ascii_runs(short: str, line: str) -> str | None:
    """A repaired line with what the marks stand for put back; None when a mark got lost."""
    first, *rest = short.split(_CUT)
    middles = [run[_SEEN_CHARS:-_SEEN_CHARS] for run in _ASCII_RUN.findall(line)]
    if len(middles) != len(rest):
        return None
    return "".join([first, *(part for pair in zip(middles, rest, strict=True) for part in pair)])


def _bare(text: str) -> str:
    for name in _HIDDEN_PARTS:
        text = _without_element(text, name)
    text = _TAG.sub(lambda found: "\n" if _BREAK.match(found[0]) else "", text)
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def _without_element(text: str, name: str) -> str:
    """Cut an element with its content; one that is never closed stays. One look at each character."""
    lower = text.lower()
    if len(lower) != len(text):
        lower = text  # a character grew when lowered: places would not fit
    parts: list[str] = []
    at = 0
    while (start := lower.find(f"<{name}", at)) >= 0:
        close = lower.find(f"</{name}", start)
        end = lower.find(">", close) if close >= 0 else -1
        if end < 0:
            break
        parts.append(text[at:start])
        at = end + 1
    return "".join([*parts, text[at:]])


def _tidy(text: str) -> str:
    if not (_may_be_untidy(text) and _UNTIDY.search(text)):
        return text.strip()
    kept: list[str] = []
    is_fenced = False
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        is_border = line.count(FENCE) % 2 == 1
        tidy = line if is_fenced and not is_border else _tidy_line(line)
        if tidy or is_fenced or (kept and kept[-1]):
            kept.append(tidy)
        is_fenced ^= is_border
    return "\n".join(kept).strip()


def _may_be_untidy(text: str) -> bool:
    """Whether a search is worth its time: what is not printable, or one of few pairs, stands in untidy texts."""
    return any(piece in text for piece in _UNTIDY_PIECES) or not _is_printable(text)


def _tidy_line(line: str) -> str:
    bare = line.strip()
    if not bare:
        return ""
    indent = line[: len(line) - len(line.lstrip(" \t"))] if line[0] in " \t" else ""
    return indent + (_MORE_SPACES if bare.isprintable() else _SPACES).sub(" ", bare)
