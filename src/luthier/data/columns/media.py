"""Images, sounds and films in turns: each leaves a mark in the text, and its address goes into a column of the row.

The marks and columns are those of ShareGPT's relatives, LLaMA-Factory among them: `<image>` in the text, in the order
of the list `images`; so for `audios` and `videos`. Every form in which rows come becomes this one, and then, where
media are read, turns that hold what the addresses lead to, with U+FFFC in place of each mark.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import PurePath, PurePosixPath
from typing import Any, NamedTuple

from luthier.chat.messages import MEDIA_MARK, Media, Message
from luthier.chat.preference import REJECTED, parse_hh_transcript
from luthier.data.row import UnusableRowError, from_json

COLUMNS = {"image": "images", "audio": "audios", "video": "videos"}
"""The column of each kind of medium."""
TYPES = {
    "image": "image", "image_url": "image", "input_image": "image",
    "audio": "audio", "audio_url": "audio", "input_audio": "audio",
    "video": "video", "video_url": "video", "input_video": "video",
}  # fmt: skip
"""What parts of messages are called: by OpenAI, Anthropic, Qwen's templates, LLaMA-Factory."""


class Medium(NamedTuple):
    """One image, sound or film of a message."""

    kind: str
    address: str | None
    """A path, a URL, or the content as a data URL; None for a part that stands for the next one of the column."""

    @property
    def mark(self) -> str:
        """What stands in the text in its place."""
        return f"<{self.kind}>"


def parse_media_part(part: Mapping[str, Any], field: str) -> Medium:
    """The medium that a part of a message is; `UnusableRowError` for what is none, or says not where it is."""
    name = part.get("type")
    kind = TYPES.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        known = f"text, {', '.join(TYPES)}"
        raise UnusableRowError(f"a part of type {name!r} cannot be read", field, f"known types: {known}")
    value = next(
        (part[key] for key in (name, kind, f"{kind}_url", "value", "url", "path", "source") if part.get(key)), None
    )
    if value is None and name == kind and set(part) <= {"type", "text", "index", kind}:
        return Medium(kind, None)  # as TRL and `datasets` write them: what is meant stands in the column
    if (address := address_of(value, kind)) is None:
        raise UnusableRowError(f"the {kind} has no address", field, "expected a path, a URL, or the content in base64")
    return Medium(kind, address)


def address_of(value: Any, kind: str) -> str | None:
    """Where a medium is, of what a cell or a part holds; None for what says nothing of it.

    `{bytes, path}`, as `datasets` keeps media in Parquet, has the bytes as base64 by now.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return None
    data = value.get("data") or value.get("bytes") or value.get("base64")
    if isinstance(data, str) and data:
        return f"data:{value.get('media_type') or kind + '/' + str(value.get('format') or 'png')};base64,{data}"
    found = value.get("url") or value.get("path") or value.get("src")
    return found if isinstance(found, str) else None


def media_of(turns: Any, field: str, columns: Collection[str] = ()) -> dict[str, list[str]]:
    """The addresses of all media of a conversation, by column, in order; `columns` are those that the row has."""
    columns = set(columns)
    found: dict[str, list[str]] = {}
    if isinstance(turns, str) and parse_hh_transcript(turns) is not None:
        return found
    value = from_json(turns, field) if isinstance(turns, str) else turns
    for turn in value if isinstance(value, list) else ():
        content = next((turn[key] for key in ("content", "value") if key in turn), None)
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, str) and not is_text(part):
                one = parse_media_part(part, field)
                if one.address is None and not columns & {one.kind, COLUMNS[one.kind]}:
                    hint = "expected a path, a URL, or the content in base64, or a column of them"
                    raise UnusableRowError(f"the {one.kind} has no address", field, hint)
                if one.address is not None:
                    found.setdefault(COLUMNS[one.kind], []).append(one.address)
    return found


def is_text(part: Mapping[str, Any]) -> bool:
    """Whether a part of a message is text."""
    return part.get("type") in (None, "text", "input_text", "output_text")


def count_media(messages: Sequence[Message], meta: Mapping[str, Any]) -> dict[str, int]:
    """How many images, sounds and films a row holds by column: those that both its text and its column speak of."""
    found: dict[str, int] = {}
    for kind, column in COLUMNS.items():
        listed = meta.get(column) or meta.get(kind)
        if listed and any(f"<{kind}>" in message.content for message in messages):
            found[column] = len(listed) if isinstance(listed, list) else 1
    return found


_MARK = re.compile(r"<(image|audio|video)>")


def list_typed_marks(text: str) -> list[str]:
    """What in a text would be taken for a mark at intake."""
    return [match[0] for match in _MARK.finditer(text)]


MEDIA_NAMES = {
    "image": "image", "images": "image", "audio": "audio", "audios": "audio", "video": "video", "videos": "video",
}  # fmt: skip
"""Columns that may hold pictures, sounds or films, whatever else a row has, and which."""
_WORDS = {"image": "picture", "audio": "sound", "video": "film"}


def holds_bytes(value: Any) -> bool:
    """Whether a cell holds the content of a medium, or of several: `{bytes, path}` or a data URL."""
    if isinstance(value, list):
        return any(map(holds_bytes, value))
    if isinstance(value, dict):
        return isinstance(value.get("bytes"), str)
    return isinstance(value, str) and value.startswith(("data:image/", "data:audio/", "data:video/"))


AUDIO_ENDINGS = frozenset({".wav", ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff"})
VIDEO_ENDINGS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"})
PDF_ENDING = ".pdf"
TABLES = frozenset({"metadata.csv", "metadata.jsonl"})
"""Tables beside pictures, sounds and films that say what belongs to each."""
MEDIA_ENDINGS = (
    frozenset({".png", ".jpg", ".jpeg", ".gif", ".webp", ".tif", ".tiff", ".bmp", PDF_ENDING})
    | AUDIO_ENDINGS
    | VIDEO_ENDINGS
)
"""What names of pictures, sounds, films and PDFs end in."""
_PAGE = re.compile(r"(?i)^(.+\.pdf)#page=(\d{1,6})$")


_LONGEST_PATH = 4096


class PageAddress(NamedTuple):
    """The address of a file, and the page of it that is meant, from 1."""

    file: str
    page: int | None = None


def parse_page_address(address: str) -> PageAddress:
    """`scan.pdf#page=3` is the third page of a PDF; any other address has no page."""
    match = _PAGE.match(address) if len(address) < _LONGEST_PATH else None
    return PageAddress(match[1], int(match[2])) if match else PageAddress(address)


def kind_of_media_path(path: PurePath) -> str:
    """What a path is named as: `image` (pages of PDF are pictures), `audio` or `video`."""
    ending = path.suffix.lower()
    return "audio" if ending in AUDIO_ENDINGS else "video" if ending in VIDEO_ENDINGS else "image"


_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def is_media_url(address: str) -> bool:
    """Whether an address is a URL of something that is not on this machine."""
    return _URL.match(address[:40]) is not None and not address.startswith("file://")


def is_media_path(path: PurePath) -> bool:
    """Whether a path is named as a picture, a sound, a film or a PDF is, and nothing of it is hidden."""
    return path.suffix.lower() in MEDIA_ENDINGS and not any(part.startswith(".") for part in path.parts)


def looks_like_media(value: Any) -> bool:
    """Whether a cell holds the content of media, or paths of them."""
    values = value if isinstance(value, list) else [value]
    paths = [address_of(entry, "") for entry in values]
    return holds_bytes(value) or any(
        path is not None and is_media_path(PurePosixPath(parse_page_address(path).file)) for path in paths
    )


def list_addresses(value: Any, kind: str, column: str) -> list[str]:
    """The addresses of the media in a cell: one, a list of several, or none."""
    values = value if isinstance(value, list) else [] if value in (None, "") else [value]
    found = [address_of(entry, kind) for entry in values]
    if None in found:
        hint = "expected a path, a URL, the content in base64, or {bytes, path}"
        raise UnusableRowError(f"the {kind} has no address", column, hint)
    return [address for address in found if address is not None]


def format_marks(value: Any, kind: str, column: str) -> str:
    """What stands in a text for the media of a cell."""
    return f"<{kind}>" * len(list_addresses(value, kind, column))


def put_marks_first(messages: Sequence[Message], addresses: Mapping[str, Sequence[str]]) -> tuple[Message, ...]:
    """Turns without any mark, with marks for these media (by column) before what the user says first; in a turn of
    their own where the user says nothing, as of a sound and its transcript."""
    marks = "".join(f"<{kind}>" * len(addresses.get(column, ())) for kind, column in COLUMNS.items())
    if not marks or any(_MARK.search(message.content) for message in messages):
        return tuple(messages)
    first = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    if first is None and any(message.role == "assistant" for message in messages):  # a sound and its transcript
        answer = next(index for index, message in enumerate(messages) if message.role == "assistant")
        return (*messages[:answer], Message(role="user", content=marks), *messages[answer:])
    if first is None:
        raise UnusableRowError("its columns hold media, and no turn of a user can show them")
    content = f"{marks}\n{messages[first].content}" if messages[first].content else marks
    changed = messages[first].model_copy(update={"content": content})
    return (*messages[:first], changed, *messages[first + 1 :])


def flatten_rejected(meta: Mapping[str, Any], addresses: Mapping[str, list[str]]) -> dict[str, Any]:
    """A row's columns, where the turns of the answer that was not preferred are text with marks.

    What these turns show must be what the preferred side shows (`addresses`): only answers differ, and answers are
    text.
    """
    changed = dict(meta)
    for name in REJECTED:
        value = meta.get(name)
        turns = value.get("messages") if isinstance(value, dict) else value
        if isinstance(value, dict) and turns is None:
            turns = [value]
        if not isinstance(turns, list) or not any(_has_parts(turn) for turn in turns):
            continue
        found = media_of(turns, name, meta)
        if found and found != addresses:
            what = "the two answers stand below other media; both sides of a pair show the same, and answers are text"
            raise UnusableRowError(what, name)
        changed[name] = [_flat_turn(turn, name) for turn in turns]
    return changed


def _has_parts(turn: Any) -> bool:
    return isinstance(turn, dict) and any(isinstance(turn.get(key), list) for key in ("content", "value"))


def _flat_turn(turn: Any, field: str) -> Any:
    if not _has_parts(turn):
        return turn
    key = next(key for key in ("content", "value") if isinstance(turn.get(key), list))
    return {**turn, key: "".join(_flat_part(part, field) for part in turn[key])}


def _flat_part(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise UnusableRowError("expected parts with a type", field)
    return str(part.get("text", part.get("value", ""))) if is_text(part) else parse_media_part(part, field).mark


def outline_media(kind: str, address: str) -> tuple[Media, ...]:
    """A medium of which nothing is known but where it is: for rows that are looked at before media are read."""
    digest = hashlib.sha256(address.encode()).hexdigest()
    known = "image" if kind == "video" else kind
    return (Media.model_validate({"kind": known, "digest": digest, "format": "", "size": 0}),)


Read = Callable[[str, str], tuple[Media, ...]]
"""The media of a kind at an address: one, or the pictures that a film or a PDF is."""


class PlacedMedia(NamedTuple):
    """Turns that hold their media, and the columns that are left."""

    messages: tuple[Message, ...]
    meta: dict[str, Any]


def place_media(messages: Sequence[Message], meta: Mapping[str, Any], read: Read, *, strict: bool) -> PlacedMedia:
    """Turns with what the columns lead to in place of their marks; the columns go.

    Marks and addresses must be as many as each other. Where a row has no such column, marks are what somebody typed,
    and stay text, unless the source holds media (`strict`).
    """
    left = {
        kind: list_addresses(meta.get(column), kind, column) if column in meta else []
        for kind, column in COLUMNS.items()
    }
    marks = [match[1] for message in messages for match in _MARK.finditer(message.content)]
    if not marks or not (strict or any(column in meta for column in COLUMNS.values())):
        return PlacedMedia(tuple(messages), dict(meta))
    for kind, column in COLUMNS.items():
        if (count := marks.count(kind)) != len(left[kind]) and (count or strict or column in meta):
            number, word = len(left[kind]), _WORDS[kind]
            what = f"{count} mark{'s' * (count != 1)} <{kind}> and {number} {word}{'s' * (number != 1)}"
            hint = f"give {column!r} one address for each mark, or set `media: drop` to leave such rows out"
            raise UnusableRowError(what, column, hint)
    waiting = {kind: iter(addresses) for kind, addresses in left.items()}
    placed = tuple(_with_media(message, waiting, read) for message in messages)
    return PlacedMedia(placed, {name: value for name, value in meta.items() if name not in COLUMNS.values()})


def _with_media(message: Message, waiting: Mapping[str, Iterator[str]], read: Read) -> Message:
    found = [match[1] for match in _MARK.finditer(message.content)]
    if not found:
        return message
    media = [read(kind, next(waiting[kind])) for kind in found]
    typed = message.content.replace(MEDIA_MARK, "\N{REPLACEMENT CHARACTER}")
    remaining = iter(media)
    content = _MARK.sub(lambda match: MEDIA_MARK * len(next(remaining)), typed)
    return message.model_copy(update={"content": content, "media": tuple(chain.from_iterable(media))})
