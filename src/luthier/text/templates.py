"""A model's chat template: rendered through transformers, byte for byte what `apply_chat_template` would write."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from luthier.core.digest import digest_of
from luthier.core.errors import ModelError, Where

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


class Refused(ModelError):
    """The template itself refuses a conversation, or stumbles over it."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """One model's chat template with everything that it reads beside the conversation."""

    source: str
    """Jinja text, used unless there are tools and `with_tools` is set."""
    with_tools: str | None = None
    constants: Mapping[str, Any]
    """Special tokens by name, and options such as `enable_thinking`."""
    plain: bool = False
    """True when the model carries no template and the plain rendering stands in."""

    def render(self, turns: Turns, tools: Sequence[Mapping[str, Any]] = (), *, prompt: bool = False) -> str:
        """The whole conversation as one text; with `prompt`, ready for the model to answer. May raise `Refused`."""
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
            raise Refused(
                f"the chat template refuses this conversation: {error}",
                where=Where(field="messages"),
                remedy=_remedy(str(error)),
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
) -> Template:
    """The template that a tokenizer carries (or `override`), the date pinned to `today` unless that is None."""
    constants = {**tokenizer.special_tokens_map, **options}
    carried = override if override is not None else tokenizer.chat_template
    if carried is None:
        opening = _adds_bos(tokenizer)
        return Template(source=PLAIN, constants={"joint": "\n", **constants, "opening": opening}, plain=True)
    named = carried if isinstance(carried, Mapping) else {"default": carried}
    if "default" not in named:
        raise ModelError(
            f"the model carries several chat templates ({', '.join(sorted(named))}) and none is called default",
            where=Where(field="chat_template"),
            remedy="pass one of them as template=",
        )
    sources = {name: pinned(source, today) if today else source for name, source in named.items()}
    return Template(source=sources["default"], with_tools=sources.get("tool_use"), constants=constants)


def pinned(source: str, today: date) -> str:
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
