"""Locate each message in a rendered conversation, by a second rendering with invisible marks around user text.

Marks are private-use characters that occur nowhere in the rendering. Removing them must give the rendering back to the
byte, and each pair must have stayed together: then the template treated the marked texts exactly as the plain ones, and
the places of the marks are the places of the texts. Templates that trim texts, split them at `</think>` or look at how
they begin are met by setting the marks further inside, in the order of `DEPTHS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from luthier.chat.messages import MEDIA_MARK, Message, ToolCall
from luthier.chat.template import ChatTemplateError, TemplateProber, Turns
from luthier.core.errors import DataError, ModelError, SourceLocation

Part = Literal["content", "thinking", "call", "name", "tool"]
TextPredicate = Callable[[str], bool]

TOOLS = -1
"""The message number of texts that belong to the tools on offer."""

_FIRST, _LAST = 0xF0000, 0xFFFFD
_THINK = re.compile(r"</?think>")
_PRIVATE = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")
_OPENING = re.compile(r"(?:<[^<>]*>\s*)+")


@dataclass(frozen=True)
class RenderedSegment:
    """A stretch of the rendering that a message (or the tools) supplied; `start` and `end` count characters."""

    message: int
    part: Part
    start: int
    end: int
    given: int = 0
    """Which of the texts of the conversation it is; a text that the template writes twice has two pieces."""


class MarkedSpan(NamedTuple):
    """Character span of a message text that is wrapped in marker characters to find it again in the rendered chat."""

    start: int
    end: int
    lead: str = ""
    trail: str = ""
    reasoning: bool = False
    """Whether it is the reasoning within the content of an assistant turn."""


class SegmentMapping(NamedTuple):
    """What was found in a rendering, and the (message, part) of what was given and is not in it."""

    pieces: tuple[RenderedSegment, ...]
    dropped: tuple[tuple[int, Part], ...]


def cut_whole_text(text: str, role: str) -> list[MarkedSpan]:
    """The text as it is."""
    return [MarkedSpan(0, len(text))] if text else []


def find_stripped_span(text: str, role: str) -> list[MarkedSpan]:
    """Return the span of the text without leading and trailing white space, which many templates trim."""
    start = len(text) - len(text.lstrip())
    return [MarkedSpan(start, len(text.rstrip()))] if text.strip() else []


def split_reasoning_spans(text: str, role: str) -> list[MarkedSpan]:
    """Split an assistant turn into spans, with reasoning separate from the answer."""
    if role != "assistant":
        return find_stripped_span(text, role)
    cuts: list[MarkedSpan] = []
    edge = 0
    for start, end in [match.span() for match in _THINK.finditer(text)] + [(len(text), len(text))]:
        inner = start < len(text)
        cuts += [
            MarkedSpan(edge + cut.start, edge + cut.end, reasoning=inner)
            for cut in find_stripped_span(text[edge:start], role)
        ]
        edge = end
    return cuts


def split_spans_inside_tags(text: str, role: str) -> list[MarkedSpan]:
    """Return the spans of `split_reasoning_spans` without the tags at either end, for templates that look at how a text
    begins and ends."""
    return [_peel(text, cut) for cut in split_reasoning_spans(text, role)]


DEPTHS = (cut_whole_text, find_stripped_span, split_reasoning_spans, split_spans_inside_tags)


class _Given(NamedTuple):
    """A stretch of text between marks, and whose it is."""

    message: int
    part: Part
    cut: MarkedSpan
    text: str

    def is_in(self, shown: str) -> bool:
        inside = shown.removeprefix(self.cut.lead).removesuffix(self.cut.trail)
        return self.text in (shown, inside) or json.dumps(self.text, ensure_ascii=False)[1:-1] in (shown, inside)


@dataclass
class _Marker:
    """Hands out marks, and remembers which text each pair stands for."""

    first: int
    cut: Callable[[str, str], list[MarkedSpan]]
    given: list[_Given] = field(default_factory=list)

    def put(self, text: str, number: int, part: Part, role: str) -> str:
        marked, edge = [], 0
        for cut in self.cut(text, role):
            code = self.first + 2 * len(self.given)
            kind: Part = "thinking" if cut.reasoning and part == "content" else part
            self.given.append(_Given(number, kind, cut, text[cut.start : cut.end]))
            marked += [text[edge : cut.start], chr(code), text[cut.start : cut.end], chr(code + 1)]
            edge = cut.end
        return "".join([*marked, text[edge:]])

    def verbatim(self, mapped: SegmentMapping, text: str) -> bool:
        """Whether each piece is what was given, to the letter or as JSON; marks may survive around something else."""
        return all(self.given[piece.given].is_in(text[piece.start : piece.end]) for piece in mapped.pieces)

    def message(self, message: Message, number: int) -> Message:
        put, role = self.put, message.role
        return message.model_copy(
            update={
                "content": self.content(message, number),
                "thinking": put(message.thinking, number, "thinking", role),
                "tool_calls": tuple(self.call(call, number, role) for call in message.tool_calls),
            }
        )

    def content(self, message: Message, number: int) -> str:
        """The content with marks; the texts between media are marked one by one, as what stands for a medium is the
        template's."""
        texts = message.content.split(MEDIA_MARK) if message.media else [message.content]
        return MEDIA_MARK.join(self.put(text, number, "content", message.role) for text in texts)

    def call(self, call: ToolCall, number: int, role: str) -> ToolCall:
        arguments = _mapped(call.arguments, lambda text: self.put(text, number, "call", role))
        return call.model_copy(update={"name": self.put(call.name, number, "name", role), "arguments": arguments})

    def tool(self, tool: Mapping[str, Any], special: TextPredicate) -> dict[str, Any]:
        marked = _mapped(tool, lambda text: self.put(text, TOOLS, "tool", "system") if special(text) else text)
        return dict(marked)


def map_rendered_segments(
    forms: TemplateProber,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    text: str,
    *,
    prompt: bool,
    special: TextPredicate,
) -> SegmentMapping:
    """The places in `text`, the rendering of `messages`, that messages supplied, in order; `ModelError` if none fits.

    `special` tells whether a string holds a special token: strings of the tools are marked only then.
    """
    _check_names(messages, tools, special)
    tried: list[list[_Given]] = []
    loose: SegmentMapping | None = None
    for cut in DEPTHS:
        marker = _Marker(_free(text, messages), cut)
        turns = forms.turns([marker.message(message, number) for number, message in enumerate(messages)])
        marked_tools = [marker.tool(tool, special) for tool in tools]
        if marker.given in tried:
            continue
        tried.append(marker.given)
        segment_mapping = _found(forms, turns, marked_tools, marker, text, prompt)
        if segment_mapping is not None and marker.verbatim(segment_mapping, text):
            return segment_mapping
        loose = loose or segment_mapping
    if loose is not None:
        return loose
    raise ModelError(
        "the chat template cannot be mapped: it changes what it writes when the texts of this conversation change, "
        "so what belongs to which message is not certain",
        where=SourceLocation(field="chat_template"),
        hint="pass another template=, or take out of the texts the tags that the template looks for",
    )


def _found(
    forms: TemplateProber, turns: Turns, tools: Sequence[Mapping[str, Any]], marker: _Marker, text: str, prompt: bool
) -> SegmentMapping | None:
    if not marker.given:
        return SegmentMapping((), ())
    try:
        marked = forms.template.render(turns, tools, prompt=prompt)
    except ChatTemplateError:
        return None
    pattern = re.compile(f"[{chr(marker.first)}-{chr(marker.first + 2 * len(marker.given) - 1)}]")
    positions = _pairs(pattern.finditer(marked), marker.first)
    if positions is None or pattern.sub("", marked) != text:
        return None
    pieces = sorted((_piece(marker, position, text) for position in positions), key=lambda piece: piece.start)
    missing = sorted(set(range(len(marker.given))) - {number for number, _, _ in positions})
    dropped = dict.fromkeys(marker.given[number][:2] for number in missing)
    return SegmentMapping(tuple(pieces), tuple(dropped))


def _pairs(marks: Iterator[re.Match[str]], first: int) -> list[tuple[int, int, int]] | None:
    """(text, start, end) of each pair of marks, in characters of the unmarked rendering; None if a pair is broken."""
    opened: dict[int, int] = {}
    pairs: list[tuple[int, int, int]] = []
    for removed, mark in enumerate(marks):
        number, closes = divmod(ord(mark[0]) - first, 2)
        if closes != (number in opened):
            return None
        if closes:
            pairs.append((number, opened.pop(number), mark.start() - removed))
        else:
            opened[number] = mark.start() - removed
    return None if opened else pairs


def _piece(marker: _Marker, position: tuple[int, int, int], text: str) -> RenderedSegment:
    given, start, end = position
    number, part, cut, _ = marker.given[given]
    if cut.lead and text[:start].endswith(cut.lead):
        start -= len(cut.lead)
    if cut.trail and text.startswith(cut.trail, end):
        end += len(cut.trail)
    return RenderedSegment(number, part, start, end, given)


def _peel(text: str, cut: MarkedSpan) -> MarkedSpan:
    inside = text[cut.start : cut.end]
    lead = match[0] if (match := _OPENING.match(inside)) else ""
    trail = inside[_closing(inside, len(lead)) :]
    if len(lead) + len(trail) >= len(inside):
        return cut
    return MarkedSpan(cut.start + len(lead), cut.end - len(trail), lead, trail, cut.reasoning)


def _closing(text: str, lowest: int) -> int:
    """Where the tags begin, with the white space before each, that end a text: one look at each character."""
    found = len(text)
    while found > lowest and text[found - 1] == ">":
        opens = text.rfind("<", lowest, found)
        if opens < 0 or ">" in text[opens : found - 1]:
            break
        found = opens
        while found > lowest and text[found - 1].isspace():
            found -= 1
    return found


def _free(text: str, messages: Sequence[Message]) -> int:
    """The first code of a run of private-use characters, two for each text, of which none occurs in the rendering."""
    required = 2 * sum(_texts(message) for message in messages) + 2048
    edge = _FIRST
    for used in [*sorted(set(map(ord, _PRIVATE.findall(text)))), _LAST + 1]:
        if used - edge >= required:
            return edge
        edge = used + 1
    raise DataError("the conversation is too long, or its text uses nearly all private-use characters of Unicode")


def _texts(message: Message) -> int:
    """No fewer than the number of stretches that a message is marked in."""
    tags = message.content.count("think>") + message.thinking.count("think>")
    return 3 + tags + len(message.media) + sum(2 + _leaves(call.arguments) for call in message.tool_calls)


def _leaves(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(_leaves(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_leaves(item) for item in value)
    return 1 + value.count("think>") if isinstance(value, str) else 0


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def _check_names(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], special: TextPredicate) -> None:
    """Refuses special tokens in identifiers, which templates compare and which therefore cannot be marked."""
    for message in messages:
        named = [message.name, message.tool_call_id, *(call.id for call in message.tool_calls)]
        keys = [key for call in message.tool_calls for key in _keys(call.arguments)]
        _refuse([name for name in [*named, *keys] if name and special(name)], "messages")
    _refuse([key for tool in tools for key in _keys(tool) if special(key)], "tools")


def _refuse(names: Sequence[str], field: str) -> None:
    if names:
        raise DataError(
            f"the name {names[0]!r} holds a special token of the model",
            where=SourceLocation(field=field),
            hint="rename it; special tokens are kept as text in contents and argument values, not in names",
        )


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (str(key) for key in value)
        for item in value.values():
            yield from _keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _keys(item)
