"""Rules of each fine-tuning provider: the form of a row, and published limits of rows and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from luthier.chat.messages import Media, Message
from luthier.chat.openai_examples import (
    LARGEST_BYTES,
    LEAST_ROWS,
    ReadBytes,
    explain_chat_refusal,
    explain_preference_refusal,
    format_chat_example,
    format_preference_example,
)

Record = dict[str, Any]


class ProviderRules(NamedTuple):
    """The limits of one provider, and how it writes a conversation."""

    provider: str
    """As it is called in errors."""
    least_rows: int = 1
    most_rows: int | None = None
    most_bytes: int = LARGEST_BYTES
    """The largest file."""
    takes_tools: bool = True
    takes_weights: bool = True
    """Whether single turns of the assistant can be left out of the loss."""
    alternates: bool = False
    """Whether the user and the assistant must take turns, the user first."""
    takes_pairs: bool = True
    """Whether it tunes on preferences."""
    most_images: int = 0
    """Pictures of one row; 0 where it takes none. Sounds are taken by nobody here."""
    image_formats: frozenset[str] = frozenset({"png", "jpeg", "webp"})
    takes_images_in_pairs: bool = False
    write: Callable[[Record], Record] = dict
    """A row in the provider's own form, from OpenAI's."""

    def explain_refusal(self, example: Mapping[str, Any]) -> str | None:
        """Why the provider would refuse a row in OpenAI's form, or None."""
        if "preferred_output" not in example:
            return explain_chat_refusal(example) or self._explain_turns(example)
        if not self.takes_pairs:
            return f"{self.provider} tunes on no preferences here"
        return explain_preference_refusal(example) or self._explain_turns(example["input"])

    def _explain_turns(self, example: Mapping[str, Any]) -> str | None:
        """Why the provider would refuse what is in no other provider's way, or None."""
        messages: Sequence[Mapping[str, Any]] = example["messages"]
        problem = None
        if not self.takes_tools and (example.get("tools") or any(_is_about_tools(message) for message in messages)):
            problem = f"{self.provider} takes no tools here"
        if not self.takes_weights and any(message.get("weight") == 0 for message in messages):
            problem = f"{self.provider} trains on every turn of the assistant, and one has weight 0"
        if self.alternates and not _take_turns([message["role"] for message in messages]):
            problem = f"at {self.provider} the user begins after a system turn, if any, and the assistant takes turns"
        return problem

    def explain_media_refusal(self, media: Sequence[Media], *, pairs: bool) -> str | None:
        """Why the provider would refuse the pictures and sounds of a row, or None."""
        problem = None
        if any(medium.kind != "image" for medium in media):
            problem = f"{self.provider} takes no sounds"
        elif media and pairs and not self.takes_images_in_pairs:
            problem = f"{self.provider} tunes on preferences of text alone"
        elif len(media) > self.most_images:
            problem = f"{self.provider} takes at most {self.most_images} pictures a row, and there are {len(media)}"
        elif other := next((medium for medium in media if medium.format not in self.image_formats), None):
            problem = f"{self.provider} takes pictures as {', '.join(sorted(self.image_formats))}, not {other.format}"
        elif large := next((medium for medium in media if medium.size > LARGEST_IMAGE_BYTES), None):
            problem = f"{self.provider} takes pictures of at most 10 MB, and one has {large.size:,} bytes"
        return problem

    def explain_file_refusal(self, rows: int, size: int) -> str | None:
        """Why the provider would refuse a file of so many rows and bytes, or None."""
        if rows < self.least_rows:
            return f"{self.provider} takes files of {self.least_rows} rows and more, and there are {rows:,}"
        if self.most_rows is not None and rows > self.most_rows:
            return f"{self.provider} takes at most {self.most_rows:,} rows, and there are {rows:,}"
        if size > self.most_bytes:
            return f"{self.provider} takes at most {self.most_bytes >> 20:,} MB in one file, and this is {size:,} bytes"
        return None


def _take_turns(roles: Sequence[str]) -> bool:
    """Whether after at most one system turn the user begins, and nobody but tools speaks twice."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    apart = all(first != second or first == "tool" for first, second in pairwise(turns))
    return apart and "system" not in turns and turns[:1] == ["user"]


def _is_about_tools(message: Mapping[str, Any]) -> bool:
    return message["role"] == "tool" or bool(message.get("tool_calls"))


def format_provider_example(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    rejected: Any = None,
    read_media: ReadBytes | None = None,
) -> Record:
    """A row in OpenAI's form: with an answer that was not preferred a preference example, else a chat example."""
    if rejected is None:
        return format_chat_example(messages, tools, read_media)
    return format_preference_example(messages, rejected, tools, read_media)


def list_example_messages(example: Mapping[str, Any]) -> list[Record]:
    """All turns of a row in OpenAI's form; of a preference example, both answers."""
    if "preferred_output" not in example:
        return list(example["messages"])
    return [*example["input"]["messages"], *example["preferred_output"], *example["non_preferred_output"]]


def write_bedrock_example(example: Record) -> Record:
    """A row in Amazon Bedrock's conversation form."""
    texts = [(entry["role"], [{"text": entry["content"]}]) for entry in example["messages"]]
    system = [part for role, parts in texts if role == "system" for part in parts]
    return {
        "schemaVersion": "bedrock-conversation-2024",
        **({"system": system} if system else {}),
        "messages": [{"role": role, "content": parts} for role, parts in texts if role != "system"],
    }


def write_gemini_example(example: Record) -> Record:
    """A row as Gemini's `generateContent` holds a conversation."""
    texts = [(entry["role"], [{"text": entry["content"]}]) for entry in example["messages"]]
    system = [part for role, parts in texts if role == "system" for part in parts]
    turns = [("model" if role == "assistant" else role, parts) for role, parts in texts if role != "system"]
    return {
        **({"systemInstruction": {"role": "system", "parts": system}} if system else {}),
        "contents": [{"role": role, "parts": parts} for role, parts in turns],
    }


LARGEST_IMAGE_BYTES = 10_000_000
"""Of one picture, at OpenAI and Together."""
OPENAI = ProviderRules("OpenAI", LEAST_ROWS, most_images=64)
AZURE = ProviderRules("Azure OpenAI", LEAST_ROWS, most_images=64)
TOGETHER = ProviderRules(
    "Together", most_bytes=25 << 30, alternates=True, most_images=10, takes_images_in_pairs=True
)  # fmt: skip
FIREWORKS = ProviderRules(
    "Fireworks", 3, 3_000_000, 150 << 20, most_images=1_000, image_formats=frozenset({"png", "jpeg"})
)  # fmt: skip
BEDROCK = ProviderRules(
    "Amazon Bedrock", 8, 20_000, 10 << 30, takes_tools=False, takes_weights=False, alternates=True, takes_pairs=False,
    write=write_bedrock_example,
)  # fmt: skip
"""Those for Amazon Nova; other models have others."""
VERTEX = ProviderRules(
    "Vertex AI", 1, 1_000_000, 1 << 30, takes_tools=False, takes_weights=False, alternates=True, takes_pairs=False,
    write=write_gemini_example,
)  # fmt: skip
"""Those for text and Gemini."""
