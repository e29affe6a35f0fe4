"""Messages and examples: an example has messages, an origin, a kind, and every unmapped column."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationInfo, field_validator
from pydantic_core import to_json

from luthier.core.component import add_field_descriptions
from luthier.core.hashing import canonical_json, digest_of

Role = Literal["system", "user", "assistant", "tool"]
ExampleKind = Literal["chat", "completion", "label", "preference", "rating", "tool"]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)


class ToolCall(_Plain):
    """A call of a function that an assistant turn makes."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


MEDIA_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
"""What stands in a turn's text where a picture or a sound stands, one character for each."""


class Media(_Plain):
    """A picture or a sound that a turn holds; its bytes stand once in the data set, under their digest."""

    kind: Literal["image", "audio"]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the bytes as they are kept."""
    format: str
    """What the bytes are: `png`, `jpeg`, `webp`, `wav`, `flac`."""
    size: int
    """Bytes."""
    width: int | None = None
    """Pixels of a picture as it is shown."""
    height: int | None = None
    seconds: float | None = None
    """How long a sound is."""
    rate: int | None = None
    """Samples of a sound in a second."""
    level: float | None = None
    """How light a picture is on average, from 0 (black) to 1; how loud a sound is (root mean square), in decibels below
    full scale."""
    fingerprint: str | None = None
    """What it looks or sounds like, in 128 bits as hexadecimal digits: near copies differ in few of them."""

    def describe(self) -> str:
        """What it is in a few words, with the beginning of its digest."""
        word = {"image": "a picture", "audio": "a sound"}[self.kind]
        about = [self.format] if self.format else []
        if self.width and self.height:
            about.append(f"{self.width} x {self.height} pixels")
        if self.seconds is not None:
            about.append(f"{self.seconds:g} s" + (f" at {self.rate} Hz" if self.rate else ""))
        return f"{word} ({', '.join([*about, f'{self.size} bytes'])}), {self.digest[:12]}"


class Message(_Plain):
    """One turn of a conversation."""

    role: Role
    content: str = ""
    """What is said; a turn with pictures or sounds has one U+FFFC for each, where it stands."""
    media: tuple[Media, ...] = ()
    """The pictures and sounds, in the order of their places in `content`."""
    thinking: str = ""
    """Reasoning written before the content of an assistant turn (`reasoning_content` elsewhere)."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    tag: str | None = None
    """What the data calls this turn, by which it can be chosen to be learnt."""
    learn: bool = True
    """False for an assistant turn that the data marks as read only: OpenAI's `weight: 0`, ShareGPT's `train: false`."""

    @field_validator("media")
    @classmethod
    def _has_a_place_each(cls, media: tuple[Media, ...], info: ValidationInfo) -> tuple[Media, ...]:
        if media and (count := info.data.get("content", "").count(MEDIA_MARK)) != len(media):
            raise ValueError(f"{len(media)} pictures and sounds have {count} places (U+FFFC) in `content`")
        return media


class ExampleOrigin(_Plain):
    """Where an example came from: the source's name, the file, and the line (from 1) or key in it."""

    source: str
    file: str
    line: int


class Example(_Plain):
    """One unit of data; `messages` ends with the assistant turn to learn."""

    id: str
    """Digest of the content as it was read; it does not change when operators edit the text."""
    origin: ExampleOrigin
    kind: ExampleKind
    messages: tuple[Message, ...]
    label: str | None = None
    """The class, for `label` examples; the last assistant turn says the same."""
    tools: tuple[dict[str, Any], ...] = ()
    """JSON schemas of the tools on offer."""
    meta: dict[str, Any] = {}
    """Every column of the source that was not mapped."""


def example_id(messages: tuple[Message, ...], label: str | None, meta: Mapping[str, Any], occurrence: int = 0) -> str:
    """16 hexadecimal digits of the content; `occurrence` tells identical rows apart (0 for the first)."""
    texts = {key: str(meta[key]) for key in sorted(meta)}
    plain = [_plain(message) for message in messages]
    if None not in plain:  # what `digest_of` says of texts and whole numbers, several times as quickly
        return hashlib.sha256(to_json([plain, label, texts, occurrence])).hexdigest()[:16]
    content = [message.model_dump(mode="json", exclude_defaults=True, exclude={"media"}) for message in messages]
    for entry, message in zip(content, messages, strict=True):
        if message.media:
            entry["media"] = [media.digest for media in message.media]
    return digest_of([content, label, texts, occurrence])[:16]


def _plain(message: Message) -> dict[str, str] | None:
    """What a message says, by name in order and without what it does not say; None when it holds more than texts."""
    if message.tool_calls or message.tool_call_id is not None or message.tag is not None or not message.learn:
        return None
    if message.media:  # their digests count
        return None
    found = {"content": message.content} if message.content else {}
    if message.name is not None:
        found["name"] = message.name
    found["role"] = message.role
    if message.thinking:
        found["thinking"] = message.thinking
    return found


def prompt_of(example: Example) -> tuple[Message, ...]:
    """What a model is asked: everything before the last assistant turn."""
    return example.messages[:-1] if example.messages[-1].role == "assistant" else example.messages


def answer_of(example: Example) -> str:
    """What the last assistant turn says, its calls included."""
    return render_message_text(example.messages[-1]) if example.messages[-1].role == "assistant" else ""


def user_text_of(example: Example) -> str:
    """What the user wrote, for a classifier or a reader: all turns but the system's, in order."""
    return join_user_turns(prompt_of(example))


def join_user_turns(messages: Iterable[Message]) -> str:
    """Join the texts of all turns except the system's, in order, for a conversation that ends before the answer."""
    return "\n".join(message.content for message in messages if message.role != "system")


def render_message_text(message: Message) -> str:
    """What a turn says: its text, and the calls that it makes as Hermes and Qwen write them (`<tool_call>{…}`)."""
    if not message.tool_calls:
        return message.content
    functions = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    calls = [f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>" for function in functions]
    return "\n".join([*filter(None, [message.content]), *calls])


NOTHING = "N/A"
"""What stands in the user's place when a label's prior is measured (Zhao et al. 2021, contextual calibration)."""


def blank_last_user_turn(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same messages with nothing in the last user turn."""
    last = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    return tuple(
        message.model_copy(update={"content": NOTHING}) if index == last else message
        for index, message in enumerate(messages)
    )


def answer_text_by_label(labels: Iterable[str], examples: Iterable[Example]) -> dict[str, str]:
    """What the assistant says for each label: the most frequent text among the rows that bear it, else its name."""
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    for example in examples:
        if example.label is not None:
            texts[example.label][answer_of(example)] += 1
    return {label: _most_frequent(texts[label]) if texts[label] else label for label in sorted(labels)}


def _most_frequent(texts: Counter[str]) -> str:
    return min(texts, key=lambda text: (-texts[text], text))


def messages_to_openai(
    messages: Iterable[Message], read_media: Callable[[str], bytes] | None = None
) -> list[dict[str, Any]]:
    """Messages as OpenAI's chat API takes them; reasoning is left out.

    With `read_media`, which gives bytes by digest, pictures and sounds stand as parts of content; else the text alone
    with its marks.
    """
    return [_as_openai(message, read_media) for message in messages]


def format_media_parts(
    content: str, media: Iterable[tuple[str, str, str]], read: Callable[[str], bytes]
) -> list[dict[str, Any]]:
    """A turn's text with U+FFFC in the place of each medium (kind, format, digest) as OpenAI's parts of content."""
    texts = content.split(MEDIA_MARK)
    parts: list[dict[str, Any]] = [{"type": "text", "text": texts[0]}] if texts[0] else []
    for (kind, form, digest), text in zip(media, texts[1:], strict=True):
        data = base64.b64encode(read(digest)).decode()
        if kind == "image":
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{data}"}})
        else:
            parts.append({"type": "input_audio", "input_audio": {"data": data, "format": form}})
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def _as_openai(message: Message, read_media: Callable[[str], bytes] | None) -> dict[str, Any]:
    calls = [
        {
            "id": call.id or f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": canonical_json(call.arguments)},
        }
        for number, call in enumerate(message.tool_calls)
    ]
    more = {"tool_calls": calls or None, "tool_call_id": message.tool_call_id, "name": message.name}
    content: str | list[dict[str, Any]] = message.content
    if message.media and read_media is not None:
        media = [(medium.kind, medium.format, medium.digest) for medium in message.media]
        content = format_media_parts(message.content, media, read_media)
    return {
        "role": message.role,
        "content": content,
        **{key: value for key, value in more.items() if value is not None},
    }
