"""Images, sounds and films in turns: each leaves a mark in the text, and its address goes into a column of the row.

The marks and columns are those of ShareGPT's relatives, LLaMA-Factory among them: `<image>` in the text, in the order
of the list `images`; so for `audios` and `videos`. All multimodal rows are carried in this one form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from luthier.chat.messages import Message
from luthier.chat.preference import parse_hh_transcript
from luthier.data.columns.cells import UnusableRowError, from_json

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
    address: str
    """A path, a URL, or the content as a data URL."""

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
    if (address := _address(value, kind)) is None:
        raise UnusableRowError(f"the {kind} has no address", field, "expected a path, a URL, or the content in base64")
    return Medium(kind, address)


def _address(value: Any, kind: str) -> str | None:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return None
    if isinstance(found := value.get("url") or value.get("path"), str):
        return found
    if not isinstance(data := value.get("data"), str):
        return None
    return f"data:{value.get('media_type') or kind + '/' + str(value.get('format') or 'png')};base64,{data}"


def media_of(turns: Any, field: str) -> dict[str, list[str]]:
    """The addresses of all media of a conversation, by column, in order."""
    found: dict[str, list[str]] = {}
    if isinstance(turns, str) and parse_hh_transcript(turns) is not None:
        return found
    value = from_json(turns, field) if isinstance(turns, str) else turns
    for turn in value if isinstance(value, list) else ():
        content = next((turn[key] for key in ("content", "value") if key in turn), None)
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, str) and not is_text(part):
                one = parse_media_part(part, field)
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
