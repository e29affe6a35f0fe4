"""Exports of a Slack workspace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from luthier.core.files import expand_env_vars, resolve_path
from luthier.data.columns.conversations import (
    ThreadMessage,
    ThreadParticipants,
    build_conversation,
    describe_support_team,
    guess_support_team,
)
from luthier.data.columns.layouts import Layout
from luthier.data.formats import slack
from luthier.data.formats.files import SourceFile
from luthier.data.formats.locations import glob_inside, is_url, list_matching_files
from luthier.data.formats.sniff import FileSample, FormatMatch
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import FileSource, Say


class SlackSource(FileSource):
    """An export of a Slack workspace (folder or zip): a row is a thread, the desk's answers are the assistant's turns.

    Messages outside threads are threads of one, which nobody answers: the reader of rows drops and counts them. One
    channel at a time is held in memory. A row's line is the number of its first message in its day's file.
    """

    kind: Literal["slack"] = "slack"
    endings: ClassVar[tuple[str, ...]] = ()
    written: ClassVar[Layout | None] = Layout(messages="messages", note="threads of a Slack export")
    support_team: tuple[str, ...] = ()
    """Names, e-mail addresses or ids of those who answer; guessed and said when not set."""
    channels: tuple[str, ...] = ()
    """Only these channels; all when not set."""

    @classmethod
    def recognises(cls, look: FileSample) -> FormatMatch:
        """A list of users beside one of channels."""
        return (
            FormatMatch.EXACT
            if "users.json" in look.names and not look.names.isdisjoint(slack.LISTS)
            else FormatMatch.NO
        )

    def files(self, recipe_dir: Path) -> list[SourceFile]:
        """The zip, or the files of the folder."""
        path = resolve_path(self.path, recipe_dir)
        if not is_url(expand_env_vars(self.path)) and path.is_dir():
            return glob_inside(path, "**/*.json", self.path.rstrip("/"))
        return list_matching_files(self.path, recipe_dir, lambda file: True, "name the export's zip or folder")

    def read(self, recipe_dir: Path, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every thread of every channel."""
        source_files = self.files(recipe_dir)
        if len(source_files) == 1 and source_files[0].ending != ".json":
            yield from self.read_file(source_files[0], say)
        else:
            yield from self._threads(slack.SlackExportFolder(source_files), say)

    def read_file(self, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        """Yield every thread of a zip."""
        with file.raw() as opened, slack.open_slack_zip(opened, file.name) as export:
            yield from self._threads(export, say)

    def _threads(self, export: slack.SlackExport, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        people = slack.people(export)
        support_team = self._support_team(export, people, say)
        notices = 0
        for channel in slack.list_channels(export, self.channels):
            broken: list[BrokenRow] = []
            threads, left = slack.read_threads(export, channel, broken)
            notices += left
            yield from broken
            for thread in threads:
                yield _row(thread, channel, people, support_team)
        if notices:
            say(
                f"{self.path}: {notices} notices (who joined, what was renamed) and messages without text were left out"
            )

    def _support_team(self, export: slack.SlackExport, people: dict[str, slack.SlackUser], say: Say) -> frozenset[str]:
        """The ids of those who answer."""
        if self.support_team:
            return slack.find_user_ids(self.support_team, people, export.name)
        participantses: list[ThreadParticipants] = []
        for channel in slack.list_channels(export, self.channels):
            for thread in slack.read_threads(export, channel, [])[0]:
                participantses.append(
                    ThreadParticipants(thread[0].who, frozenset(message.who for message in thread[1:]))
                )
        guess = guess_support_team([meeting for meeting in participantses if meeting.answered])
        say(
            describe_support_team(
                export.name, tuple(people[entry].name if entry in people else entry for entry in guess)
            )
        )
        return frozenset(guess)


def _row(
    thread: list[slack.SlackMessage], channel: str, people: dict[str, slack.SlackUser], support_team: frozenset[str]
) -> SourceRecord:
    talk = build_conversation(
        ThreadMessage(
            message.who, slack.strip_slack_markup(message.text, people), is_support=message.who in support_team
        )
        for message in thread
    )
    first = thread[0]
    values = {
        "messages": talk.messages,
        "channel": channel,
        "thread": first.key,
        "started_by": people[first.who].name if first.who in people else first.who,
        "replies": len(thread) - 1,
        "left_out": talk.left_out,
    }
    return SourceRecord(values, first.file, first.number, f"ts = {first.key}")
