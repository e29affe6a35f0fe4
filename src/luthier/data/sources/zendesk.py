"""Tickets with comments, as Zendesk gives them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from luthier.data.cleaning.quoted import without_quoted
from luthier.data.columns.conversations import ThreadMessage, build_conversation
from luthier.data.columns.layouts import Layout
from luthier.data.formats import json_rows, lines
from luthier.data.formats.documents import html_to_text
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say

_WITH_COMMENTS = (
    "export tickets with their comments (Zendesk's full JSON export has them, its CSV and its API's lists of tickets "
    "have none), or set `on_error: drop`"
)
_AGENTS = frozenset({"agent", "admin", "owner"})


class Zendesk(FileSource):
    """Exports of tickets with `comments` and a requester, as Zendesk writes them (JSON or JSON lines).

    A row is a ticket; what others than the requester say are the assistant's turns. All other fields stay in `meta`;
    custom fields become columns that are called by their numbers, `field_360001`.
    """

    kind: Literal["zendesk"] = "zendesk"
    endings: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".ndjson")
    written: ClassVar[Layout | None] = Layout(messages="messages", note="tickets with comments")
    notes: Literal["drop", "keep"] = "drop"
    """Whether comments that were not public are left out, or kept in the column `notes`; they are never turns."""
    quoted: Literal["drop", "keep"] = "drop"
    """Whether what a comment by e-mail repeats of earlier ones is left out of its turn."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """JSON whose first bytes speak of comments and a requester."""
        named = '"comments"' in look.start and '"requester' in look.start
        return FormatMatch.EXACT if named and look.start.startswith(("{", "[")) else FormatMatch.NO

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every ticket, with the line on which it starts."""
        look = FileSample.at(file)
        by_line = look.first_object is not None and "tickets" not in look.first_object
        rows = "tickets" if not by_line and '"tickets"' in look.start[:4096] else None
        found = lines.read_jsonl_rows(file, say=say) if by_line else json_rows.read_json_rows(file, rows=rows, say=say)
        for entry in found:
            yield self._ticket(entry) if isinstance(entry, SourceRecord) else entry

    def _ticket(self, record: SourceRecord) -> SourceRecord | BrokenRow:
        ticket = record.values.get("ticket", record.values)
        comments = ticket.get("comments") if isinstance(ticket, dict) else None
        if not comments:
            return BrokenRow(
                record.file, record.line, "the ticket came without its comments", "comments", _WITH_COMMENTS
            )
        if not isinstance(comments, list) or not all(isinstance(comment, dict) for comment in comments):
            return BrokenRow(record.file, record.line, "expected a ticket with a list of comments", "comments")
        ordered = sorted(comments, key=lambda comment: str(comment.get("created_at") or ""))
        public = [entry for entry in ordered if entry.get("public", True)]
        talk = build_conversation(
            ThreadMessage("", self._text(entry), is_support=_is_desk(entry, ticket)) for entry in public
        )
        values = {name: value for name, value in ticket.items() if name != "comments"}
        values |= _custom_fields(values)
        if isinstance(requester := ticket.get("requester"), dict):
            values.setdefault("requester_id", _id(ticket, "requester", requester))
        values |= {"messages": talk.messages, "left_out": talk.left_out}
        if self.notes == "keep":
            values["notes"] = [self._text(entry) for entry in ordered if not entry.get("public", True)]
        if not talk.messages:
            what = "no public comment of the ticket has text" if public else "no comment of the ticket is public"
            return BrokenRow(record.file, record.line, what, "comments")
        return SourceRecord(values, record.file, record.line)

    def _text(self, comment: dict[str, Any]) -> str:
        text = comment.get("plain_body") or comment.get("body") or html_to_text(str(comment.get("html_body") or ""))
        return str(text) if self.quoted == "keep" else without_quoted(str(text))


def _custom_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields that a company made for itself, each as a column, such as one with the class of the ticket."""
    found = values.get("custom_fields")
    if not isinstance(found, list) or not all(isinstance(entry, dict) and "id" in entry for entry in found):
        return {}
    del values["custom_fields"]
    return {f"field_{entry['id']}": entry.get("value") for entry in found}


def _is_desk(comment: dict[str, Any], ticket: dict[str, Any]) -> bool:
    """Whether a comment is an agent's: by the author's role where it is told, else by who is the requester."""
    author = comment.get("author")
    role = author.get("role") if isinstance(author, dict) else comment.get("author_role")
    if isinstance(role, str):
        return role.lower() in _AGENTS
    requester = ticket.get("requester")
    return bool(_id(comment, "author", author) != _id(ticket, "requester", requester))


def _id(holder: dict[str, Any], name: str, person: Any) -> Any:
    if holder.get(f"{name}_id") is not None:
        return holder[f"{name}_id"]
    return person.get("id", person.get("email")) if isinstance(person, dict) else person
