"""Chat templates: the template of a tokenizer, and the forms of messages and tools that it accepts.

Templates are rendered through transformers, so the text equals that of `apply_chat_template` byte for byte. Templates
differ in their input: content as text or as parts, tool arguments as objects or as text, reasoning in a field of its
own or inline.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from luthier.chat.messages import MEDIA_MARK, Media, Message, ToolCall
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.hashing import digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[dict[str, Any]]
"""A conversation as templates read it."""

PINNED_DAY = date(2024, 7, 26)
"""What "today" is for templates that write the date (the day Llama 3.1's own template falls back to), so that the same
conversation makes the same tokens on any day."""

PLAIN = """
{%- if tools %}{{ raise_exception('a model without a chat template cannot be told about tools') }}{% endif %}
{{- bos_token if opening else '' }}
{%- for message in messages %}
    {%- if message.tool_calls is defined %}
        {{- raise_exception('a model without a chat template has no way to write tool calls') }}
    {%- endif %}
    {{- message.content }}
    {%- if message.role == 'assistant' %}
        {{- eos_token }}
    {%- elif (not loop.last or add_generation_prompt) and message.content[-1:] | trim %}
        {{- joint }}
    {%- endif %}
{%- endfor %}"""
"""For base models, which carry no template: the contents one after the other, EOS after each answer, and `joint` (one
line break) after anything else that does not end with white space of its own. BOS first if the tokenizer adds one."""

_DAY = re.compile(r"""strftime_now\(\s*(['"])(.{0,200}?)\1\s*\)""")


class ChatTemplateError(ModelError):
    """The template itself refuses a conversation, or stumbles over it."""


@dataclass(frozen=True, kw_only=True)
class JinjaChatTemplate:
    """One model's chat template with everything that it reads beside the conversation."""

    source: str
    """Jinja text, used unless there are tools and `with_tools` is set."""
    with_tools: str | None = None
    constants: Mapping[str, Any]
    """Special tokens by name, and options such as `enable_thinking`."""
    plain: bool = False
    """True when the model carries no template and the plain rendering stands in."""

    def render(self, turns: Turns, tools: Sequence[Mapping[str, Any]] = (), *, prompt: bool = False) -> str:
        """The whole conversation as one text; with `prompt`, ready for the model to answer. May raise
        `ChatTemplateError`."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        source = self.with_tools if tools and self.with_tools else self.source
        try:
            texts, _ = render_jinja_template(
                [turns],
                tools=[dict(tool) for tool in tools] or None,
                chat_template=source,
                add_generation_prompt=prompt,
                **self.constants,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ChatTemplateError(
                f"the chat template refuses this conversation: {error}",
                where=SourceLocation(field="messages"),
                hint=_remedy(str(error)),
            ) from error
        return str(texts[0])

    @property
    def digest(self) -> str:
        """Names the template and its options: two models with one digest render alike."""
        constants = {name: str(value) for name, value in self.constants.items()}
        return digest_of([self.source, self.with_tools, constants])

    @property
    def undated(self) -> bool:
        """Whether no part of the rendering depends on the machine's clock."""
        return "strftime_now(" not in self.source + (self.with_tools or "")


def template_of(
    tokenizer: PreTrainedTokenizerBase,
    *,
    override: str | None,
    today: date | None,
    options: Mapping[str, Any],
) -> JinjaChatTemplate:
    """The template that a tokenizer carries (or `override`), the date pinned to `today` unless that is None."""
    constants = {**tokenizer.special_tokens_map, **options}
    carried = override if override is not None else tokenizer.chat_template
    if carried is None:
        opening = _adds_bos(tokenizer)
        return JinjaChatTemplate(source=PLAIN, constants={"joint": "\n", **constants, "opening": opening}, plain=True)
    named = carried if isinstance(carried, Mapping) else {"default": carried}
    if "default" not in named:
        raise ModelError(
            f"the model carries several chat templates ({', '.join(sorted(named))}) and none is called default",
            where=SourceLocation(field="chat_template"),
            hint="pass one of them as template=",
        )
    sources = {name: pin_template_date(source, today) if today else source for name, source in named.items()}
    return JinjaChatTemplate(source=sources["default"], with_tools=sources.get("tool_use"), constants=constants)


def pin_template_date(source: str, today: date) -> str:
    """A template whose calls for the current date are replaced by one given day."""

    def written(match: re.Match[str]) -> str:
        return '"' + today.strftime(match[2]).replace('"', '\\"') + '"'

    return _DAY.sub(written, source)


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def _remedy(complaint: str) -> str:
    lowered = complaint.lower()
    if "system" in lowered:
        return "this model takes no system turn (or only a first one): move its text into the first user turn"
    if "alternate" in lowered:
        return "this model needs user and assistant turns in alternation: join neighbouring turns of one role"
    return "change the conversation to what the model's template accepts, or pass another template="


Thinking = Literal["field", "inline", "dropped"]
Arguments = Literal["object", "text", "dropped"]

_ASKED, _ANSWERED, _THOUGHT = "qzvkasked", "qzvkanswered", "qzvkthought"
TOOL_PROBE = {
    "type": "function",
    "function": {
        "name": "qzvkcalled",
        "description": "Looks something up.",
        "parameters": {"type": "object", "properties": {"key": {"type": "string", "description": "What to look up."}}},
    },
}
CALL_PROBE = (
    Message(role="user", content=_ASKED),
    Message(
        role="assistant", tool_calls=(ToolCall(name="qzvkcalled", arguments={"key": "qzvkgiven"}, id="c1a2l3l4x"),)
    ),
)
"""A short conversation that ends with a call of `TOOL_PROBE`."""


@dataclass(frozen=True)
class TemplateProber:
    """Finds out once, with short probes, the form in which a template shows everything that it is given."""

    template: JinjaChatTemplate

    def turns(self, messages: Sequence[Message]) -> Turns:
        """Messages as the dictionaries that the template reads."""
        return [self._turn(message) for message in messages]

    @cached_property
    def parts(self) -> bool:
        """Whether contents are lists of parts (`[{"type": "text", …}]`), as templates of vision models want them."""
        probe = (Message(role="user", content=_ASKED), Message(role="assistant", content=_ANSWERED))
        for parts in (False, True):
            turns = [{"role": message.role, "content": _content(message.content, parts)} for message in probe]
            shown = self._shown(turns)
            if _ASKED in shown and _ANSWERED in shown:
                return parts
        raise ModelError(
            "the chat template cannot be mapped: it shows neither a question nor its answer, whatever form they take",
            where=SourceLocation(field="chat_template"),
            hint="pass another template=, for instance the one of the model's text-only sibling",
        )

    @cached_property
    def thinking(self) -> Thinking:
        """Where the template looks for the reasoning of a turn."""
        user_turn = {"role": "user", "content": _content(_ASKED, self.parts)}
        answered = {"role": "assistant", "content": _content(_ANSWERED, self.parts)}
        if _THOUGHT in self._shown([user_turn, {**answered, **_thought(_THOUGHT)}]):
            return "field"
        inline = {"role": "assistant", "content": _content(join_reasoning_and_answer(_THOUGHT, _ANSWERED), self.parts)}
        return "inline" if _THOUGHT in self._shown([user_turn, inline]) else "dropped"

    @cached_property
    def arguments(self) -> Arguments:
        """The form of a tool call's arguments; "dropped" when the template has no place for calls."""
        user_turn = {"role": "user", "content": _content(_ASKED, self.parts)}
        forms: tuple[Arguments, ...] = ("object", "text")
        for form in forms:
            shown = self._shown([user_turn, self._called(CALL_PROBE[1], form)], with_tool=True)
            if "qzvkgiven" in shown and '\\"qzvkgiven' not in shown:
                return form
        return "dropped"

    def _turn(self, message: Message) -> dict[str, Any]:
        if message.tool_calls:
            return self._called(message, "object" if self.arguments == "dropped" else self.arguments)
        turn: dict[str, Any] = {"role": message.role, "content": self._contents(message)}
        if message.thinking and self.thinking != "inline":
            turn.update(_thought(message.thinking))
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            turn["name"] = message.name
        return turn

    def _called(self, message: Message, form: Arguments) -> dict[str, Any]:
        turn: dict[str, Any] = {"role": message.role, "content": self._contents(message)}
        if message.thinking and self.thinking != "inline":
            turn.update(_thought(message.thinking))
        return {**turn, "tool_calls": [_call(call, form) for call in message.tool_calls]}

    def _contents(self, message: Message) -> Any:
        """The content in the form that the template wants; with media, as parts in their order."""
        text = self._answer_text(message)
        return _interleave(text, message.media) if message.media else _content(text, self.parts)

    def _answer_text(self, message: Message) -> str:
        if message.thinking and self.thinking == "inline":
            return join_reasoning_and_answer(message.thinking, message.content)
        return message.content

    def _shown(self, turns: Turns, *, with_tool: bool = False) -> str:
        try:
            return self.template.render(turns, [TOOL_PROBE] if with_tool else [])
        except ChatTemplateError:
            return ""


def join_reasoning_and_answer(thinking: str, content: str) -> str:
    """Reasoning and answer as one text, the way most reasoning models write them."""
    return f"<think>\n{thinking}\n</think>\n\n{content}"


def _content(text: str, parts: bool) -> Any:
    return [{"type": "text", "text": text}] if parts else text


def _interleave(text: str, media: Sequence[Media]) -> list[dict[str, str]]:
    """Texts and media as parts; a text with as many places as there are media, and perhaps more that are typed ones."""
    texts = text.split(MEDIA_MARK, len(media))
    parts: list[dict[str, str]] = []
    for before, medium in zip(texts, media, strict=False):
        parts += [*_texts_of(before), {"type": medium.kind}]
    return parts + _texts_of(texts[-1])


def _texts_of(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}] if text else []


def _thought(thinking: str) -> dict[str, str]:
    return {"reasoning_content": thinking, "thinking": thinking}


def _call(call: ToolCall, form: Arguments) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False) if form == "text" else call.arguments
    call_json = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return call_json if call.id is None else {**call_json, "id": call.id}
