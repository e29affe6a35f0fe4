"""Mailboxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from luthier.data.columns.conversations import (
    ThreadMessage,
    build_conversation,
    describe_support_team,
    guess_support_team,
)
from luthier.data.columns.layouts import Layout
from luthier.data.formats import mail
from luthier.data.formats.files import SourceFile
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say


class Mbox(FileSource):
    """Mailboxes (mbox): a row is a thread, with what the desk wrote as the assistant's turns.

    A row's line is that of its first mail. Headers of all mails are kept in memory (about 1 KB each), texts one thread
    at a time. Attachments are left out and counted.
    """

    kind: Literal["mbox"] = "mbox"
    endings: ClassVar[tuple[str, ...]] = (".mbox", ".mbx")
    written: ClassVar[Layout | None] = Layout(messages="messages", note="threads of a mailbox")
    support_team: tuple[str, ...] = ()
    """Addresses of those who answer (`help@shop.example`), or their domains (`@shop.example`); guessed and said when
    not set."""
    quoted: Literal["drop", "keep"] = "drop"
    """Whether what a mail repeats of earlier ones is left out of its turn."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """A line `From …`, and headers behind it."""
        first, _, rest = look.start.partition("\n")
        header = rest[:400].partition("\n")[0].partition(":")
        mail_like = first.startswith("From ") and bool(header[1]) and " " not in header[0].strip()
        return FormatMatch.CERTAIN if mail_like else FormatMatch.NO

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every thread, in the order of their first mails."""
        with file.local() as path:
            letters = list(mail.read_mail_headers(path))
            support_team = self.support_team or guess_support_team(mail.thread_participants(letters))
            if not self.support_team:
                say(describe_support_team(file.name, support_team))
            for thread in mail.group_into_threads(letters):
                yield self._thread(
                    mail.read_thread_mails(path, thread, quoted=self.quoted == "keep"), file.name, support_team
                )

    def _thread(self, thread: list[mail.Mail], name: str, support_team: tuple[str, ...]) -> SourceRecord | BrokenRow:
        first = thread[0].letter
        lost = [entry for entry in thread if entry.problem]
        if lost:
            return BrokenRow(name, lost[0].letter.line, lost[0].problem)
        speeches = [
            ThreadMessage(
                entry.letter.sender, entry.text, is_support=mail.is_support_address(entry.letter.sender, support_team)
            )
            for entry in thread
        ]
        talk = build_conversation(speeches)
        values = {
            "messages": talk.messages,
            "subject": first.subject,
            "started_by": first.sender,
            "started_at": first.date,
            "thread": first.key,
            "mails": len(thread),
            "attachments": sum(entry.attachments for entry in thread),
            "left_out": talk.left_out,
        }
        return SourceRecord(values, name, first.line)
