"""Mark-up of forums, trackers and chats, taken out; what it marks stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.core.events import format_rows_affected
from luthier.core.messages import gettext_noop
from luthier.data.cleaning.spans import CODE, FENCED, clean_with_code_masked, diff_to_edits
from luthier.data.operator import OperatorResult, Reads, RowOperator, Suggestion
from luthier.data.row import Row

if TYPE_CHECKING:
    from luthier.data.suggest.profile import SourceProfile

Dialect = Literal["bbcode", "jira", "slack", "markdown"]

_BBCODE = re.compile(
    r"\[(/?)(b|i|u|s|quote|code|url|img|color|size|font|list|center|left|right|email|spoiler|table|tr|td|th)"
    r"(?:=[^\[\]\n]{0,300})?\]",
    re.IGNORECASE,
)
_BBCODE_ITEM = "[*]"
_JIRA = re.compile(r"\{(code|noformat|quote|panel|color|info|note|warning|tip|expand)(?::[^{}\n]{0,200})?\}")
_JIRA_LINK = re.compile(r"\[([^\[\]|\n]{1,200})\|(?:https?://|mailto:)[^\[\]\s]{1,500}\]")
_JIRA_HEADING = re.compile(r"^h[1-6]\. (?=\S)", re.MULTILINE)
_JIRA_IMAGE = re.compile(r"!(?<![\w!]!)[\w.-]{1,100}\.(?:png|jpe?g|gif)(?:\|[^!\n]{0,100})?!", re.IGNORECASE)
_SLACK_LINK = re.compile(r"<((?:https?://|mailto:)[^<>|\s]{1,500})(?:\|([^<>|\n]{1,200}))?>")
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]\n]{0,200})\]\((?:https?://|mailto:|/)[^()\s]{0,500}\)")
_MARKDOWN_BOLD = re.compile(r"\*\*(?=\S)([^*\n]{1,500}?)(?<=\S)\*\*")
_MARKDOWN_CODE = re.compile(r"(?<!`)`([^`\n]{1,300})`(?!`)")
_MARKDOWN_HEADING = re.compile(r"^#{1,6} (?=\S)", re.MULTILINE)
_ROUNDS = 12


class Markup(RowOperator):
    """Take out BBCode, Jira and Slack mark-up, and Markdown when asked: `[b]now[/b]`, `{color:red}now{color}`.

    Marks that need a partner go only with it, so that `[b]` as a reference stays; so does all that stands in fenced
    code, and between backticks unless Markdown goes. HTML is `normalize`'s.
    """

    kind: Literal["markup"] = "markup"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 1

    dialects: tuple[Dialect, ...] = ("bbcode", "jira", "slack")
    """What is taken out. Markdown is left in by default: a model may well learn to write it."""

    def apply(self, rows: Sequence[Row]) -> OperatorResult:
        """Say what goes."""
        outcome = OperatorResult()
        for index, row in enumerate(rows):
            for field, text in row.texts_with_rejected(("user", "assistant")):
                if (clean := self.clean(text)) != text:
                    outcome.edits.setdefault(index, []).extend(diff_to_edits(field, text, clean, "mark-up"))
        return outcome

    def clean(self, text: str) -> str:
        """One text without mark-up."""
        for _ in range(_ROUNDS):
            before = text
            for dialect in self.dialects:
                text = clean_with_code_masked(text, _CLEANERS[dialect], FENCED if dialect == "markdown" else CODE)
            if text == before:
                break
        return text

    @classmethod
    def trial(cls) -> Markup:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: SourceProfile) -> Suggestion | None:
        """Worth it when texts of the sample hold mark-up."""
        tried = profile.trials.get("markup")
        if tried is None:
            return None
        return Suggestion(
            {},
            gettext_noop(
                f"{format_rows_affected(tried.edited, profile.looked_at, 'holds', 'hold')} mark-up of a forum, a "
                "tracker or a chat"
            ),
        )


def _without_bbcode(text: str) -> str:
    if "[/" not in text:
        return text
    closed = {found[2].lower() for found in _BBCODE.finditer(text) if found[1]}
    opened = {found[2].lower() for found in _BBCODE.finditer(text) if not found[1]}
    paired = closed & opened
    text = _BBCODE.sub(lambda found: "" if found[2].lower() in paired else found[0], text)
    return text.replace(_BBCODE_ITEM, "- ") if "list" in paired else text


def _without_jira(text: str) -> str:
    if "{" in text:
        names = [found[1] for found in _JIRA.finditer(text)]
        paired = {name for name in names if names.count(name) > 1} if len(names) < 1000 else set(names)
        text = _JIRA.sub(lambda found: "" if found[1] in paired else found[0], text)
    if "|" in text:
        text = _JIRA_LINK.sub(r"\1", text)
    if "!" in text:
        text = _JIRA_IMAGE.sub("", text)
    return _JIRA_HEADING.sub("", text) if "h" in text else text


def _without_slack(text: str) -> str:
    return _SLACK_LINK.sub(lambda found: found[2] or found[1].removeprefix("mailto:"), text) if "<" in text else text


def _without_markdown(text: str) -> str:
    text = _MARKDOWN_LINK.sub(r"\1", text)
    text = _MARKDOWN_BOLD.sub(r"\1", text)
    text = _MARKDOWN_CODE.sub(r"\1", text)
    return _MARKDOWN_HEADING.sub("", text)


_CLEANERS: dict[Dialect, Callable[[str], str]] = {
    "bbcode": _without_bbcode,
    "jira": _without_jira,
    "slack": _without_slack,
    "markdown": _without_markdown,
}
