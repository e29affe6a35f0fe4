"""Read an export of a Slack workspace: people, channels, and one file of messages a channel and day."""

from __future__ import annotations

import html
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol

from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.data.formats import archives
from luthier.data.formats.files import SourceFile
from luthier.data.formats.lines import LONGEST_BYTES, parse_json
from luthier.data.row import BrokenRow

LISTS = frozenset({"channels.json", "groups.json", "dms.json", "mpims.json"})
_SPOKEN = frozenset({"", "thread_broadcast", "bot_message", "file_share", "me_message"})
"""Kinds of messages that somebody wrote; others are notices."""
_MARK = re.compile(r"<([^<>|]*+)(?:\|([^<>]*+))?>")


class SlackUser(NamedTuple):
    """Somebody of the workspace."""

    name: str
    others: frozenset[str]
    """Other names, the e-mail address and the id, in small letters."""


class SlackMessage(NamedTuple):
    """One message."""

    who: str
    text: str
    key: str
    """Its time stamp, which names it within the channel."""
    thread: str
    file: str
    number: int
    """Its number in the file, from 1."""


class SlackExport(Protocol):
    """The files of an export."""

    name: str

    def names(self) -> list[str]:
        """All files, each with its folder, sorted."""
        ...

    def load(self, name: str) -> Any:
        """What a JSON file holds."""
        ...


class SlackExportFolder:
    """An export that was unpacked."""

    def __init__(self, files: Sequence[SourceFile]) -> None:
        parts = [PurePosixPath(file.name).parts for file in files]
        top = next((part[:-1] for part in parts if part[-1] == "users.json"), ())
        self.name = "/".join(top)
        self._files = {"/".join(entry[len(top) :]): file for entry, file in zip(parts, files, strict=True)}

    def names(self) -> list[str]:
        """All files, each with its folder, sorted."""
        return sorted(self._files)

    def load(self, name: str) -> Any:
        """What a JSON file holds."""
        file = self._files[name]
        with file.raw() as opened:
            return _loaded(opened, file.name)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.name = name
        self._archive = archive
        infos = [info for info in archive.infolist() if info.filename.endswith(".json")]
        top = next((info.filename[:-10] for info in infos if PurePosixPath(info.filename).name == "users.json"), "")
        self._infos = {info.filename.removeprefix(top): info for info in infos}

    def names(self) -> list[str]:
        return sorted(self._infos)

    def load(self, name: str) -> Any:
        with archives.open_zip_member(self._archive, self._infos[name], self.name) as opened:
            return _loaded(opened, f"{self.name}/{name}")


@contextmanager
def open_slack_zip(opened: BinaryIO, name: str) -> Iterator[SlackExport]:
    """An export in its zip; nothing is unpacked to the disk."""
    with archives.open_zip_archive(opened, name) as archive:
        yield _Zip(archive, name)


def _loaded(opened: BinaryIO, name: str) -> Any:
    data = opened.read(4 * LONGEST_BYTES + 1)
    where = SourceLocation(file=name)
    if len(data) > 4 * LONGEST_BYTES:
        raise DataError(f"is longer than {4 * LONGEST_BYTES >> 20} MiB", where=where, hint="export fewer days at once")
    try:
        return parse_json(data.decode("utf-8-sig"))
    except ValueError as error:
        what = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise DataError(what, where=where, hint="export it anew, or leave the file out") from error


def people(export: SlackExport) -> dict[str, SlackUser]:
    """Everybody by id."""
    if "users.json" not in export.names():
        hint = "name the export's zip or folder: it holds users.json"
        raise DataError("is no export of Slack", where=SourceLocation(file=export.name or None), hint=hint)
    found: dict[str, SlackUser] = {}
    for user in _objects(export.load("users.json")):
        user_profile = user.get("profile")
        profile: dict[str, Any] = user_profile if isinstance(user_profile, dict) else {}
        names = [profile.get("display_name"), user.get("real_name"), profile.get("real_name"), user.get("name")]
        known = [str(name) for name in names if name]
        others = {str(entry).lower() for entry in (*known, user.get("id"), profile.get("email")) if entry}
        found[str(user.get("id"))] = SlackUser(known[0] if known else str(user.get("id")), frozenset(others))
    return found


def find_user_ids(names: Iterable[str], people: dict[str, SlackUser], file: str) -> frozenset[str]:
    """The ids of people by name, address or id; `DataError` for one that nobody bears."""
    found: set[str] = set()
    for name in names:
        ids = {entry for entry, person in people.items() if name.lower().lstrip("@") in person.others}
        if not ids:
            hint = did_you_mean(name, [person.name for person in people.values()])
            raise DataError(
                f"nobody is called {name!r}", where=SourceLocation(file=file, field="support_team"), hint=hint
            )
        found |= ids
    return frozenset(found)


def list_channels(export: SlackExport, requested: Sequence[str]) -> list[str]:
    """The channels, sorted; `DataError` for a wanted one that is not there."""
    found = sorted({name.split("/")[0] for name in export.names() if name.count("/") == 1})
    for name in requested:
        if name.lstrip("#") not in found:
            where = SourceLocation(file=export.name, field="channels")
            raise DataError(f"there is no channel {name!r}", where=where, hint=did_you_mean(name, found))
    return [name for name in found if not requested or name in {entry.lstrip("#") for entry in requested}]


def read_threads(export: SlackExport, channel: str, broken: list[BrokenRow]) -> tuple[list[list[SlackMessage]], int]:
    """A channel's threads in the order of their first messages, and how many notices stand among them.

    Days that cannot be read are added to `broken`.
    """
    found: dict[str, list[SlackMessage]] = {}
    notices = 0
    for name in (item for item in export.names() if item.startswith(f"{channel}/")):
        try:
            messages = _objects(export.load(name))
        except DataError as error:
            broken.append(BrokenRow(error.where.file or name, 1, error.message, hint=error.hint))
            continue
        for number, message in enumerate(messages, start=1):
            slack_message = _said(message, f"{export.name}/{name}", number)
            if slack_message is None:
                notices += 1
            else:
                found.setdefault(slack_message.thread, []).append(slack_message)
    for thread in found.values():
        thread.sort(key=lambda entry: (_seconds(entry.key), entry.file, entry.number))
    return sorted(found.values(), key=lambda thread: (_seconds(thread[0].key), thread[0].number)), notices


def _said(message: dict[str, Any], file: str, number: int) -> SlackMessage | None:
    text = message.get("text")
    if (message.get("subtype") or "") not in _SPOKEN or not isinstance(text, str) or not text.strip():
        return None
    who = str(message.get("user") or message.get("bot_id") or message.get("username") or "somebody")
    key = str(message.get("ts") or f"{file}:{number}")
    return SlackMessage(who, text, key, str(message.get("thread_ts") or key), file, number)


def _seconds(stamp: str) -> float:
    try:
        return float(stamp)
    except ValueError:
        return 0.0


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def strip_slack_markup(text: str, people: dict[str, SlackUser]) -> str:
    """A message's text without Slack's marks: people and channels by name, links with their words."""
    return html.unescape(_MARK.sub(lambda found: _meant(found[1], found[2] or "", people), text))


def _meant(target: str, words: str, people: dict[str, SlackUser]) -> str:
    if target.startswith("@"):
        return "@" + (people[target[1:]].name if target[1:] in people else words or target[1:])
    if target.startswith("#"):
        return "#" + (words or target[1:])
    if target.startswith("!"):
        return "@" + (words or target[1:]).lstrip("@").partition("^")[0]
    return (
        f"{words} ({target.removeprefix('mailto:')})"
        if words and words not in target
        else target.removeprefix("mailto:")
    )
